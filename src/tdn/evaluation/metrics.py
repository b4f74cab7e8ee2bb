"""Error measures; every number is in meV-based units, as tables of interatomic potentials print them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class FramePrediction:
    """What the potential says of one structure.

    Attributes:
        energy: Total energy, eV.
        forces: eV/Å, float64 `[n, 3]`; NaN if the potential predicts none.
        stress: eV/Å³, ASE's sign, float64 `[3, 3]`; None if the structure is not periodic in all directions
            or the potential predicts none.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None


@dataclass(frozen=True)
class Errors:
    """Errors of one quantity over all labelled values.

    Attributes:
        mae: Mean absolute error.
        rmse: Root mean square error.
        max: Largest absolute error.
        count: Values compared: frames for energies, components for forces and stress.
        relative_rmse_percent: `100 rmse / rms(reference)` for forces, None for the others, whose zero is arbitrary
            or often exact.
    """

    mae: float
    rmse: float
    max: float
    count: int
    relative_rmse_percent: float | None = None

    def to_dict(self) -> dict[str, float | int]:
        """The measures by name; those that do not apply are left out."""
        measures = {"mae": self.mae, "rmse": self.rmse, "max": self.max, "count": self.count}
        if self.relative_rmse_percent is not None:
            measures["relative_rmse_percent"] = self.relative_rmse_percent
        return measures


@dataclass(frozen=True)
class ErrorTable:
    """Errors of a set of frames; None for what no frame has a label of.

    Attributes:
        energy: Total energies, meV.
        energy_per_atom: Total energies divided by the number of atoms, meV/atom.
        forces: Force components, meV/Å.
        stress: The nine stress components, meV/Å³.
        frames: Number of frames.
        atoms: Number of atoms.
        force_vector_rmse: Mean over frames of the root of the mean squared length of a frame's force errors, meV/Å: the
            "RMSE" of 2507.01131, about sqrt(3) times that of the components.
    """

    energy: Errors | None
    energy_per_atom: Errors | None
    forces: Errors | None
    stress: Errors | None
    frames: int
    atoms: int
    force_vector_rmse: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Errors by quantity, None where there are no labels, with the counts."""
        quantities = {
            "energy": self.energy,
            "energy_per_atom": self.energy_per_atom,
            "forces": self.forces,
            "stress": self.stress,
        }
        errors: dict[str, object] = {name: value.to_dict() if value else None for name, value in quantities.items()}
        return {**errors, "force_vector_rmse": self.force_vector_rmse, "frames": self.frames, "atoms": self.atoms}


def measure_errors(predicted: ArrayLike, reference: ArrayLike, *, scale: float = 1.0, relative: bool = False) -> Errors:
    """Compare two arrays of the same shape, value by value, in float64.

    Args:
        predicted: Any shape, not empty.
        reference: The same shape.
        scale: Factor on the errors, such as meV per eV.
        relative: Whether to give the RMSE in percent of the reference's root mean square, too.
    """
    expected: NDArray[np.float64] = np.asarray(reference, dtype=np.float64)
    error = (np.asarray(predicted, dtype=np.float64) - expected) * scale
    rmse = float(np.sqrt(np.square(error).mean()))
    # A set of frames at rest has no force scale to compare with; a tiny one in its place gives a finite, huge number.
    size = max(float(np.sqrt(np.square(expected * scale).mean())), np.finfo(np.float64).tiny ** 0.5)
    return Errors(
        mae=float(np.abs(error).mean()),
        rmse=rmse,
        max=float(np.abs(error).max()),
        count=error.size,
        relative_rmse_percent=100.0 * rmse / size if relative else None,
    )
