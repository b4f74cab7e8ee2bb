"""Our tensor products against e3nn's, one thread: path-shared products, and the same map with per-path weights.

    flock /tmp/bench.lock python benchmarks/tensor_product.py

*shared*: the paper's comparison (arXiv 2507.01131, figure 3), L = 1..6, inference, irreps `U x (0e + ... + Le)` times
`1 x (0e + ... + Le)`. e3nn's `FullyConnectedTensorProduct` has one matrix of weights a path. Ours share it, which is
**less work**: `uvw` has one matrix for all paths; `uvu`, what the paper's network uses, one weight a channel.
*same*: the same map, weights and outputs, on configurations that other libraries publish and on those of the paper
(T1..T6, uvu), forward, with backward, and with the double backward of force training.

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
from common import interleaved_times, summarise, write_result
from e3nn import o3
from torch import Tensor, nn

from tdn.plug import CPFullyConnectedTensorProduct, CPTensorProduct
from tdn.plug.irreps import Irreps, couplings_of

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "tensor-product.png"
TARGETS = {1: 4.0, 2: 4.8, 3: 15.0, 4: 26.7, 5: 47.6, 6: 83.6}  # figure 3 of the paper, on a GPU
KINDS = ("forward", "backward", "double backward")
_NEQUIP = "{0}x0o+{0}x0e+{0}x1o+{0}x1e"
_SEVENNET = "128x0e+64x1e+32x2e+32x3e"
_DIFFDOCK = "10x1o+10x1e+48x0e+48x0o"
_TETRIS = "1x0e+1x1o+1x2e+1x3o"
# Number, name, irreps of the inputs, irreps that the output may have, mode. Sources: OpenEquivariance, FlashTP.
CASES: list[tuple[str, str, str, str, str]] = [
    ("1 mace-large", "128x0e+128x1o+128x2e", "1x0e+1x1o+1x2e+1x3o", "128x0e+128x1o+128x2e+128x3o", "uvu"),
    ("2 mace-medium", "128x0e+128x1o", "1x0e+1x1o+1x2e+1x3o", "128x0e+128x1o+128x2e", "uvu"),
    ("3 nequip-lips", _NEQUIP.format(32) + "+32x2o+32x2e", "0e+1o+2e", "", "uvu"),
    ("4 nequip-revmd17-aspirin", _NEQUIP.format(64), "0e+1o", "", "uvu"),
    ("5 nequip-revmd17-toluene", _NEQUIP.format(64) + "+64x2o+64x2e", "0e+1o+2e", "", "uvu"),
    ("6 nequip-revmd17-benzene", _NEQUIP.format(64) + "+64x2o+64x2e+64x3o+64x3e", "0e+1o+2e+3o", "", "uvu"),
    ("7 nequip-water", _NEQUIP.format(32), "0e+1o", "", "uvu"),
    ("8 sevennet-l3i5", _SEVENNET, "1x0e+1x1e+1x2e+1x3e", "", "uvu"),
    ("9 diffdock-l1", _DIFFDOCK, "1x0e+1x1o", "", "uvw"),
    ("9 diffdock-l2", _DIFFDOCK, "1x0e+1x1o+1x2e", "", "uvw"),
    ("10 tetris-poly-1", _TETRIS, _TETRIS, "64x0e+24x1e+24x1o+16x2e+16x2o", "uvw"),
]


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


def separate(in1: Irreps, in2: Irreps, kept: Irreps) -> tuple[Irreps, list[tuple[int, int, int, str, bool]]]:
    """`uvu` paths into the irreps that `kept` has, an output entry each, as MACE, NequIP and SevenNet have them."""
    wanted = {entry.ir for entry in kept}
    found = [
        (i, j, (a.mul, c))
        for i, a in enumerate(in1)
        for j, b in enumerate(in2)
        for c in couplings_of(a.ir, b.ir)
        if c in wanted
    ]
    out, place, _ = Irreps([entry for *_, entry in found]).sort()
    return out, sorted(((i, j, place[n], "uvu", True) for n, (i, j, _) in enumerate(found)), key=lambda p: p[2])


def pair(name: str, in1: str, in2: str, kept: str, mode: str) -> tuple[nn.Module, nn.Module]:
    """e3nn's and our layer of a case; weights come from outside, one set a sample, but in tetris."""
    first, second, target = Irreps(in1), Irreps(in2), Irreps(kept or in1)
    if mode == "uvu" and not name.startswith("T"):
        out, instructions = separate(first, second, target)
    else:
        out, instructions = target, paths(first, second, target, mode)
    options: dict[str, Any] = {"shared_weights": name.startswith("10 "), "internal_weights": False}
    arguments = (str(first), str(second), str(out), instructions)
    return o3.TensorProduct(*arguments, **options), CPTensorProduct(*arguments, **options)


