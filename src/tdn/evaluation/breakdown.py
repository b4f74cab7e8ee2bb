"""Where the errors of an evaluation are: by force magnitude, by element, by any key of the frames, frame by frame."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdn.evaluation.evaluate import Evaluation
from tdn.evaluation.metrics import Errors, ErrorTable, FramePrediction, measure_errors
from tdn.evaluation.running import has_forces
from tdn.evaluation.tables import tabulate_by
from tdn.structure import Structure
from tdn.units import MEV_PER_EV

Array = NDArray[np.float64]

EDGES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, np.inf)
"""Bounds of the classes of force magnitudes, eV/Å."""


@dataclass(frozen=True)
class AtomErrors:
    """Force errors of the free atoms of all frames that have forces.

    Attributes:
        frame: Index of the atom's frame, int64 `[m]`.
        numbers: Atomic number, int64 `[m]`.
        predicted: Forces, eV/Å, `[m, 3]`.
        reference: Forces, eV/Å, `[m, 3]`.
    """

    frame: NDArray[np.int64]
    numbers: NDArray[np.int64]
    predicted: Array
    reference: Array

    @property
    def size(self) -> Array:
        """Length of the reference force, eV/Å, `[m]`."""
        return np.linalg.norm(self.reference, axis=1)

    @property
    def squared(self) -> Array:
        """Squared length of the error, (eV/Å)², `[m]`."""
        return np.square(self.predicted - self.reference).sum(axis=1)


@dataclass(frozen=True)
class ForceClass:
    """Force errors of the atoms whose reference force is in a range of lengths.

    Attributes:
        low: Smallest length, eV/Å.
        high: Largest length, exclusive; infinite for the last class.
        forces: Errors of the components, meV/Å.
        atoms: Number of atoms.
        share_of_atoms: Of all atoms, 0 to 1.
        share_of_error: Of the summed squared force error.
    """

    low: float
    high: float
    forces: Errors
    atoms: int
    share_of_atoms: float
    share_of_error: float

    @property
    def label(self) -> str:
        """Its range, for people."""
        return f"{self.low:g} and more" if np.isinf(self.high) else f"{self.low:g} to {self.high:g}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `high` is None in the last class."""
        return {**vars(self), "high": None if np.isinf(self.high) else self.high, "forces": self.forces.to_dict()}


@dataclass(frozen=True)
class ElementClass:
    """What an element has to do with the errors.

    Attributes:
        symbol: Chemical symbol.
        frames: Frames with energies that contain it.
        energy_per_atom: Errors of these frames' energies, meV/atom; None without energies.
        share_of_frames: Of all frames with energies, 0 to 1.
        share_of_energy_error: Of the summed squared error of the energy per atom.
        share_of_atoms: Of all atoms with forces.
        share_of_force_error: Of the summed squared force error.
    """

    symbol: str
    frames: int
    energy_per_atom: Errors | None
    share_of_frames: float
    share_of_energy_error: float
    share_of_atoms: float
    share_of_force_error: float


@dataclass(frozen=True)
class Breakdown:
    """Where the errors are.

    Attributes:
        energy_error: Signed error of each frame's energy, eV/atom, `[n]`; NaN without a label.
        force_rmse: RMSE of each frame's force components, eV/Å, `[n]`; NaN without labels.
        atoms: Force errors atom by atom.
        force_classes: By length of the reference force, those with atoms.
        elements: By element, in the order of atomic numbers.
        groups: Errors by the values of each key that was asked for.
    """

    energy_error: Array
    force_rmse: Array
    atoms: AtomErrors
    force_classes: tuple[ForceClass, ...]
    elements: tuple[ElementClass, ...]
    groups: Mapping[str, dict[str, ErrorTable]]

    def to_dict(self) -> dict[str, object]:
        """Force classes and groups as JSON types under stable names: part of what `tdn eval --json` writes."""
        groups = {key: {name: t.to_dict() for name, t in tables.items()} for key, tables in self.groups.items()}
        return {"by_force_magnitude": [c.to_dict() for c in self.force_classes], "by": groups}


def break_down(evaluation: Evaluation, by: Sequence[str] = ()) -> Breakdown:
    """Break the errors of an evaluation down; of a frame store, those of the frames it keeps.

    Args:
        evaluation: What was measured.
        by: Keys of the frames' `info` to group by.

    Raises:
        ConfigError: If no frame has a key.
    """
    structures, predictions = evaluation.structures, evaluation.predictions
    atoms = _atom_errors(structures, predictions)
    energy_error, force_rmse = np.full(len(structures), np.nan), np.full(len(structures), np.nan)
    for k, (s, p) in enumerate(zip(structures, predictions, strict=True)):
        if s.energy is not None:
            energy_error[k] = (p.energy - s.energy) / len(s)
    counts = np.bincount(atoms.frame, minlength=len(structures))
    sums = np.bincount(atoms.frame, weights=atoms.squared, minlength=len(structures))
    force_rmse[counts > 0] = np.sqrt(sums[counts > 0] / (3 * counts[counts > 0]))
    return Breakdown(
        energy_error,
        force_rmse,
        atoms,
        _force_classes(atoms),
        _element_classes(structures, energy_error, atoms),
        {key: tabulate_by(structures, predictions, key) for key in by},
    )


def _atom_errors(structures: Sequence[Structure], predictions: Sequence[FramePrediction]) -> AtomErrors:
    parts = [
        (np.full(int(s.free.sum()), k), s.numbers[s.free], p.forces[s.free], s.forces[s.free])
        for k, (s, p) in enumerate(zip(structures, predictions, strict=True))
        if s.forces is not None and has_forces(s, p)
    ]
    if not parts:
        return AtomErrors(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3)))
    return AtomErrors(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _force_classes(atoms: AtomErrors) -> tuple[ForceClass, ...]:
    size, squared, found = atoms.size, atoms.squared, []
    for low, high in itertools.pairwise(EDGES):
        own = (size >= low) & (size < high)
        if own.any():
            errors = measure_errors(atoms.predicted[own], atoms.reference[own], scale=MEV_PER_EV, relative=True)
            found.append(ForceClass(low, high, errors, int(own.sum()), float(own.mean()), share(squared, own)))
    return tuple(found)


def _element_classes(
    structures: Sequence[Structure], energy_error: Array, atoms: AtomErrors
) -> tuple[ElementClass, ...]:
    from ase.data import chemical_symbols

    labelled, found = np.isfinite(energy_error), []
    squared, errors = np.square(np.where(labelled, energy_error, 0.0)), energy_error * MEV_PER_EV
    for z in sorted({int(z) for s in structures for z in np.unique(s.numbers)}):
        having = labelled & np.array([bool((s.numbers == z).any()) for s in structures])
        own = atoms.numbers == z
        found.append(
            ElementClass(
                symbol=chemical_symbols[z],
                frames=int(having.sum()),
                energy_per_atom=measure_errors(errors[having], 0.0 * errors[having]) if having.any() else None,
                share_of_frames=float(having.sum() / max(labelled.sum(), 1)),
                share_of_energy_error=share(squared, having),
                share_of_atoms=float(own.mean()) if len(own) else 0.0,
                share_of_force_error=share(atoms.squared, own),
            )
        )
    return tuple(found)


def share(squared: Array, chosen: NDArray[np.bool_]) -> float:
    """Part of the sum that is due to the chosen ones, 0 to 1; 0 if there is no error at all."""
    total = float(squared.sum())
    return float(squared[chosen].sum()) / total if total > 0 else 0.0
