"""Files to `ase.Atoms`: everything ASE reads, ASE databases with all their keys, rMD17's npz, DeePMD's folders."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tdn.data.aselmdb import read_rows
from tdn.data.deepmd import deepmd_files, is_deepmd, read_deepmd
from tdn.data.oc20_raw import is_raw, read_raw_frames
from tdn.errors import DataError
from tdn.units import EV_PER_KCAL_PER_MOL

if TYPE_CHECKING:
    from ase import Atoms
    from ase.db.row import AtomsRow

PathLike = str | os.PathLike[str]


# What is taken from a folder; data sets in many files come as such.
FOLDER_SUFFIXES = (".lmdb", ".aselmdb", ".extxyz", ".extxyz.xz")


def expand_paths(paths: PathLike | Sequence[PathLike]) -> list[Path]:
    """Files behind names, folders and glob patterns, each once, those of a folder or pattern in alphabetical order.

    Raises:
        DataError: If a file does not exist, a pattern matches nothing, or a folder holds no data files.
    """
    names = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files: list[Path] = []
    for name in (os.fspath(path) for path in names):
        if os.path.isdir(name) and not is_deepmd(Path(name)):
            matches = sorted(str(path) for path in Path(name).iterdir() if path.name.endswith(FOLDER_SUFFIXES))
            if not matches:
                raise DataError(f"The folder {name} holds no data files ({', '.join(FOLDER_SUFFIXES)}).")
        else:
            matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            raise DataError(f"No such file: {name}.")
        files += [Path(match) for match in matches if Path(match) not in files]
    if not files:
        raise DataError("No data files were given.")
    return files


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, or a folder, of their digests in order. Tells if two runs saw the same data."""
    digests = []
    parts = [part for file in files for part in (deepmd_files(file) if is_deepmd(file) else [file])]
    for file in parts:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read_atoms(path: Path) -> list[Atoms]:
    """All frames of one file as `ase.Atoms`.

    Raises:
        DataError: If it is empty, damaged or of an unknown format.
    """
    import ase.io

    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: 0 bytes.")
    try:
        if is_deepmd(path):
            return read_deepmd(path)
        if path.suffix == ".npz":
            return _read_rmd17(path)
        if path.suffix in (".db", ".json"):
            return _read_database(path)
        if path.suffix == ".aselmdb":
            return _read_aselmdb(path)
        if is_raw(path):
            return read_raw_frames(path)
        frames = ase.io.read(path, index=":")
    except (DataError, MemoryError):
        raise
    # ASE's readers raise whatever their parsing runs into, so that no narrower class would do.
    except Exception as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}): is it complete?") from error
    return frames if isinstance(frames, list) else [frames]


def _read_database(path: Path) -> list[Atoms]:
    """An ASE database; key-value pairs and data become info and arrays, which `ase.io.read` would drop."""
    import ase.db

    frames = []
    with ase.db.connect(path) as database:  # pyright: ignore[reportGeneralTypeIssues]
        for row in database.select():
            frames.append(_atoms_of_row(row))
    return frames


def _read_aselmdb(path: Path) -> list[Atoms]:
    """The same in an LMDB file, as fairchem writes it; there, a system without `sid` is called by its index."""
    frames = [_atoms_of_row(row) for row in read_rows(path)]
    for index, atoms in enumerate(frames):
        atoms.info.setdefault("sid", index)
    return frames


def _atoms_of_row(row: AtomsRow) -> Atoms:
    """Key-value pairs and data become info, or arrays if they have a value for each atom."""
    atoms = row.toatoms()
    atoms.info.update(row.key_value_pairs)
    for name, value in row.data.items():
        if np.ndim(value) and len(value) == len(atoms) and name not in atoms.arrays:
            atoms.set_array(name, np.asarray(value))
        else:
            atoms.info[name] = value
    return atoms


def _read_rmd17(path: Path) -> list[Atoms]:
    """rMD17's npz: one molecule, Å, kcal/mol and kcal/mol/Å."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    needed = ("nuclear_charges", "coords", "energies", "forces")
    with np.load(path, allow_pickle=False) as content:
        absent = [name for name in needed if name not in content]
        if absent:
            raise DataError(
                f"{path} lacks {', '.join(absent)}: an npz must have rMD17's arrays {', '.join(needed)} (Å, kcal/mol), "
                f"got {', '.join(content.files)}. Write other data as extxyz."
            )
        numbers, coords = content["nuclear_charges"], content["coords"]
        names = [name for name in (*needed[2:], "old_energies", "old_forces") if name in content]
        labels = {name: np.asarray(content[name], dtype=np.float64) * EV_PER_KCAL_PER_MOL for name in names}
    expected = (len(coords), len(numbers), 3)
    shapes = {"coords": coords.shape, **{name: value.shape for name, value in labels.items()}}
    for name, shape in shapes.items():
        if shape != (expected[:1] if "energies" in name else expected):
            raise DataError(f"{path}: `{name}` has shape {shape}; {expected[0]} frames, {expected[1]} atoms expected.")
    frames = []
    for k in range(len(coords)):
        atoms = Atoms(numbers=numbers, positions=coords[k])
        atoms.calc = SinglePointCalculator(atoms, energy=float(labels["energies"][k]), forces=labels["forces"][k])
        # The original MD17 labels are noisier; they are there for whoever names them.
        if "old_energies" in labels:
            atoms.info["old_energies"] = float(labels["old_energies"][k])
        if "old_forces" in labels:
            atoms.arrays["old_forces"] = labels["old_forces"][k]
        frames.append(atoms)
    return frames
