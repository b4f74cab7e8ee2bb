"""What foreign pickles may make, for `tdn.data.unpickling.loads`: our own safe constructors."""

from __future__ import annotations

import collections
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tdn.errors import DataError

if TYPE_CHECKING:
    import torch

Constructors = dict[tuple[str, str], Callable[..., Any]]


class Inert:
    """Stands for an object of another package: its attributes by name, and no behaviour.

    Attributes:
        fields: What the pickle would have put into the object's `__dict__` or slots.
    """

    __slots__ = ("fields",)
    fields: dict[str, Any]

    def __new__(cls, *_: Any) -> Inert:
        """An object without attributes, whatever the arguments."""
        made = super().__new__(cls)
        object.__setattr__(made, "fields", {})
        return made

    def __init__(self, *_: Any) -> None:
        """Arguments of constructors are of no use here."""

    def __setstate__(self, state: Any) -> None:
        """Take attributes: a dictionary, or one of `__dict__` and one of slots."""
        for part in state if isinstance(state, tuple) else (state,):
            if part is None:
                continue
            if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
                raise DataError(f"{type(self).__name__} should have attributes by name, got {type(part).__name__}.")
            self.fields.update(part)


def inert(*names: str) -> Constructors:
    """Empty containers for classes named `package.module.Class`."""
    made: Constructors = {}
    for name in names:
        module, _, cls = name.rpartition(".")
        made[module, cls] = type(cls, (Inert,), {"__slots__": ()})
    return made


class _Dtype:
    """A data type of numbers; any other kind could make an array's bytes into pointers."""

    KINDS = "biufc"

    def __init__(self, name: str, *_: Any) -> None:
        dtype = np.dtype(str(name))
        if dtype.kind not in self.KINDS:
            raise DataError(f"Arrays of {dtype} are not read from pickles: only numbers and booleans are.")
        self.dtype = dtype

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in ("<", ">", "=") else "=")


class _Array(np.ndarray):
    """An array that takes its content from a pickle after checking it."""

    def __setstate__(self, state: Any, /) -> None:
        _, shape, dtype, fortran, content = state
        sizes, numpy_dtype = _checked(shape, dtype, content)
        super().__setstate__((1, sizes, numpy_dtype, bool(fortran), content))  # pyright: ignore[reportArgumentType]


def _checked(shape: Any, dtype: Any, content: Any) -> tuple[tuple[int, ...], np.dtype]:
    if not (isinstance(dtype, _Dtype) and isinstance(content, bytes)):
        raise DataError("A pickled array should have a data type of numbers and its content as bytes.")
    sizes = _sizes(shape)
    if math.prod(sizes) * dtype.dtype.itemsize != len(content):
        raise DataError(f"A pickled array of shape {sizes} and {dtype.dtype} has {len(content)} bytes.")
    return sizes, dtype.dtype


def _sizes(shape: Any) -> tuple[int, ...]:
    if not (isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**48 for n in shape) and len(shape) <= 32):
        raise DataError("A pickled array or tensor should have a shape of whole numbers.")
    return shape


def _array(*_: Any) -> np.ndarray:
    return np.empty(0, dtype=np.uint8).view(_Array)


def _scalar(dtype: Any, content: Any) -> Any:
    _, numpy_dtype = _checked((), dtype, content)
    return np.frombuffer(content, numpy_dtype)[0]


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array as protocol 5 writes it."""
    content = bytes(content) if isinstance(content, bytearray) else content
    sizes, numpy_dtype = _checked(shape, dtype, content)
    return np.frombuffer(content, numpy_dtype).reshape(sizes, order="F" if order == "F" else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes as protocols 0 to 2 write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise DataError("A pickle encodes text in an unusual way, which is not allowed.")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _ordered_dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    made = collections.OrderedDict()
    for key, value in pairs:
        if not isinstance(key, str | int):
            raise DataError("A pickled OrderedDict should have text or numbers as keys.")
        made[key] = value
    return made


def _reconstruct(cls: Any, *_: Any) -> Inert:
    """An object of protocols 0 and 1."""
    if not (isinstance(cls, type) and issubclass(cls, Inert)):
        raise DataError("A pickle makes an object of an unusual class, which is not allowed.")
    return cls()


def _storage(content: Any) -> torch.TypedStorage:
    """The memory of a tensor, from what `torch.save` wrote; PyTorch's own restricted reader runs no code."""
    import torch

    if not isinstance(content, bytes):
        raise DataError("A pickled tensor should have its storage as bytes.")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    import torch

    if not isinstance(storage, torch.TypedStorage):
        raise DataError("A pickled tensor should have a storage with a type.")
    sizes, strides = _sizes(tuple(size)), _sizes(tuple(stride))
    count = storage._size()  # the public name warns that typed storages will go away
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if type(offset) is not int or offset < 0 or (0 not in sizes and last >= count):
        raise DataError(f"A pickled tensor of shape {sizes} reaches beyond its storage of {count} numbers.")
    flat = torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage, 0, (count,), (1,))
    # A copy: tensors of one batch share their storage, and would keep all of it alive.
    return flat.as_strided(sizes, strides, offset).clone()


NUMPY: Constructors = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **inert("numpy.ndarray"),
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
}
"""Arrays and scalars of numbers."""

TENSORS: Constructors = {
    **NUMPY,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): _ordered_dict,
}
"""Tensors (on the CPU, whatever they were on), and what comes with them."""

OBJECTS: Constructors = {
    **{(module, "_reconstructor"): _reconstruct for module in ("copyreg", "copy_reg")},
    **inert("builtins.object", "__builtin__.object"),
}
"""What objects of protocols 0 and 1 need, beside their class."""

GRAPHS: Constructors = {
    **TENSORS,
    **OBJECTS,
    **inert(
        "torch_geometric.data.data.Data",
        "torch_geometric.data.Data",
        "torch_geometric.data.storage.BaseStorage",
        "torch_geometric.data.storage.NodeStorage",
        "torch_geometric.data.storage.EdgeStorage",
        "torch_geometric.data.storage.GlobalStorage",
        "torch_geometric.data.data.DataEdgeAttr",
        "torch_geometric.data.data.DataTensorAttr",
    ),
}
"""Graphs of old and new PyTorch Geometric: `graph_fields` finds their content."""


def graph_fields(graph: Any) -> Mapping[str, Any]:
    """Content of a PyTorch Geometric `Data`, of the layout before version 2 and since.

    Raises:
        DataError: If it is something else.
    """
    if not isinstance(graph, Inert):
        raise DataError(f"Expected a graph of PyTorch Geometric, got {type(graph).__name__}.")
    if "_store" not in graph.fields:
        return {name: value for name, value in graph.fields.items() if value is not None}
    store = graph.fields["_store"]
    mapping = store.fields.get("_mapping") if isinstance(store, Inert) else None
    if not isinstance(mapping, dict):
        raise DataError("A graph of PyTorch Geometric has no `_mapping` in its `_store`: its version is unknown.")
    return mapping
