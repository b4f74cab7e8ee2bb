"""Systems of DeePMD-kit: a folder with `type.raw`, `type_map.raw` and `set.*/{coord,box,energy,force,virial}.npy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tdn.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms


def is_deepmd(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / "type.raw").is_file()


def deepmd_files(path: Path) -> list[Path]:
    """The files of a system, in a fixed order."""
    return sorted([*path.glob("*.raw"), *path.glob("set.*/*.npy")])


def read_deepmd(path: Path) -> list[Atoms]:
    """All frames of a system: Å, eV, eV/Å; a virial (eV) stays one, for `tdn.data.labels` to make a stress of.

    Raises:
        DataError: If a file is missing, or its shape is not that of the others.
    """
    from ase.data import atomic_numbers

    if not (path / "type_map.raw").is_file():
        raise DataError(f"{path} has no type_map.raw: list the elements of the types in it, one a line.")
    names = (path / "type_map.raw").read_text(encoding="utf-8").split()
    types = np.loadtxt(path / "type.raw", dtype=np.int64, ndmin=1)
    unknown = [name for name in names if name not in atomic_numbers]
    if unknown or types.max(initial=0) >= len(names):
        raise DataError(
            f"{path}: type_map.raw must name an element for every type of type.raw, got {', '.join(names)}."
        )
    numbers = np.array([atomic_numbers[name] for name in names])[types]
    sets = sorted(path.glob("set.*"))
    if not sets:
        raise DataError(f"{path} has no set.* folder with frames.")
    return [atoms for folder in sets for atoms in _read_set(folder, numbers, not (path / "nopbc").exists())]


def _read_set(folder: Path, numbers: np.ndarray, periodic: bool) -> list[Atoms]:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    def load(name: str, width: int) -> np.ndarray:
        file = folder / f"{name}.npy"
        values = np.load(file, allow_pickle=False).astype(np.float64)
        if values.size != count * width:
            raise DataError(f"{file} has shape {values.shape}; {count} frames of {width} numbers expected.")
        return values.reshape(count, width)

    count = len(np.load(folder / "coord.npy", allow_pickle=False, mmap_mode="r"))
    coords, box = load("coord", 3 * len(numbers)), load("box", 9) if periodic else None
    widths = {"energy": 1, "force": 3 * len(numbers), "virial": 9}
    labels = {name: load(name, width) for name, width in widths.items() if (folder / f"{name}.npy").is_file()}
    frames = []
    for k in range(count):
        cell = None if box is None else box[k].reshape(3, 3)
        atoms = Atoms(numbers=numbers, positions=coords[k].reshape(-1, 3), cell=cell, pbc=periodic)
        results = {}
        if "energy" in labels:
            results["energy"] = float(labels["energy"][k, 0])
        if "force" in labels:
            results["forces"] = labels["force"][k].reshape(-1, 3)
        if "virial" in labels:
            atoms.info["virial"] = labels["virial"][k].reshape(3, 3)
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames
