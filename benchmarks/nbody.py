"""Rank against error and equivariance error on n bodies: `tdn reproduce nbody`, kept with its picture.

    nice -n 5 python benchmarks/nbody.py --output FOLDER

About 15 minutes on one free core; what FOLDER holds already is not run again. The network is the small one of
`--quick`, trained for longer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import write_result

from tdn.reproduce.nbody import describe, read_config, reproduce_nbody
from tdn.reproduce.nbody_figure import draw
from tdn.training.logs import ConsoleReporter

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "nbody.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--json", type=Path, default=RESULTS / "nbody.json")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = read_config([f"epochs={arguments.epochs}"], quick=True)
    content = describe(reproduce_nbody(arguments.output, config, device="cpu", reporter=ConsoleReporter()))
    command = f"python benchmarks/nbody.py --output FOLDER --epochs {arguments.epochs}"
    write_result(arguments.json, command, content)
    draw(content, arguments.figure)


if __name__ == "__main__":
    main()
