"""The energy that velocity Verlet conserves: the interpolated shadow Hamiltonian.

Engle, Skeel, Drees, J. Comput. Phys. 206 (2005) 432, doi:10.1016/j.jcp.2004.12.009.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tdn.errors import ConfigError

# Central difference of order 8, for the steps 1 to 4 on either side.
DIFFERENCE = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
REACH = len(DIFFERENCE)

Array = NDArray[np.float64]


def shadow_energies(energies: Array, positions: Array, momenta: Array, forces: Array, timestep: float) -> Array:
    """Total energy up to `O(h²)` in the time step `h`, which velocity Verlet conserves up to `O(h⁸)`.

    The total energy of such a trajectory oscillates by `O(h²)`, and a drift much smaller than that shows only after
    long; here it shows at once. With `d/dt` a central difference of order 8 over the steps,
    `H = 1/2 (sum p dq/dt - sum q dp/dt - dβ/dt)`, `dβ/dt = -2V - sum q F` summed up by the trapezoidal rule.

    Args:
        energies: Potential energy `V` after every step, eV, `[k]`.
        positions: `q`, never wrapped into a cell, Å, `[k, n, 3]`.
        momenta: `p` of the same moments as `q`, ASE's units, `[k, n, 3]`.
        forces: `F`, eV/Å, `[k, n, 3]`.
        timestep: ASE's units.

    Returns:
        eV, `[k - 8]`: of all moments but the first four and the last four.

    Raises:
        ConfigError: For fewer than nine moments.
    """
    if len(energies) <= 2 * REACH:
        raise ConfigError(f"The shadow energy needs at least {2 * REACH + 1} moments; got {len(energies)}.")
    # Neither shift changes the result but for rounding.
    potential, places = energies - energies[0], positions - positions[0].mean(0)
    rate = -2 * potential - _dot(places, forces)
    beta = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2)]) * timestep
    inner = slice(REACH, -REACH)
    twice = _dot(momenta[inner], _difference(places)) - _dot(places[inner], _difference(momenta)) - _difference(beta)
    return energies[0] + twice / (2 * timestep)


def _dot(a: Array, b: Array) -> Array:
    return np.einsum("kni,kni->k", a, b)


def _difference(values: Array) -> Array:
    """Derivative times the time step, at all moments that have four others on either side."""
    count = len(values) - REACH
    return sum(
        (c * (values[REACH + k : count + k] - values[REACH - k : count - k]) for k, c in enumerate(DIFFERENCE, 1)),
        start=np.zeros_like(values[REACH:-REACH]),
    )
