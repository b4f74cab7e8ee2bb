"""The convolution's operators on CPUs by `convolution.cpp`; in plain PyTorch where it cannot be compiled."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tdn.nn.kernels import reference
from tdn.nn.kernels.build import load_library
from tdn.nn.kernels.convolution import aggregate, edge_gradients, table_gradient
from tdn.nn.kernels.graph import group_by

SOURCE = Path(__file__).with_name("convolution.cpp")
REAL = {torch.float32: "float", torch.float64: "double"}
AGGREGATE, EDGE_GRADIENTS, TABLE_GRADIENT = range(3)
MAX_COLUMNS = 64  # pairs times degrees that the C++ code has room for

_POINTERS = ("g", "y", "basis", "table", "x", "knot", "senders", "receivers", "order", "offsets", "out", "out_basis")
_SIZES = ("nodes", "edges", "ranks", "pairs", "degrees", "channels", "width", "rows", "threads")


class _Problem(ctypes.Structure):
    """`Problem` of the C++ source."""

    _fields_ = [(name, ctypes.c_void_p) for name in _POINTERS] + [(name, ctypes.c_int64) for name in _SIZES]


def library(dtype: torch.dtype, columns: int = 1) -> ctypes.CDLL | None:
    """The compiled kernels for `dtype`, or None if there are none: another precision, no compiler, too many columns."""
    if dtype not in REAL or columns > MAX_COLUMNS:
        return None
    return load_library(SOURCE, f"-DTDN_REAL={REAL[dtype]}", f"-DTDN_MAX_COLUMNS={MAX_COLUMNS}")


def _run(library: ctypes.CDLL, which: int, out: Sequence[Tensor], edges: Sequence[Tensor], rows: int, **given) -> None:
    """Call operator `which` on tensors by name, the channels of which are a multiple of the vector length."""
    senders, receivers, order, offsets, *_ = edges
    given |= {"senders": senders, "receivers": receivers, "order": order, "offsets": offsets}
    # The kernel sees addresses only: this keeps copies alive until the call is over.
    arrays = {name: None if tensor is None else tensor.contiguous() for name, tensor in given.items()}
    arrays |= dict(zip(("out", "out_basis"), out, strict=False))
    pointers = {name: None if tensor is None else tensor.data_ptr() for name, tensor in arrays.items()}
    nodes, _, channels = given["x"].shape
    sizes = (nodes, *given["y"].shape, channels, given["basis"].shape[2], rows, torch.get_num_threads())
    library.tdn_run(which, ctypes.byref(_Problem(**pointers, **dict(zip(_SIZES, sizes, strict=True)))))


def _pad(tensor: Tensor, lanes: int) -> Tensor:
    """`tensor` with zero channels added, so that their number is a multiple of `lanes`."""
    missing = -tensor.shape[-1] % lanes
    return torch.nn.functional.pad(tensor, (0, missing)) if missing else tensor


@aggregate.register_kernel("cpu")
def _(y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor]) -> Tensor:
    compiled = library(x.dtype, y.shape[2] * y.shape[3])
    if compiled is None:
        return reference.aggregate(y, basis, table, x, knot, edges)
    lanes = compiled.tdn_lanes()
    padded = _pad(x, lanes)
    out = torch.empty(padded.shape, dtype=x.dtype)
    tensors = {"y": y, "basis": basis, "table": _pad(table, lanes), "x": padded, "knot": knot}
    _run(compiled, AGGREGATE, [out], edges, table.shape[0], **tensors)
    return out[..., : x.shape[2]].contiguous()


@edge_gradients.register_kernel("cpu")
def _(
    g: Tensor, y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    compiled = library(x.dtype, y.shape[2] * y.shape[3])
    if compiled is None:
        return reference.edge_gradients(g, y, basis, table, x, knot, edges)
    lanes = compiled.tdn_lanes()
    out = torch.empty(y.shape, dtype=x.dtype), torch.empty(basis.shape, dtype=x.dtype)
    tensors = {"g": _pad(g, lanes), "y": y, "basis": basis, "table": _pad(table, lanes), "x": _pad(x, lanes)}
    _run(compiled, EDGE_GRADIENTS, out, edges, table.shape[0], knot=knot, **tensors)
    return out


@table_gradient.register_kernel("cpu")
def _(
    g: Tensor, y: Tensor, basis: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor], rows: int
) -> Tensor:
    compiled = library(x.dtype, y.shape[2] * y.shape[3])
    if compiled is None:
        return reference.table_gradient(g, y, basis, x, knot, edges, rows)
    padded = _pad(x, compiled.tdn_lanes())
    out = torch.empty(rows, y.shape[3], padded.shape[2], dtype=x.dtype)
    tensors = {"g": _pad(g, compiled.tdn_lanes()), "y": y, "basis": basis, "x": padded, "knot": knot}
    _run(compiled, TABLE_GRADIENT, [out], edges, rows, **tensors)
    return out[..., : x.shape[2]].contiguous()


@group_by.register_kernel("cpu")
def _(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    compiled = library(torch.float32)
    if compiled is None:
        return reference.group_by(index, size)
    index = index.contiguous()
    order, offsets = torch.empty_like(index), index.new_empty(size + 1)
    compiled.tdn_group_by(
        ctypes.c_void_p(index.data_ptr()),
        ctypes.c_int64(len(index)),
        ctypes.c_int64(size),
        ctypes.c_void_p(order.data_ptr()),
        ctypes.c_void_p(offsets.data_ptr()),
    )
    return order, offsets
