"""The physics contract of every potential, as named checks with a measured number and a limit.

Each check takes a potential and structures and returns one `CheckResult`; `run_checks` runs all of them. Energies
are compared *above reference* (without the reference energies of isolated atoms), whose thousands of eV would hide
an error, and relative to a **spread**: the standard deviation of the energy above reference over copies of a structure
whose coordinates are displaced by normal random numbers of 0.1 Å. An invariance error of 1e-5 of the spread is thus
1e-5 of what the potential says about thermal motion. Invariances, derivatives and dynamics are measured in float64,
the invariances in float32 as well.
"""

from tdn.checks.contract import check_compiled, run_checks
from tdn.checks.measure import CheckResult

__all__ = ["CheckResult", "check_compiled", "run_checks"]
