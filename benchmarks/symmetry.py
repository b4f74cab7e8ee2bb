"""The physics contract of a model trained for a minute on the molecules that ship with the package.

    python benchmarks/symmetry.py

Every line of `tdn check`: rotations, reflections and the other invariances in float32 and float64, derivatives, limits,
conservation of energy.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch
from common import train_on_organics, write_result

from tdn import load_model
from tdn.checks import run_checks
from tdn.models.compiled import compiler_available

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-time", default="60s")
    parser.add_argument("--json", type=Path, default=RESULTS / "symmetry.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = train_on_organics(Path(folder), arguments.max_time)
        checks = run_checks(load_model(result.model_path), compiled=compiler_available())
    command = f"python benchmarks/symmetry.py --max-time {arguments.max_time}"
    content = {
        "steps": result.steps,
        "seed": 0,
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    write_result(arguments.json, command, content)
    for check in checks:
        print(f"{check.name}: {check.measured:.2g} (limit {check.limit:.2g} {check.unit})")
    if not all(check.passed for check in checks):
        raise SystemExit("a check failed")


if __name__ == "__main__":
    main()