def passes(layer: Callable[..., Tensor], x: Tensor, y: Tensor, weight: Tensor) -> dict[str, Callable[[], object]]:
    """The three kinds of evaluation."""

    def forward() -> object:
        with torch.no_grad():
            return layer(x, y, weight)

    def backward() -> object:
        return torch.autograd.grad(layer(x, y, weight).square().sum(), [x, y, weight])

    def double_backward() -> object:
        energy = layer(x, y, weight).square().sum()
        (forces,) = torch.autograd.grad(energy, y, create_graph=True)
        return torch.autograd.grad(energy + forces.square().sum(), [x, weight])

    return {"forward": forward, "backward": backward, "double backward": double_backward}


def same_work(case: tuple[str, str, str, str, str], elements: int, rounds: int, compiled: bool) -> dict[str, Any]:
    theirs, ours = pair(*case)
    sizes = [Irreps(str(layer)).dim for layer in (ours.irreps_in1, ours.irreps_in2, ours.irreps_out)]
    shared = ours.shared_weights
    batch = int(np.clip(elements // (sizes[0] + sizes[2] + (0 if shared else ours.weight_numel)), 8, 4000))
    x, y = (torch.randn(batch, size, requires_grad=True) for size in sizes[:2])
    weight = torch.randn(*(() if shared else (batch,)), ours.weight_numel, requires_grad=True)
    with torch.no_grad():
        wanted = theirs(x, y, weight)
        difference = (ours(x, y, weight) - wanted).abs().max() / wanted.abs().max()
    row: dict[str, Any] = {"case": case[0], "in1": case[1], "in2": case[2], "out": str(ours.irreps_out),
                           "mode": case[4], "batch": batch, "weights": ours.weight_numel,
                           "largest_difference": float(difference)}  # fmt: skip
    layers: dict[str, Callable[..., Tensor]] = {"ours": ours, "e3nn": theirs}
    if compiled:
        layers |= {"ours compiled": torch.compile(ours), "e3nn compiled": torch.compile(theirs)}
    for kind in KINDS:
        # PyTorch's compiler does not differentiate twice.
        taken = {k: v for k, v in layers.items() if kind != "double backward" or "compiled" not in k}
        functions = {name: passes(layer, x, y, weight)[kind] for name, layer in taken.items()}
        row[kind] = summarise(interleaved_times(functions, rounds, time.process_time), "ours")
    return row


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


def times_of(row: dict[str, dict[str, float]], ratio: str) -> str:
    return ", ".join(f"{name} {value['median_ms']:.2f} ms (x{value[ratio]:.2f})" for name, value in row.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["shared", "same"], nargs="+", default=["shared", "same"])
    parser.add_argument("--lmax", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--channels", type=int, default=256, help="of the shared part and of T1..T6")
    parser.add_argument("--batch", type=int, default=64, help="samples of the shared part")
    parser.add_argument("--elements", type=int, default=1_500_000, help="numbers in x, weights and output, same part")
    parser.add_argument("--cases", nargs="*", help="beginnings of the names of cases, all by default")
    parser.add_argument("--compiled", nargs="*", default=["2 ", "4 ", "T1", "T2"], help="cases to compile as well")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--json", type=Path, default=RESULTS / "tensor_product.json")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    content: dict[str, Any] = {"dtype": arguments.dtype, "seed": 0}
    if "shared" in arguments.part:
        rows = []
        for lmax in arguments.lmax:
            rows.append(shared_row(lmax, arguments.channels, arguments.batch, arguments.rounds))
            times = ", ".join(
                f"{n} {v['median_ms']:.2f} ms (x{v['times_e3nn']:.1f})" for n, v in rows[-1]["times"].items()
            )
            print(f"L={lmax} target x{TARGETS[lmax]}: {times}", flush=True)
        content |= {"shared": rows, "exponents": exponents(rows)}
        print("exponents in L + 1:", content["exponents"])
        draw(rows, content["exponents"], arguments.figure)
    if "same" in arguments.part:
        chosen = [*CASES, *((f"T{l}", even(arguments.channels, l), even(1, l), "", "uvu") for l in arguments.lmax)]
        if arguments.cases:
            chosen = [case for case in chosen if case[0].startswith(tuple(arguments.cases))]
        content["same"] = []
        for case in chosen:
            compiled = bool(arguments.compiled) and case[0].startswith(tuple(arguments.compiled))
            row = same_work(case, arguments.elements, arguments.rounds, compiled)
            content["same"].append(row)
            kinds = "; ".join(
                f"{kind} "
                + ", ".join(f"{n} {v['median_ms']:.2f} (x{v['ratio_to_ours']:.2f})" for n, v in row[kind].items())
                for kind in ("forward", "backward", "double backward")
            )
            print(f"{row['case']} batch {row['batch']}: {kinds}", flush=True)
    options = f"--channels {arguments.channels} --batch {arguments.batch} --dtype {arguments.dtype}"
    write_result(arguments.json, f"python benchmarks/tensor_product.py {options}", content)


if __name__ == "__main__":
    main()
