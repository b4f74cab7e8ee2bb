"""LMDB files of OC20 and OC22, pickled by any version of PyTorch Geometric, as structures; nothing in them is executed.

A record is an initial structure with its relaxed energy and positions (IS2RE, IS2RS), or a frame with energy and
forces (S2EF); test splits have no targets. Energies of OC20 are adsorption energies, those of OC22 total energies.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tdn.data.foreign import GRAPHS, NUMPY, graph_fields
from tdn.data.lmdb_file import numbered_keys, read_lmdb
from tdn.data.unpickling import Limits, loads
from tdn.errors import DataError
from tdn.structure import Scalar, Structure

# Names of the targets: those of the official files, then those of fairchem 1.0's own preprocessing.
ENERGY_NAMES = ("y_relaxed", "y", "energy")
FORCES_NAMES = ("force", "forces")
_SCALARS = ("sid", "fid", "oc22", "nads", "y_init")


@dataclass(frozen=True)
class OCPOptions:
    """How records become structures.

    Attributes:
        geometry: `initial` or `relaxed` positions of IS2RE and IS2RS records; forces are only of frames.
        oc20_references: Reference energy of each OC20 system in eV (`read_oc20_references`); with them the energies of
            OC20 become total energies, as those of OC22 are.
        surfaces: `adslabs` or `slabs` reads only those of OC22, told apart by the text files beside the LMDBs.
        max_energy: Leave out structures with a larger |energy|, eV; 10 for the adsorption energies of OC20.
        max_force: Leave out structures with a larger force on an atom, eV/Å; 50 for OC20.
    """

    geometry: Literal["initial", "relaxed"] = "initial"
    oc20_references: Mapping[int, float] | None = None
    surfaces: Literal["all", "adslabs", "slabs"] = "all"
    max_energy: float | None = None
    max_force: float | None = None


def is_open_catalyst(path: str | os.PathLike[str]) -> bool:
    """Whether the first record of an LMDB is a plain pickle, as in OC20 and OC22; PubChemQCR has gzipped ones."""
    with read_lmdb(Path(path)) as transaction:
        first = next(iter(transaction.cursor().iternext(keys=False, values=True)), b"")
    return bytes(first[:1]) == b"\x80"


def count_records(path: str | os.PathLike[str]) -> int:
    """Number of records of one file.

    Raises:
        DataError: If it has none, or gaps.
    """
    with read_lmdb(Path(path)) as transaction:
        # `length` is not to be trusted: some files have none, and some that of their whole folder.
        keys = numbered_keys(transaction)
    if not keys:
        raise DataError(f"{path} has no records: keys should be 0, 1, 2, ...")
    if keys != list(range(len(keys))):
        gap = next(k for k, key in enumerate(keys) if key != k)
        raise DataError(f"{path} has {len(keys)} records up to number {keys[-1]}, but none with number {gap}.")
    return len(keys)


def iterate_lmdb(
    path: str | os.PathLike[str],
    options: OCPOptions = OCPOptions(),
    span: range | None = None,
    drops: Counter[str] | None = None,
) -> Iterator[tuple[int, Structure]]:
    """The structures of one file with their keys, in the order of the keys.

    Args:
        path: The file.
        options: How records become structures, and which are left out.
        span: Keys to read; all by default.
        drops: Counts what is left out by its reason.

    Raises:
        DataError: If the file is damaged, has gaps, names code in a pickle, or lacks what `options` ask for.
    """
    path = Path(path)
    count = count_records(path)
    kept = _surfaces(path, options.surfaces, count)
    drops = Counter() if drops is None else drops
    with read_lmdb(path) as transaction:
        for key in span or range(count):
            if kept is not None and key not in kept:
                drops[f"record: not among the {options.surfaces}"] += 1
                continue
            try:
                fields = graph_fields(loads(transaction.get(str(key).encode()), GRAPHS))
                structure = structure_of_fields(fields, options)
            except DataError as error:
                raise DataError(f"{path}, record {key}: {error}") from error
            reason = _outlier(structure, options)
            if reason is None:
                yield key, structure
            else:
                drops[f"record: {reason}"] += 1


def structure_of_fields(fields: Mapping[str, Any], options: OCPOptions = OCPOptions()) -> Structure:
    """One record as a structure; `sid`, `fid`, `oc22`, `nads` and `y_init` go to its `info`.

    Raises:
        DataError: If a field is missing or of the wrong shape.
    """
    numbers = np.rint(_array(fields, "atomic_numbers", ())).astype(np.int64)
    n = len(numbers)
    positions = _array(fields, "pos", (n, 3))
    name = next((name for name in ENERGY_NAMES if fields.get(name) is not None), None)
    forces = None
    if options.geometry == "relaxed":
        if fields.get("pos_relaxed") is None:
            raise DataError("there are no relaxed positions (`pos_relaxed`): is this a test split, or of frames?")
        positions = _array(fields, "pos_relaxed", (n, 3))
    elif name != "y_relaxed":
        key = next((key for key in FORCES_NAMES if fields.get(key) is not None), None)
        forces = None if key is None else _array(fields, key, (n, 3))
    info = {key: _scalar(fields[key], key) for key in _SCALARS if fields.get(key) is not None}
    energy = None if name is None else float(_scalar(fields[name], name))
    if energy is not None and options.oc20_references is not None and "oc22" not in info:
        energy += _reference(options.oc20_references, info)
    fixed, tags = fields.get("fixed"), fields.get("tags")
    return Structure(
        numbers=numbers,
        positions=positions,
        cell=_array(fields, "cell", (3, 3)),
        pbc=np.ones(3, dtype=np.bool_) if fields.get("pbc") is None else _array(fields, "pbc", (3,)).astype(np.bool_),
        energy=energy,
        forces=forces,
        info=info,
        fixed=None if fixed is None else _array(fields, "fixed", (n,)) != 0,
        tags=None if tags is None else _array(fields, "tags", (n,)).astype(np.int64),
    )


def read_oc20_references(path: str | os.PathLike[str]) -> dict[int, float]:
    """Reference energies of OC20 in eV by system, from the published `oc20_ref.pkl` of `{"random<system>": energy}`.

    Raises:
        DataError: If the file holds anything else.
    """
    content = loads(Path(path).read_bytes(), NUMPY, Limits(max_bytes=1 << 30))
    if not isinstance(content, dict):
        raise DataError(f"{path} should hold a dictionary of reference energies, got {type(content).__name__}.")
    try:
        return {int(name.removeprefix("random")): float(energy) for name, energy in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f'{path} should hold `{{"random<system>": energy}}` ({error}).') from error


def check_one_kind_of_energy(structures: Sequence[Structure], options: OCPOptions = OCPOptions()) -> None:
    """Refuse adsorption energies of OC20 beside total energies of OC22.

    Raises:
        DataError: If both are there and there are no reference energies to make totals of the former.
    """
    kinds = {"oc22" in s.info for s in structures if s.energy is not None}
    if len(kinds) > 1 and options.oc20_references is None:
        raise DataError(
            "Some records are of OC22, with total energies, and some of OC20, with adsorption energies. Give "
            "oc20_ref.pkl, which makes total energies of the latter, or read them apart."
        )


def _array(fields: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A field as float64 of a shape, leading ones in the file's allowed for; any list if the shape is empty."""
    if fields.get(name) is None:
        raise DataError(f"there is no `{name}`; found {', '.join(sorted(fields)) or 'nothing'}.")
    try:
        value = np.array(fields[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"`{name}` should hold numbers ({error}).") from error
    if not shape:
        return value.reshape(-1)
    if value.size != np.prod(shape):
        raise DataError(f"`{name}` should have shape {shape}, got {value.shape}.")
    return value.reshape(shape)


def _scalar(value: Any, name: str) -> Scalar:
    """A number, text, or array or tensor of one number."""
    if isinstance(value, str | bool | int | float):
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise DataError(f"`{name}` should be one number, got {value!r}.")
    return array.reshape(()).item()


def _reference(references: Mapping[int, float], info: Mapping[str, Scalar]) -> float:
    sid = info.get("sid")
    if not isinstance(sid, int) or sid not in references:
        raise DataError(f"there is no reference energy of OC20 system {sid}: is oc20_ref.pkl complete?")
    return references[sid]


def _surfaces(path: Path, surfaces: str, count: int) -> set[int] | None:
    """Records that are slabs with or without adsorbates, by the lines of the text beside the file; None for all."""
    if surfaces == "all":
        return None
    index = next((p for p in (path.with_suffix(".txt"), _log_of(path)) if p.is_file()), None)
    if index is None:
        raise DataError(f"{path} has no text beside it that tells slabs from slabs with adsorbates.")
    lines = index.read_text(encoding="utf-8").splitlines()
    if len(lines) != count:
        raise DataError(f"{index.name} has {len(lines)} lines, but {path.name} has {count} records.")
    return {k for k, line in enumerate(lines) if ("clean" in line) == (surfaces == "slabs")}


def _log_of(path: Path) -> Path:
    """`data.0001.lmdb` -> `data_log.0001.txt`."""
    return path.with_name(path.name.replace("data.", "data_log.", 1)).with_suffix(".txt")


def _outlier(structure: Structure, options: OCPOptions) -> str | None:
    """Why to leave a structure out, or None."""
    if options.max_energy is not None and structure.energy is not None and abs(structure.energy) > options.max_energy:
        return f"|energy| above {options.max_energy:g} eV"
    if options.max_force is None or structure.forces is None:
        return None
    above = np.linalg.norm(structure.forces, axis=1).max() > options.max_force
    return f"a force above {options.max_force:g} eV/Å" if above else None
