"""The paper's comparison of fully connected tensor products (arXiv 2507.01131, figure 3), one thread.

    python benchmarks/tensor_product.py

L = 1..6, inference, irreps `U x (0e + ... + Le)` times `1 x (0e + ... + Le)`. e3nn's `FullyConnectedTensorProduct` has
one matrix of weights a path. Ours share it, which is **less work**: `uvw` has one matrix for all paths; `uvu`, what the
paper's network uses, one weight a channel. Equal work, on published configurations: `tdn bench product`.

Times are those of the processor on one thread, which other jobs on the machine do not count in, though they slow it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from common import interleaved_times, write_result
from e3nn import o3
from torch import Tensor

from tdn.plug import CPFullyConnectedTensorProduct, CPTensorProduct
from tdn.plug.irreps import Irreps, couplings_of

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "tensor-product.png"
TARGETS = {1: 4.0, 2: 4.8, 3: 15.0, 4: 26.7, 5: 47.6, 6: 83.6}  # figure 3 of the paper, on a GPU


def even(channels: int, lmax: int) -> str:
    return "+".join(f"{channels}x{l}e" for l in range(lmax + 1))


def paths(in1: Irreps, in2: Irreps, out: Irreps, mode: str) -> list[tuple[int, int, int, str, bool]]:
    """Every path into the given outputs."""
    return [
        (i, j, k, mode, True)
        for i, a in enumerate(in1)
        for j, b in enumerate(in2)
        for k, c in enumerate(out)
        if c.ir in couplings_of(a.ir, b.ir) and (mode == "uvw" or a.mul == c.mul)
    ]


def shared_row(lmax: int, channels: int, batch: int, rounds: int) -> dict[str, Any]:
    in1, in2 = even(channels, lmax), even(1, lmax)
    theirs = o3.FullyConnectedTensorProduct(in1, in2, in1)
    instructions = paths(Irreps(in1), Irreps(in2), Irreps(in1), "uvu")
    layers: dict[str, Callable[..., Tensor]] = {"e3nn": theirs}
    for layout in ("mul_ir", "ir_mul"):
        layers[f"uvu {layout}"] = CPTensorProduct(in1, in2, in1, instructions, share_paths=True, layout=layout)
        layers[f"uvw {layout}"] = CPFullyConnectedTensorProduct(in1, in2, in1, share_paths=True, layout=layout)
    layers["uvu low-rank"] = CPTensorProduct(in1, in2, in1, instructions, share_paths=True, kernel="low-rank")
    layers["per path"] = CPFullyConnectedTensorProduct(in1, in2, in1)
    x, y = torch.randn(batch, Irreps(in1).dim), torch.randn(batch, Irreps(in2).dim)
    with torch.no_grad():
        functions = {n: lambda layer=layer: layer(x, y) for n, layer in layers.items()}
        times = interleaved_times(functions, rounds, time.process_time)
    rows = {
        name: {"median_ms": round(float(np.median(values)), 4),
               "times_e3nn": round(float(np.median(times["e3nn"] / values)), 2)} for name, values in times.items()
    }  # fmt: skip
    d = (lmax + 1) ** 2
    work = {  # multiply-adds a sample of the mixing of channels, which dominates e3nn's product
        "e3nn": channels**2 * sum(2 * l3 + 1 for _, _, l3, *_ in instructions), "uvw": channels**2 * d,
        "uvu": channels * d * d,
    }  # fmt: skip
    return {"lmax": lmax, "channels": channels, "batch": batch, "paths": len(instructions), "target": TARGETS[lmax],
            "multiply_adds": work, "times": rows}  # fmt: skip


def exponents(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Slopes of log time against log(L + 1), by layer."""
    rows = list(rows)
    if len(rows) < 3:
        return {}
    degrees = np.log([row["lmax"] + 1 for row in rows])
    return {
        name: round(float(np.polyfit(degrees, np.log([r["times"][name]["median_ms"] for r in rows]), 1)[0]), 2)
        for name in rows[0]["times"]
    }


def draw(rows: list[dict[str, Any]], slopes: dict[str, float], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    labels = {"e3nn": "e3nn, a matrix a path", "per path": "ours, a matrix a path", "uvw mul_ir": "ours, one matrix",
              "uvu ir_mul": "ours, one weight a channel"}  # fmt: skip
    for name, label in labels.items():
        times = [row["times"][name]["median_ms"] for row in rows]
        slope = f", slope {slopes[name]:.1f}" if name in slopes else ""
        axes.loglog([row["lmax"] + 1 for row in rows], times, "o-", label=label + slope)
    axes.set_xticks([row["lmax"] + 1 for row in rows], [str(row["lmax"]) for row in rows])
    axes.minorticks_off()
    axes.set_xlabel("L (axis: log of L + 1)")
    axes.set_ylabel(f"ms, {rows[0]['batch']} samples, {rows[0]['channels']} channels")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmax", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--channels", type=int, default=256, help="multiplicity")
    parser.add_argument("--batch", type=int, default=64, help="samples")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--json", type=Path, default=RESULTS / "tensor_product.json")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    rows = []
    for lmax in arguments.lmax:
        rows.append(shared_row(lmax, arguments.channels, arguments.batch, arguments.rounds))
        times = ", ".join(f"{n} {v['median_ms']:.2f} ms (x{v['times_e3nn']:.1f})" for n, v in rows[-1]["times"].items())
        print(f"L={lmax} target x{TARGETS[lmax]}: {times}", flush=True)
    slopes = exponents(rows)
    print("exponents in L + 1:", slopes)
    draw(rows, slopes, arguments.figure)
    options = f"--channels {arguments.channels} --batch {arguments.batch} --dtype {arguments.dtype}"
    content = {"dtype": arguments.dtype, "seed": 0, "shared": rows, "exponents": slopes}
    write_result(arguments.json, f"python benchmarks/tensor_product.py {options}", content)


if __name__ == "__main__":
    main()
