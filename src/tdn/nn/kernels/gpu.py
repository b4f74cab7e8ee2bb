"""The convolution's operators on CUDA devices by `triton_programs.py`; in plain PyTorch where Triton is missing.

Not yet run on a GPU: verified with Triton's interpreter only (`tests/nn/test_gpu.py`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tdn.nn.kernels import convolution, reference

# Rank and channel tiles: 2048 accumulators are 16 registers a thread of four warps.
LARGEST_BR, LARGEST_BU = 32, 64
# Edges of one row of the table that one program takes, so that few rows keep all processors of the device busy.
EDGES_PER_SHARE = 64
MOST_SHARES = 64


@functools.cache
def available() -> bool:
    """Whether Triton is installed; it comes with PyTorch's CUDA builds for Linux."""
    return importlib.util.find_spec("triton") is not None


def _programs() -> Any:
    """The programs' module, which imports Triton."""
    return importlib.import_module("tdn.nn.kernels.triton_programs")


def _power_of_two(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()


def _tiles(x: Tensor) -> dict[str, Any]:
    import triton.language as tl  # pyright: ignore[reportMissingImports]

    _, ranks, channels = x.shape
    return {
        "BR": min(LARGEST_BR, _power_of_two(ranks)),
        "BU": min(LARGEST_BU, _power_of_two(channels)),
        "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
    }


def aggregate(
    y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor]
) -> Tensor:
    """See `convolution.aggregate`: a program for every node, block of channels and block of ranks."""
    senders, _, order, offsets, *_ = edges
    nodes, ranks, channels = x.shape
    y, basis, table, x = (tensor.contiguous() for tensor in (y, basis, table, x))
    out, tiles = torch.empty_like(x), _tiles(x)
    if nodes:
        grid = (nodes, -(-channels // tiles["BU"]), -(-ranks // tiles["BR"]))
        _programs().aggregate_program[grid](
            y, basis, table, x, _pointer(knot, senders), senders, order, offsets, out, ranks, channels,
            HAS_KNOT=knot is not None, P=basis.shape[2], J=y.shape[2], W=y.shape[3], **tiles,
        )  # fmt: skip
    return out


def edge_gradients(
    g: Tensor, y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """See `convolution.edge_gradients`: a program for every edge."""
    senders, receivers, order, *_ = edges
    _, ranks, channels = x.shape
    g, y, basis, table, x = (tensor.contiguous() for tensor in (g, y, basis, table, x))
    to_y, to_basis = torch.empty_like(y), torch.empty_like(basis)
    if len(senders):
        pairs, degrees, terms = y.shape[2], y.shape[3], basis.shape[2]
        _programs().edge_program[(len(senders),)](
            g, y, basis, table, x, _pointer(knot, senders), senders, receivers, order, to_y, to_basis, ranks, channels,
            HAS_KNOT=knot is not None, P=terms, J=pairs, W=degrees, BC=_power_of_two(pairs * degrees),
            BP=_power_of_two(pairs * terms), **_tiles(x),
        )  # fmt: skip
    return to_y, to_basis


def table_gradient(
    g: Tensor, y: Tensor, basis: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor], rows: int
) -> Tensor:
    """See `convolution.table_gradient`: edges grouped by first row, a program for every share of a row's edges."""
    senders, receivers, *_ = edges
    (_, ranks, channels), terms, degrees = x.shape, basis.shape[2], y.shape[3]
    g, y, basis, x = (tensor.contiguous() for tensor in (g, y, basis, x))
    if not len(senders) or not rows:
        return x.new_zeros(rows, degrees, channels)
    if knot is None:
        order = torch.arange(len(senders), device=x.device)
        offsets, shares = torch.arange(len(senders) + 1, device=x.device), 1
    else:
        order, offsets = reference.group_by(knot, rows)
        shares = min(MOST_SHARES, max(1, len(senders) // (rows * EDGES_PER_SHARE)))
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    partial, tiles = torch.empty(rows * shares, terms, degrees, channels, dtype=wide, device=x.device), _tiles(x)
    _programs().table_program[(rows * shares, -(-channels // tiles["BU"]))](
        g, y, basis, x, senders, receivers, order, offsets, partial, ranks, channels,
        SPLITS=shares, P=terms, J=y.shape[2], W=degrees, BC=_power_of_two(terms * degrees), **tiles,
    )  # fmt: skip
    partial = partial.view(rows, shares, terms, degrees, channels).sum(1)
    # Row k + p of the table gets term p of the edges that begin at row k.
    result = torch.zeros(rows, degrees, channels, dtype=wide, device=x.device)
    for p in range(terms):
        result[p:] += partial[: rows - p, p]
    return result.to(x.dtype)


def _pointer(knot: Tensor | None, other: Tensor) -> Tensor:
    """A program's argument must be an array; without knots it is not read."""
    return other if knot is None else knot


@convolution.aggregate.register_kernel("cuda")
def _(y, basis, table, x, knot, edges):
    return (aggregate if available() else reference.aggregate)(y, basis, table, x, knot, edges)


@convolution.edge_gradients.register_kernel("cuda")
def _(g, y, basis, table, x, knot, edges):
    return (edge_gradients if available() else reference.edge_gradients)(g, y, basis, table, x, knot, edges)


@convolution.table_gradient.register_kernel("cuda")
def _(g, y, basis, x, knot, edges, rows):
    return (table_gradient if available() else reference.table_gradient)(g, y, basis, x, knot, edges, rows)
