"""Metrics of the Open Catalyst tasks, as published with OC20 (2010.09990) and in the evaluator of fairchem 1.0.

Numbers are in eV, eV/Å and Å, and shares are fractions. Forces and positions count on free atoms only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tdn.errors import DataError
from tdn.structure import Structure

ENERGY_THRESHOLD = 0.02  # eV
FORCE_THRESHOLD = 0.03  # eV/Å
DISTANCE_THRESHOLDS = np.arange(0.01, 0.5, 0.001)  # Å

# The metric that ranks models.
PRIMARY_METRICS = {
    "s2ef": "energy_forces_within_threshold",
    "is2re": "energy_mae",
    "is2rs": "average_distance_within_threshold",
}


METRICS = {
    "s2ef": (
        *("energy_mae", "forces_mae", "forcesx_mae", "forcesy_mae", "forcesz_mae"),
        *("forces_cosine_similarity", "forces_magnitude_error", PRIMARY_METRICS["s2ef"]),
    ),
    "is2re": ("energy_mae", "energy_mse", "energy_within_threshold"),
}


class EnergyAndForces(Protocol):
    """What a model says of one structure."""

    @property
    def energy(self) -> float:
        """EV."""
        ...

    @property
    def forces(self) -> NDArray[np.float64]:
        """eV/Å, `[n, 3]`."""
        ...


class TaskMetrics:
    """Metrics of S2EF or IS2RE over structures that are added batch by batch, and need not be in memory together.

    Args:
        task: `s2ef` or `is2re`.

    Raises:
        DataError: If there is no such task.
    """

    def __init__(self, task: str) -> None:
        if task not in ("s2ef", "is2re"):
            raise DataError(f"Energies and forces have the metrics of s2ef and is2re, not of {task!r}.")
        self.task = task
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._systems = self._free_atoms = 0

    def add(
        self,
        structures: Sequence[Structure],
        energies: Sequence[float],
        forces: Sequence[NDArray[np.float64]] = (),
    ) -> None:
        """Add labelled structures and what a model says of them, eV and eV/Å; forces count for `s2ef` only.

        Raises:
            DataError: If a label is missing.
        """
        errors = energy_errors(structures, energies, self._systems)
        if self.task == "s2ef":
            self._add_forces(structures, forces, np.abs(errors) < ENERGY_THRESHOLD)
        else:
            self._sums["energy_within_threshold"] += int((np.abs(errors) < ENERGY_THRESHOLD).sum())
            self._sums["energy_mse"] += float(np.square(errors).sum())
        self._sums["energy_mae"] += float(np.abs(errors).sum())
        self._systems += len(structures)

    def _add_forces(
        self, structures: Sequence[Structure], forces: Sequence[NDArray[np.float64]], within: NDArray[np.bool_]
    ) -> None:
        expected = [_labelled_forces(self._systems + k, s)[s.free] for k, s in enumerate(structures)]
        given = [np.asarray(f, dtype=np.float64)[s.free] for f, s in zip(forces, structures, strict=True)]
        largest = np.array([np.abs(p - f).max(initial=0.0) for p, f in zip(given, expected, strict=True)])
        self._sums[PRIMARY_METRICS["s2ef"]] += int((within & (largest < FORCE_THRESHOLD)).sum())
        predicted, reference = np.concatenate(given), np.concatenate(expected)
        for axis, column in zip("xyz", np.abs(predicted - reference).T, strict=True):
            self._sums[f"forces{axis}_mae"] += float(column.sum())
        lengths = np.linalg.norm(predicted, axis=1) - np.linalg.norm(reference, axis=1)
        self._sums["forces_cosine_similarity"] += float(cosine_similarity(predicted, reference).sum(dtype=np.float64))
        self._sums["forces_magnitude_error"] += float(np.abs(lengths).sum())
        self._free_atoms += len(reference)

    def result(self) -> dict[str, float]:
        """Of everything added; see `s2ef_metrics` and `is2re_metrics`.

        Raises:
            DataError: If there was no structure, or no free atom where forces count.
        """
        if not self._systems:
            raise DataError("There are no structures to compare with.")
        if self.task == "s2ef" and not self._free_atoms:
            raise DataError("Force metrics are over free atoms, and all atoms of these structures are fixed.")
        found = {
            name: total / (self._free_atoms if name.startswith("forces") else self._systems)
            for name, total in self._sums.items()
        }
        if self.task == "s2ef":
            found["forces_mae"] = sum(found[f"forces{axis}_mae"] for axis in "xyz") / 3
        return {name: found[name] for name in METRICS[self.task]}


def s2ef_metrics(structures: Sequence[Structure], predictions: Sequence[EnergyAndForces]) -> dict[str, float]:
    """Structure to energy and forces.

    Args:
        structures: With energies and forces.
        predictions: One a structure.

    Returns:
        `energy_mae` (a system); `forces_mae` (a component) and its parts `forcesx_mae`, `forcesy_mae`, `forcesz_mae`;
        `forces_cosine_similarity` and `forces_magnitude_error` (an atom); and `energy_forces_within_threshold`, EFwT:
        the fraction of systems with an energy error below 0.02 eV and all force components below 0.03 eV/Å.

    Raises:
        DataError: If there is no structure, a label is missing, or no atom is free.
    """
    metrics = TaskMetrics("s2ef")
    metrics.add(structures, [p.energy for p in predictions], [p.forces for p in predictions])
    return metrics.result()


def is2re_metrics(structures: Sequence[Structure], energies: Sequence[float]) -> dict[str, float]:
    """Initial structure to relaxed energy.

    Args:
        structures: With relaxed energies.
        energies: Predicted, eV.

    Returns:
        `energy_mae`, `energy_mse` (eV²), and `energy_within_threshold`, EwT: the fraction with an error below 0.02 eV.

    Raises:
        DataError: If there is no structure or an energy is missing.
    """
    metrics = TaskMetrics("is2re")
    metrics.add(structures, energies)
    return metrics.result()


def is2rs_metrics(relaxed: Sequence[Structure], positions: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """Initial structure to relaxed structure.

    Args:
        relaxed: Relaxed by DFT.
        positions: Relaxed by the model, Å, `[n, 3]` each.

    Returns:
        `average_distance_within_threshold`, ADwT: the fraction of systems whose mean distance is below a threshold,
        averaged over the thresholds 0.01, 0.011, ..., 0.499 Å; `positions_mae` and `positions_mse` of the coordinates
        as they stand, without images.

    Raises:
        DataError: If there is no structure or one has no free atom.
    """
    if not relaxed:
        raise DataError("There are no relaxed structures to compare with.")
    distances, plain = [], []
    for k, (structure, predicted) in enumerate(zip(relaxed, positions, strict=True)):
        if not structure.free.any():
            raise DataError(f"Structure {k} ({structure.formula}) has no free atom that could be displaced.")
        free = structure.free
        distances.append(np.linalg.norm(displacements(structure, predicted)[free], axis=1).mean())
        plain.append((predicted - structure.positions)[free])
    differences = np.concatenate(plain)
    within = np.array(distances)[:, None] < DISTANCE_THRESHOLDS
    return {
        PRIMARY_METRICS["is2rs"]: float(within.mean()),
        "positions_mae": float(np.abs(differences).mean()),
        "positions_mse": float(np.square(differences).mean()),
    }


def displacements(structure: Structure, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """From `structure` to `positions`, Å, `[n, 3]`, fractional coordinates brought to (-1/2, 1/2] where periodic.

    This is the published convention. In a skewed cell it is not always the nearest image, except for short distances.
    """
    difference = np.asarray(positions, dtype=np.float64) - structure.positions
    if not structure.pbc.any():
        return difference
    from ase.geometry import complete_cell

    cell = complete_cell(structure.cell)
    fractional = np.linalg.solve(cell.T, difference.T).T
    periodic = fractional[:, structure.pbc]
    # Twice, since the remainder of a tiny negative number is 1.0.
    periodic = periodic % 1.0 % 1.0
    fractional[:, structure.pbc] = np.where(periodic > 0.5, periodic - 1.0, periodic)
    return np.asarray(fractional @ cell, dtype=np.float64)


def cosine_similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float32]:
    """Of the rows, in float32 as published: norms below 1e-8 count as 1e-8, so that zero vectors give 0; `[n]`."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    norms = [np.maximum(np.linalg.norm(x, axis=1), np.float32(1e-8)) for x in (a, b)]
    return np.sum(a * b, axis=1) / (norms[0] * norms[1])


def energy_errors(structures: Sequence[Structure], energies: Sequence[float], first: int = 0) -> NDArray[np.float64]:
    """Predicted minus labelled, eV, `[n]`; messages number the structures from `first`.

    Raises:
        DataError: If there is no structure or an energy is missing.
    """
    if not structures:
        raise DataError("There are no structures to compare with.")
    missing = [k for k, s in enumerate(structures) if s.energy is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(structures)} structures have no energy, the first is number {first + missing[0]}: "
            "test splits come without targets, so write a submission instead."
        )
    return np.asarray(energies, dtype=np.float64) - np.array([s.energy for s in structures], dtype=np.float64)


def _labelled_forces(index: int, structure: Structure) -> NDArray[np.float64]:
    if structure.forces is None:
        raise DataError(f"Structure {index} ({structure.formula}) has no forces: S2EF metrics need them.")
    return structure.forces
