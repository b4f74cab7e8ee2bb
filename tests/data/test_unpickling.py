"""Foreign pickles: what the formats need is read, everything else is refused and nothing is executed."""

from __future__ import annotations

import builtins
import collections
import gzip
import importlib
import operator
import os
import pickletools
import struct
import sys
import tempfile
import tracemalloc
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tdn.data.foreign import GRAPHS, NUMPY, TENSORS, Inert, graph_fields, inert
from tdn.data.unpickling import Limits, decompress, loads
from tdn.errors import DataError

PROTOCOLS = range(6)
# The standard library's, to make what a stranger would; nothing here reads with it.
dumps = importlib.import_module("pickle").dumps


def record() -> dict[str, Any]:
    """A PubChemQCR record with everything that its format allows."""
    atoms = [{"atom": "C", "charge": 6.0, "x": 0.1, "y": -2.5e-17, "z": 1e300}, {"atom": "H", "x": 1, "y": 2, "z": 3}]
    gradient = [{"atom": atom["atom"], "dx": 0.5, "dy": float("inf"), "dz": -0.0} for atom in atoms]
    step = {"coordinates": atoms, "energy": -40.5, "gradient": gradient}
    return {
        "pm3": [step, {"coordinates": atoms, "energy": None}],
        "hf": None,
        "DFT_1st": [],
        "a" * 300: ["é" * 30, 2**70],
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_records_are_read(protocol: int) -> None:
    assert loads(dumps(record(), protocol)) == record()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tuples_bytes_and_shared_objects_are_read(protocol: int) -> None:
    shared = [1, True, None]
    value = {"a": (shared, shared), "b": (1, (2, (3, 4, 5), ())), "c": b"bytes" if protocol > 2 else "text"}
    found = loads(dumps(value, protocol))
    assert found == value
    assert found["a"][0] is found["a"][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_scalars_are_read(protocol: int) -> None:
    values = [np.arange(6.0).reshape(2, 3).T, np.arange(4, dtype=">i2")[::-1], np.zeros((0, 3), "f4"), np.array([True])]
    *arrays, scalar, raw = loads(dumps([*values, np.float32(1.5), b""], protocol), NUMPY)
    for found, value in zip(arrays, values, strict=True):
        np.testing.assert_array_equal(found, value)
        assert found.dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
    assert (scalar, raw) == (1.5, b"")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_are_read(protocol: int) -> None:
    base = torch.arange(12.0)
    values = [base.reshape(3, 4).t(), base[5:7], torch.tensor(7), torch.zeros(0, 3, dtype=torch.int32)]
    for found, value in zip(loads(dumps(values, protocol), TENSORS), values, strict=True):
        assert torch.equal(found, value)
        assert found.dtype == value.dtype


class Data:
    """A class as PyTorch Geometric's, whose pickles name it."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


CLASSES = {**GRAPHS, **inert(f"{__name__}.Data")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_become_inert_containers(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, types.ModuleType(__name__))
    monkeypatch.setattr(sys.modules[__name__], "Data", Data, raising=False)
    old = Data(pos=torch.ones(2, 3), y=None, natoms=2)
    new = Data(_store=Data(_mapping={"pos": torch.ones(2, 3), "natoms": 2}))
    for graph in (old, new):
        found = loads(dumps(graph, protocol), CLASSES)
        assert isinstance(found, Inert)
        assert not isinstance(found, Data)
        fields = graph_fields(found)
        assert set(fields) == {"pos", "natoms"}
        assert torch.equal(fields["pos"], torch.ones(2, 3))


def test_graphs_of_the_open_catalyst_format_are_read_without_pytorch_geometric(data_dir: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    path = data_dir / "oc" / "ocp_is2re_style_68.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as file, file.begin() as view:
        graphs = [graph_fields(loads(value, GRAPHS)) for _, value in view.cursor()]
    assert len(graphs) == 68
    assert all(graph["pos"].shape == (graph["natoms"], 3) for graph in graphs)


class Reduced:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


MARKER = Path(tempfile.gettempdir()) / f"tdn-unpickling-ran-{os.getpid()}"  # made by whatever runs


def malicious() -> dict[str, bytes]:
    """Pickles that run code, or would exhaust whoever reads them."""
    eval_ = getattr(builtins, "eval")  # noqa: B009
    system = getattr(os, "system")  # noqa: B009
    touch = f"touch {MARKER}"
    marker = f"open({str(MARKER)!r}, 'w')"
    found = {
        "os.system": dumps(Reduced(system, (touch,))),
        "builtins.eval": dumps({"pm3": [Reduced(eval_, (marker,))]}),
        "getattr chain": dumps(Reduced(getattr, (Reduced(__import__, ("os",)), "system"))),
        "method of text": dumps(Reduced(operator.methodcaller("format", 1), ("{}",))),
        "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        "numpy through a tensor": b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00x\x85R.",
        "text as the name of a global": b"\x80\x04K\x01\x8c\x04evil\x93.",
        "INST": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'{touch}'\no.".encode(),
        "EXT": b"\x80\x02\x82\x01.",
        "persistent id": b"Pevil\n.",
        "persistent id, binary": b"\x80\x02K\x01Q.",
        "NEWOBJ_EX": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
        "call of text": b"\x80\x02X\x01\x00\x00\x00a)R.",
        "call without arguments": b"\x80\x02ccollections\nOrderedDict\n]R.",
        "change of an allowed global": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00a1b.",
        "attributes of an allowed global": b"\x80\x02ccollections\nOrderedDict\nN}X\x03\x00\x00\x00newK\x01s\x86b.",
        "object array": dumps(np.array([Reduced(eval_, (marker,))], dtype=object)),
        "deep lists": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
        "deep lists through the memo": b"\x80\x02]q\x00" + b"]h\x00aq\x00" * 10_000 + b".",
        "deep tuples": b"\x80\x02)" + b"\x85" * 20_000 + b".",
        "tuples that take forever to hash": b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.",
        "sets": b"\x80\x04" + b"\x8f" * 1000 + b".",
        "frozen sets": b"\x80\x04(K\x01\x91.",
        "memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
        "memo index, text": b"]p2147483647\n.",
        "memo never set": b"\x80\x02h\x05.",
        "text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
        "bytes of 8 EB": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
        "bytearray of 8 EB": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b".",
        "number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "frame of 8 EB": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
        "buffer outside": b"\x80\x05\x97.",
        "a decimal number of 10^5 digits": b"L" + b"9" * 100_000 + b"L\n.",
        "nothing": b"",
        "no end": b"\x80\x02]",
        "empty stack": b"\x80\x02.",
        "more behind the end": dumps([1]) + b"cos\nsystem\n.",
        "unknown instruction": b"\x80\x02\xff.",
        "pickle of the future": b"\x80\x63N.",
        "not a pickle": b"PK\x03\x04 and so on",
    }
    return found


MALICIOUS = malicious()


@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("allowed", [{}, GRAPHS], ids=["plain", "graphs"])
def test_malicious_pickles_are_refused_and_nothing_runs(name: str, allowed: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            loads(MALICIOUS[name], allowed)
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()
    assert not MARKER.exists()


def test_what_is_refused_would_run() -> None:
    """Else the test above would pass whatever happened."""
    unsafe = importlib.import_module("pickle").loads
    for name in ("os.system", "builtins.eval", "INST"):
        unsafe(MALICIOUS[name])
        assert MARKER.exists(), name
        MARKER.unlink()


def test_message_names_the_global() -> None:
    with pytest.raises(DataError, match=r"posix\.system.*nothing was executed"):
        loads(MALICIOUS["os.system"], GRAPHS)


def test_every_instruction_is_either_understood_or_refused() -> None:
    """Each one alone, with plausible content behind it, ends in a value or in our error."""
    for opcode in pickletools.opcodes:
        for rest in (b"", b"\x01" * 16, b"a\nb\n" * 3):
            try:
                loads(b"\x80\x04N(K\x01K\x02" + opcode.code.encode("latin1") + rest + b".", GRAPHS)
            except DataError:
                continue


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cut_off_and_flipped_pickles_never_raise_anything_else(protocol: int) -> None:
    whole = dumps(record(), protocol)
    for end in range(len(whole)):
        with pytest.raises(DataError):
            loads(whole[:end])
    rng = np.random.default_rng(0)
    for _ in range(500):
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] = rng.integers(256)
        try:
            loads(bytes(broken), GRAPHS)
        except DataError:
            continue


@pytest.mark.parametrize(
    "call",
    [
        Reduced(np.dtype, ("O",)),
        Reduced(torch._utils._rebuild_tensor_v2, (1, 0, (2,), (1,), False, None)),
        Reduced(torch.storage._load_from_bytes, (b"junk",)),
        Reduced(collections.OrderedDict, ([((1, 2), 3)],)),
    ],
    ids=["object dtype", "tensor of no storage", "junk storage", "tuple keys"],
)
def test_constructors_refuse_odd_arguments(call: Reduced) -> None:
    with pytest.raises(DataError):
        loads(dumps(call), GRAPHS)


def test_tensor_may_not_reach_beyond_its_storage() -> None:
    storage = torch.arange(4.0)._typed_storage()
    for offset, size, stride in ((0, (5,), (1,)), (2, (2,), (2,)), (-1, (2,), (1,)), (0, (2, 2**40), (2**40, 1))):
        arguments = (storage, offset, size, stride, False, collections.OrderedDict())
        with pytest.raises(DataError):
            loads(dumps(Reduced(torch._utils._rebuild_tensor_v2, arguments)), TENSORS)


def test_array_may_not_reach_beyond_its_bytes() -> None:
    content = dumps(np.arange(4.0), 2)
    changed = content.replace(b"K\x04\x85", b"K\x05\x85")
    assert changed != content
    with pytest.raises(DataError):
        loads(changed, NUMPY)


def test_size_limit_holds() -> None:
    with pytest.raises(DataError, match="larger than the limit of 100 bytes"):
        loads(dumps(list(range(1000))), limits=Limits(max_bytes=100))


@pytest.mark.parametrize("kind", [list, tuple])
def test_number_of_containers_is_limited(kind: type) -> None:
    many = dumps([kind([k]) for k in range(1000)])
    assert len(loads(many)) == 1000
    with pytest.raises(DataError, match="more than the limit of 900 containers"):
        loads(many, limits=Limits(max_objects=900))


def test_gzip_is_bounded_and_checked() -> None:
    assert decompress(gzip.compress(b"a" * 1000) + gzip.compress(b"b")) == b"a" * 1000 + b"b"
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="more than the limit"):
        decompress(bomb, 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    for damaged in (bomb[:-5], bomb[:1000], b"plain", gzip.compress(b"abc")[:-8] + bytes(8)):
        with pytest.raises(DataError):
            decompress(damaged, 100_000_000)
