"""Vibrations of molecules and adsorbates at a minimum, from the analytic Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.vibrations import VibrationsData
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tdn.errors import DataError
from tdn.models.potential import Potential
from tdn.report.figures import ACCENT, MUTED, new_figure
from tdn.simulation.hessian import hessian
from tdn.structure import Structure

# A rigid motion of a relaxed molecule has a frequency below this.
RIGID = 30.0
BROADENING = 10.0


@dataclass(frozen=True)
class Vibrations:
    """Harmonic vibrations.

    Attributes:
        frequencies: 1/cm, ascending, negative where imaginary; rigid motions included, `[3 k]` for `k` free atoms.
        modes: Displacements of all atoms along each mode, `[3 k, n, 3]`.
        zero_point_energy: eV, of the real frequencies that are no rigid motions.
    """

    frequencies: NDArray[np.float64]
    modes: NDArray[np.float64]
    zero_point_energy: float

    @property
    def imaginary(self) -> int:
        """Number of imaginary frequencies beyond what rigid motions leave: none at a minimum."""
        return int((self.frequencies < -RIGID).sum())

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "frequencies_per_cm": self.frequencies.tolist(),
            "zero_point_energy_eV": self.zero_point_energy,
            "imaginary": self.imaginary,
        }


def vibrations(potential: Potential, atoms: Atoms) -> Vibrations:
    """Normal modes of `atoms`, which should be at a minimum; fixed atoms do not move.

    Args:
        potential: The model; use float64.
        atoms: The geometry.

    Raises:
        DataError: If no atom is free, or the potential has no Hessian.
    """
    structure = Structure.from_ase(atoms)
    free = np.flatnonzero(structure.free)
    if not len(free):
        raise DataError("All atoms are fixed: nothing can vibrate.")
    matrix = hessian(potential, structure).reshape(len(atoms), 3, len(atoms), 3)
    data = VibrationsData(atoms, matrix[free][:, :, free], indices=free.tolist())
    energies, modes = data.get_energies_and_modes(all_atoms=True)
    signed = (np.real(energies) - np.imag(energies)) / units.invcm
    order = np.argsort(signed)
    signed = signed[order]
    zero_point = 0.5 * float(signed[signed > RIGID].sum()) * units.invcm
    return Vibrations(signed, np.asarray(modes)[order], zero_point)


def spectrum(result: Vibrations) -> Figure:
    """Density of the vibrations over wave numbers, 10/cm broad, with a stroke for each; rigid motions are left out."""
    figure, axes = new_figure()
    end = max(1.1 * float(result.frequencies.max()), 100.0)
    grid = np.linspace(min(float(result.frequencies.min()) - 50.0, 0.0), end, 2000)
    internal = result.frequencies[np.abs(result.frequencies) > RIGID]
    peaks = np.exp(-0.5 * ((grid[:, None] - internal) / BROADENING) ** 2).sum(axis=1)
    axes.plot(grid, peaks, color=ACCENT, linewidth=1.2)
    axes.vlines(internal, 0, 0.12, color=MUTED, linewidth=0.8)
    axes.set_yticks([])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="wave number (1/cm), negative if imaginary", ylabel="vibrations")
    return figure
