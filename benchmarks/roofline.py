"""How near the CPU kernels of the convolution come to what one core can do.

    python benchmarks/roofline.py

For L = 2, 3, with 64 and 128 channels, 20 and 60 neighbours, float32, one thread: multiply-adds a second of each of the
three operators beside the core's measured peak, bytes a second beside what the core reads when it does nothing but
read the same rows in the same order, and the share of the bound that binds. Writes JSON and a picture.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import interleaved_times, write_result
from torch import Tensor

from tdn.cp.tables import load_table
from tdn.nn.kernels import EdgeIndex
from tdn.nn.kernels.build import load_library
from tdn.nn.kernels.convolution import aggregate, edge_gradients, table_gradient
from tdn.nn.kernels.cpu import library

RESULTS = Path(__file__).parent / "results"
NODES, KNOTS, SPLINE_TERMS = 512, 69, 6
PEAK_STEPS = 500_000
OPERATORS = ("aggregate", "edge_gradients", "table_gradient")


def machine_library() -> ctypes.CDLL:
    found = load_library(Path(__file__).with_suffix(".cpp"))
    if found is None or library(torch.float32) is None:
        raise SystemExit("This benchmark needs a C++ compiler: g++ or clang++.")
    found.multiply_adds.restype = ctypes.c_int64
    found.read_rows.restype = ctypes.c_float
    return found


def read_rows(machine: ctypes.CDLL, rows: Tensor, index: Tensor) -> Callable[[], Any]:
    width = rows[0].numel()
    pointers = ctypes.c_void_p(rows.data_ptr()), ctypes.c_void_p(index.data_ptr())
    return lambda: machine.read_rows(*pointers, ctypes.c_int64(len(index)), ctypes.c_int64(width))


def multiply_adds(machine: ctypes.CDLL) -> int:
    """Run the loop of nothing but fused multiply-adds; returns their number."""
    return machine.multiply_adds(ctypes.c_int64(PEAK_STEPS), ctypes.c_float(0.5), ctypes.byref(ctypes.c_float()))


def multiply_adds_of(name: str, edges: int, rank: int, degrees: int, channels: int) -> int:
    """What the operator must compute: radial weights from the spline, then ranks; one pair."""
    weights, ranks = degrees * SPLINE_TERMS, rank * (degrees + 1)
    return edges * channels * {
        "aggregate": weights + ranks,
        "edge_gradients": 2 * weights + ranks + rank * degrees,
        "table_gradient": weights + ranks,
    }[name]  # fmt: skip


def bytes_of(name: str, edges: int, rank: int, degrees: int, channels: int) -> int:
    """What must move: a sender's row an edge, a receiver's row a node, the harmonics; tables stay in cache."""
    rows = edges * rank * channels + NODES * rank * channels
    harmonics = edges * (rank * degrees + SPLINE_TERMS)
    return 4 * (rows + harmonics * (2 if name == "edge_gradients" else 1))


def measure(machine: ctypes.CDLL, lmax: int, channels: int, neighbors: int, rounds: int) -> dict[str, Any]:
    rank, degrees = load_table(lmax, lmax, lmax).rank, lmax + 1
    count = NODES * neighbors
    random = torch.Generator().manual_seed(0)
    senders = torch.randint(0, NODES, (count,), generator=random)
    edges = list(EdgeIndex.build(senders, torch.arange(count) // neighbors, NODES))
    shapes = ((NODES, rank, channels), (count, rank, 1, degrees), (count, 1, SPLINE_TERMS), (KNOTS, degrees, channels),
              (NODES, rank, channels))  # fmt: skip
    g, y, basis, table, x = (torch.randn(*shape, generator=random) for shape in shapes)
    knot = torch.randint(0, KNOTS - SPLINE_TERMS + 1, (count,), generator=random)
    functions: dict[str, Callable[[], Any]] = {
        "aggregate": lambda: aggregate(y, basis, table, x, knot, edges),
        "edge_gradients": lambda: edge_gradients(g, y, basis, table, x, knot, edges),
        "table_gradient": lambda: table_gradient(g, y, basis, x, knot, edges, KNOTS),
        "read": read_rows(machine, x, senders),
        "peak": lambda: multiply_adds(machine),
    }
    seconds = {name: 1e-3 * float(min(t)) for name, t in interleaved_times(functions, rounds).items()}
    sizes = (count, rank, degrees, channels)
    return {
        "lmax": lmax, "channels": channels, "neighbors": neighbors, "rank": rank, "edges": count,
        "peak_gfma_per_s": 1e-9 * multiply_adds(machine) / seconds["peak"],
        "read_gb_per_s": 4e-9 * count * rank * channels / seconds["read"],
        "operators": {
            name: {
                "ms": 1e3 * seconds[name],
                "gfma_per_s": 1e-9 * multiply_adds_of(name, *sizes) / seconds[name],
                "gb_per_s": 1e-9 * bytes_of(name, *sizes) / seconds[name],
            }
            for name in OPERATORS
        },
    }  # fmt: skip


def add_shares(row: dict[str, Any], peak: float) -> None:
    """The larger of both times that the machine needs at least, over the time taken."""
    for found in row["operators"].values():
        shares = {"arithmetic": found["gfma_per_s"] / peak, "memory": found["gb_per_s"] / row["read_gb_per_s"]}
        found["bound"] = max(shares, key=lambda name: shares[name])
        found["share"] = shares[found["bound"]]


def draw(rows: list[dict[str, Any]], peak: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5))
    bandwidth = sorted(row["read_gb_per_s"] for row in rows)[len(rows) // 2]
    intensities = [0.4 * 1.1**k for k in range(25)]
    axis.plot(intensities, [min(peak, bandwidth * i) for i in intensities], color="black", label="one core")
    axis.plot(intensities, [0.4 * min(peak, bandwidth * i) for i in intensities], "k:", label="40 %")
    for name, marker in zip(OPERATORS, "os^", strict=True):
        points = [(o["gfma_per_s"] / o["gb_per_s"], o["gfma_per_s"]) for o in (row["operators"][name] for row in rows)]
        axis.plot(*zip(*points, strict=True), marker, label=name)
    axis.set(xscale="log", yscale="log", xlabel="multiply-adds a byte", ylabel="10⁹ multiply-adds a second")
    axis.set_title("CPU kernels of the convolution, float32, one thread")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, default=RESULTS / "roofline.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = machine_library()
    sizes = [(lmax, channels, k) for lmax in (2, 3) for channels in (64, 128) for k in (20, 60)]
    rows = [measure(machine, *size, arguments.rounds) for size in sizes]
    peak = max(row["peak_gfma_per_s"] for row in rows)
    for row in rows:
        add_shares(row, peak)
        for name, found in row["operators"].items():
            size = f"L={row['lmax']} {row['channels']:3d} channels {row['neighbors']} neighbours"
            rate = f"{found['ms']:6.2f} ms {found['gfma_per_s']:5.1f} Gfma/s {found['gb_per_s']:5.1f} GB/s"
            print(f"{size} {name:15s} {rate}  {100 * found['share']:3.0f} % of {found['bound']}")
    print(f"peak {peak:.1f} Gfma/s")
    write_result(arguments.json, "python benchmarks/roofline.py", {"seed": 0, "peak_gfma_per_s": peak, "rows": rows})
    draw(rows, peak, arguments.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
