"""Memory of a molecular-dynamics step of large periodic boxes: the whole process, on one CPU core.

    python benchmarks/large.py

Water at its density, an untrained network of default size in float32, ASE's velocity Verlet with `TDNCalculator`. Every
size runs in a process of its own; its peak resident memory includes Python, PyTorch and the neighbour list.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import write_result

RESULTS = Path(__file__).parent / "results"
LIMIT_GIB = 24.0


def step(atoms: int) -> dict[str, float]:
    """What one step costs, in this process."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    from tdn import Potential, TDNCalculator, TDNConfig
    from tdn.bench.systems import water_of_size
    from tdn.bench.worker import peak_mib

    torch.manual_seed(0)
    structure = water_of_size(atoms)
    system = structure.to_ase()
    system.calc = TDNCalculator(Potential(TDNConfig(), {1: -13.6, 8: -2042.0}), device="cpu")
    system.get_forces()  # the first evaluation also builds the neighbour list, and compiles the kernel if it must
    start = time.perf_counter()
    VelocityVerlet(system, 0.5 * units.fs).run(1)
    seconds = time.perf_counter() - start
    edges = system.calc.neighbors.graph(structure).num_edges
    return {
        "atoms": len(system),
        "neighbors_an_atom": round(edges / len(system), 1),
        "peak_gib": round(peak_mib() / 1024, 3),
        "step_s": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2304, 5184, 10080, 20160])
    parser.add_argument("--json", type=Path, default=RESULTS / "large.json")
    parser.add_argument("--one", type=int, help="Only this size, in this process.")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(step(arguments.one)))
        return
    rows = []
    for size in arguments.sizes:
        run = subprocess.run([sys.executable, __file__, "--one", str(size)], check=True, capture_output=True, text=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    passed = all(row["peak_gib"] <= LIMIT_GIB for row in rows)
    result = {
        "model": "TDNConfig(), untrained, float32, seed 0",
        "limit_gib": LIMIT_GIB,
        "passed": passed,
        "sizes": rows,
    }
    write_result(arguments.json, "python benchmarks/large.py", result, threads=1)


if __name__ == "__main__":
    main()
