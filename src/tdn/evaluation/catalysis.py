"""Metrics of the Open Catalyst tasks, as published with OC20 (2010.09990) and in the evaluator of fairchem 1.0.

Numbers are in eV, eV/Å and Å, and shares are fractions. Forces and positions count on free atoms only.
"""

from __future__ import annotations

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
    expected = [_labelled_forces(k, s) for k, s in enumerate(structures)]
    free = [s.free for s in structures]
    errors = energy_errors(structures, [p.energy for p in predictions])
    given = [np.asarray(p.forces, dtype=np.float64) for p in predictions]
    differences = [p[own] - f[own] for p, f, own in zip(given, expected, free, strict=True)]
    largest = np.array([np.abs(d).max(initial=0.0) for d in differences])
    predicted = np.concatenate([p[own] for p, own in zip(given, free, strict=True)])
    reference = np.concatenate([f[own] for f, own in zip(expected, free, strict=True)])
    if not len(reference):
        raise DataError("Force metrics are over free atoms, and all atoms of these structures are fixed.")
    absolute = np.abs(np.concatenate(differences))
    lengths = np.linalg.norm(predicted, axis=1) - np.linalg.norm(reference, axis=1)
    return {
        "energy_mae": float(np.abs(errors).mean()),
        "forces_mae": float(absolute.mean()),
        **{f"forces{axis}_mae": float(absolute[:, k].mean()) for k, axis in enumerate("xyz")},
        "forces_cosine_similarity": float(cosine_similarity(predicted, reference).mean()),
        "forces_magnitude_error": float(np.abs(lengths).mean()),
        PRIMARY_METRICS["s2ef"]: float(((np.abs(errors) < ENERGY_THRESHOLD) & (largest < FORCE_THRESHOLD)).mean()),
    }


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
    errors = energy_errors(structures, energies)
    return {
        "energy_mae": float(np.abs(errors).mean()),
        "energy_mse": float(np.square(errors).mean()),
        "energy_within_threshold": float((np.abs(errors) < ENERGY_THRESHOLD).mean()),
    }


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


def energy_errors(structures: Sequence[Structure], energies: Sequence[float]) -> NDArray[np.float64]:
    """Predicted minus labelled, eV, `[n]`.

    Raises:
        DataError: If there is no structure or an energy is missing.
    """
    if not structures:
        raise DataError("There are no structures to compare with.")
    missing = [k for k, s in enumerate(structures) if s.energy is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(structures)} structures have no energy, the first is number {missing[0]}: test "
            "splits come without targets, so write a submission instead."
        )
    return np.asarray(energies, dtype=np.float64) - np.array([s.energy for s in structures], dtype=np.float64)


def _labelled_forces(index: int, structure: Structure) -> NDArray[np.float64]:
    if structure.forces is None:
        raise DataError(f"Structure {index} ({structure.formula}) has no forces: S2EF metrics need them.")
    return structure.forces
