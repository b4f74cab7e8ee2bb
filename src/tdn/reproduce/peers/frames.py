"""Labelled frames in one `.npz`: how they get to the interpreter of a peer, and predictions back. NumPy only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Frame(NamedTuple):
    """One structure with labels, or with predictions in their place; what there is none of is NaN.

    Attributes:
        numbers: Atomic numbers, int64 `[n]`.
        positions: Å `[n, 3]`.
        cell: Rows are lattice vectors, Å `[3, 3]`.
        pbc: Periodic directions, bool `[3]`.
        energy: eV, above a sum of constants of the elements.
        forces: eV/Å `[n, 3]`.
        stress: eV/Å³, ASE's sign `[3, 3]`.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


def write(path: str | os.PathLike[str], frames: Sequence[Frame]) -> None:
    """Write frames; `read` gives them back."""
    columns = dict(zip(Frame._fields, zip(*frames, strict=True), strict=True))
    by_atom: dict[str, Any] = {name: np.concatenate(columns[name]) for name in ("numbers", "positions", "forces")}
    by_frame: dict[str, Any] = {name: np.array(columns[name]) for name in ("cell", "pbc", "energy", "stress")}
    np.savez(path, sizes=np.array([len(frame.numbers) for frame in frames]), **by_atom, **by_frame)


def read(path: str | os.PathLike[str]) -> list[Frame]:
    """Frames of a file that `write` made."""
    with np.load(path, allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["sizes"])[:-1]
        atoms = [np.split(arrays[name], ends) for name in ("numbers", "positions", "forces")]
        numbers, positions, forces = atoms
        cell, pbc, energy, stress = (arrays[name] for name in ("cell", "pbc", "energy", "stress"))
    return [
        Frame(numbers[k], positions[k], cell[k], pbc[k], float(energy[k]), forces[k], stress[k])
        for k in range(len(numbers))
    ]
