"""What each repair of `PaperTDN` costs and mends: errors after the same number of steps, and the checks of `tdn check`.

    nice -n 5 python benchmarks/paper_fixes.py --steps 400

Every row is the published network (products exact, so that only the named option differs) with one option more:
L = 1, 64 channels, 3 layers, one thread, one seed; `published` has the fits as well. Checks run in float64 on the
trained networks; `breaks` lists those that are beyond their limits. One seed tells no small differences of errors
apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from paper_training import SMALL, run_all

from tdn import load_model
from tdn.checks import run_checks

RESULTS = Path(__file__).parent / "results"
EXTENSIVE: dict[str, Any] = {"energy": "extensive"}
# Option by option; the last has all of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "exact products": {"products": "exact"},
    "smooth envelope": {"products": "exact", "envelope": True},
    "natural parity": {"products": "exact", "parity": "natural"},
    "no truncation": {"products": "exact", "max_neighbors": None},
    "extensive energy": {"products": "exact", **EXTENSIVE},
    "lone atoms kept": {"products": "exact", **EXTENSIVE, "lone_atoms": "kept"},
    "conservative forces": {"products": "exact", "forces": "conservative"},
    "all repairs": {
        **{"products": "exact", "parity": "natural", **EXTENSIVE, "lone_atoms": "kept", "envelope": True},
        **{"max_neighbors": None, "forces": "conservative"},
    },
}


def broken_checks(path: Path) -> dict[str, Any]:
    """Names of the checks that are beyond their limits, in float64."""
    results = run_checks(load_model(path).double(), quick=True, dtypes=(torch.float64,))
    return {
        "breaks": [result.name.removesuffix(" float64") for result in results if not result.within_limit],
        "checks": len(results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", type=Path, default=RESULTS / "paper_fixes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [(name, {**SMALL, "lmax": 1, **VARIANTS[name]}, 0) for name in arguments.variants]
    command = f"python benchmarks/paper_fixes.py --steps {arguments.steps}"
    runs = run_all(jobs, arguments.steps, arguments.json, command, broken_checks)
    for name, run in runs.items():
        print(f"{name}: {', '.join(run['breaks']) or 'nothing'}")


if __name__ == "__main__":
    main()
