"""Writes tiny files in every layout of OC20 and OC22, pickles of old and new PyTorch Geometric among them."""

from __future__ import annotations

import contextlib
import copy
import json
import lzma
import pickle
import sys
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import lmdb
import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io.jsonio import encode

METALS = ("Cu", "Ag", "Pd", "Pt", "Ni")


def slabs(count: int, seed: int = 0) -> list[Atoms]:
    """Small rattled slabs with an adsorbed atom, tags 0, 1, 2, the lower layer fixed; energies and forces of EMT."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        atoms = fcc111(METALS[k % len(METALS)], (1, 2, 2), vacuum=5.0, periodic=True)
        add_adsorbate(atoms, "HCNO"[k % 4], 1.5, "fcc")
        atoms.set_tags([0, 0, 1, 1, 2])
        atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 0))
        atoms.positions[atoms.get_tags() > 0] += rng.normal(scale=0.05, size=(3, 3))
        free = atoms.copy()
        free.set_constraint()
        free.calc = EMT()
        labels = {"energy": free.get_potential_energy(), "forces": free.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


def fields(atoms: Atoms, sid: Any, **extra: Any) -> dict[str, Any]:
    """What every record has, in the types of the official files."""
    return {
        "pos": torch.tensor(atoms.positions, dtype=torch.float32),
        "cell": torch.tensor(atoms.cell.array, dtype=torch.float32).view(1, 3, 3),
        "atomic_numbers": torch.tensor(atoms.numbers, dtype=torch.float32),
        "natoms": len(atoms),
        "tags": torch.tensor(atoms.get_tags()),
        "fixed": torch.tensor((atoms.get_tags() == 0).astype(np.float32)),
        "sid": sid,
        **extra,
    }


def s2ef_record(atoms: Atoms, sid: Any, fid: Any, names: tuple[str, str] = ("y", "force")) -> dict[str, Any]:
    """Structure to energy and forces; `names` are those of the labels."""
    labels = {
        names[0]: float(atoms.calc.results["energy"]),
        names[1]: torch.tensor(atoms.calc.results["forces"]).float(),
    }
    return fields(atoms, sid, fid=fid, **labels)


def is2re_record(atoms: Atoms, sid: Any, **extra: Any) -> dict[str, Any]:
    """Initial structure to relaxed energy; the relaxed positions are 0.1 Å above the initial ones on free atoms."""
    relaxed = atoms.positions + 0.1 * (atoms.get_tags() > 0)[:, None] * np.array([0, 0, 1.0])
    energy = float(atoms.calc.results["energy"])
    targets = {"y_init": energy, "y_relaxed": energy - 0.5, "pos_relaxed": torch.tensor(relaxed, dtype=torch.float32)}
    return fields(atoms, sid, **targets, **extra)


@contextlib.contextmanager
def fake_pyg() -> Iterator[types.SimpleNamespace]:
    """Classes with the names of PyTorch Geometric's, importable as long as pickles are being made."""
    data, storage = types.ModuleType("torch_geometric.data.data"), types.ModuleType("torch_geometric.data.storage")
    for module, name in ((data, "Data"), (data, "DataEdgeAttr"), (data, "DataTensorAttr"), (storage, "GlobalStorage")):
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
    names = {"torch_geometric.data.data": data, "torch_geometric.data.storage": storage}
    names |= {name: types.ModuleType(name) for name in ("torch_geometric", "torch_geometric.data")}
    sys.modules.update(names)
    try:
        yield types.SimpleNamespace(**vars(data), **{"GlobalStorage": storage.GlobalStorage})
    finally:
        for name in names:
            del sys.modules[name]


def pickle_record(record: Mapping[str, Any], style: str) -> bytes:
    """As PyTorch Geometric below 2 (`old`) or from 2 on (`new`) would pickle it."""
    with fake_pyg() as pyg:
        graph = pyg.Data()
        if style == "old":
            empty = dict.fromkeys(("x", "edge_index", "edge_attr", "y", "pos", "normal", "face"))
            graph.__dict__ |= empty | dict(record)
        else:
            store = pyg.GlobalStorage()
            store.__dict__ |= {"_mapping": dict(record), "_parent": None}
            graph.__dict__ |= {"_edge_attr_cls": pyg.DataEdgeAttr, "_tensor_attr_cls": pyg.DataTensorAttr}
            graph.__dict__ |= {"_store": store}
        return pickle.dumps(graph, protocol=-1)


def write_lmdb(path: Path, entries: Mapping[str, bytes]) -> Path:
    """A one-file LMDB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 24)
    with environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    return path


def write_records(
    path: Path, records: Sequence[Mapping[str, Any]], style: str = "old", length: int | None = None
) -> Path:
    """Records under the keys 0, 1, ..., with a `length` if given."""
    entries = {str(k): pickle_record(record, style) for k, record in enumerate(records)}
    if length is not None:
        entries["length"] = pickle.dumps(length, protocol=-1)
    return write_lmdb(path, entries)


def write_aselmdb(path: Path, frames: Sequence[Atoms], dialect: str, deleted: Sequence[int] = ()) -> Path:
    """Rows from id 1 on, as fairchem 1 (`lists`) or later ones (`ndarray`) write them; `deleted` ids stay listed."""
    entries = {}
    for k, atoms in enumerate(frames, start=1):
        row = {
            **{"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array, "pbc": atoms.pbc},
            **{"tags": atoms.get_tags(), "unique_id": f"{k:032x}", "ctime": 26.9, "mtime": 26.9, "user": None},
            **{"calculator": "unknown", "calculator_parameters": {}, **atoms.calc.results},
            "constraints": [constraint.todict() for constraint in atoms.constraints],
            "key_value_pairs": {"note": f"row {k}"},
            "data": dict(atoms.info),
        }
        entries[str(k)] = _json(row, dialect)
    for number in deleted:
        del entries[str(number)]
    entries |= {"nextid": _json(len(frames) + 1, dialect), "deleted_ids": _json(list(deleted), dialect)}
    return write_lmdb(path, {key: zlib.compress(text.encode()) for key, text in entries.items()})


def _json(value: Any, dialect: str) -> str:
    if dialect == "ndarray":
        return encode(value)
    return json.dumps(value, default=lambda x: x.tolist())


def write_raw(folder: Path, frames: Sequence[Atoms], references: Sequence[float], stem: str = "0") -> Path:
    """The raw S2EF download: compressed frames with total energies, and the compressed text of the references."""
    folder.mkdir(parents=True, exist_ok=True)
    totals = []
    for atoms, reference in zip(frames, references, strict=True):
        total = copy.deepcopy(atoms)
        total.calc.results["energy"] += reference
        totals.append(total)
    plain = folder / f"{stem}.extxyz"
    ase.io.write(plain, totals)
    path = folder / f"{stem}.extxyz.xz"
    path.write_bytes(lzma.compress(plain.read_bytes()))
    plain.unlink()
    lines = [f"random{1000 + k},frame{3 * k},{reference!r}" for k, reference in enumerate(references)]
    (folder / f"{stem}.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    return path
