"""`PaperTDN` with fitted factors against its exact twins and the flagship, on the shipped molecules, some seeds each.

    nice -n 5 python benchmarks/paper_twins.py --steps 1200 --seeds 3

A run for every variant and seed, resumed where the JSON ends: small networks (64 channels, 3 layers, 64 Gaussians), the
same number of steps of 8 molecules, one thread. `cp` has the fits of rank 7 L², `exact` exact factors of the same
tensor, `cg` exact Clebsch-Gordan tensors ("w/o CP"), `cg_paths` a weight for every path ("w/o CP+PS"). The flagship
`TDN` has its own size and training settings. So few steps compare the variants; none is trained to its end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from paper_training import SMALL, equivariance_error, run_all

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lmax", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", help="beginnings of names, all by default")
    parser.add_argument("--json", type=Path, default=RESULTS / "paper_twins.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    variants = {
        f"{products} L={lmax}": {**SMALL, "lmax": lmax, "products": products}
        for products in ("cp", "exact", "cg_paths", "cg")
        for lmax in arguments.lmax
    }
    variants["TDN"] = {"architecture": "TDN"}
    chosen = {k: v for k, v in variants.items() if k.startswith(tuple(arguments.variants or [""]))}
    jobs = [(name, model, seed) for seed in range(arguments.seeds) for name, model in chosen.items()]
    command = f"python benchmarks/paper_twins.py --steps {arguments.steps} --seeds {arguments.seeds}"
    run_all(jobs, arguments.steps, arguments.json, command, equivariance_error)


if __name__ == "__main__":
    main()
