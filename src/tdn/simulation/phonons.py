"""Phonons of crystals through phonopy: displaced supercells, their forces in batches, bands and densities of states."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tdn.data.dataset import GraphDataset
from tdn.errors import ConfigError, DataError
from tdn.evaluation.evaluate import predict
from tdn.models.potential import Potential
from tdn.report.figures import ACCENT, MUTED, STYLE
from tdn.structure import Structure

# THz; acoustic branches at the zone's centre miss zero by less.
IMAGINARY = -0.1


@dataclass(frozen=True)
class Phonons:
    """Phonons of one crystal.

    Attributes:
        distances: Along the path through the Brillouin zone, one array a straight segment.
        bands: Frequencies on it, THz, negative where imaginary, `[k, branches]` a segment.
        labels: `(distance, name)` of the special points.
        dos: Frequencies and density of states, `[2, m]`.
        temperatures: K.
        heat_capacity: J/K/mol of primitive cells.
        free_energy: kJ/mol.
        lowest: Lowest frequency on the mesh, THz.
        phonopy: The object itself, for all else.
    """

    distances: tuple[NDArray[np.float64], ...]
    bands: tuple[NDArray[np.float64], ...]
    labels: tuple[tuple[float, str], ...]
    dos: NDArray[np.float64]
    temperatures: NDArray[np.float64]
    heat_capacity: NDArray[np.float64]
    free_energy: NDArray[np.float64]
    lowest: float
    phonopy: Any

    @property
    def stable(self) -> bool:
        """Whether no frequency is imaginary."""
        return self.lowest > IMAGINARY and min(float(band.min()) for band in self.bands) > IMAGINARY

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "stable": self.stable, "lowest_THz": self.lowest,
            "path": {"distances": [d.tolist() for d in self.distances], "bands_THz": [b.tolist() for b in self.bands],
                     "labels": [list(label) for label in self.labels]},
            "dos": {"frequencies_THz": self.dos[0].tolist(), "density": self.dos[1].tolist()},
            "thermal": {"temperatures_K": self.temperatures.tolist(), "free_energy_kJ_mol": self.free_energy.tolist(),
                        "heat_capacity_J_K_mol": self.heat_capacity.tolist()},
        }  # fmt: skip


def phonons(
    potential: Potential,
    atoms: Atoms,
    *,
    supercell: Sequence[int] | None = None,
    displacement: float = 0.01,
    mesh: float = 60.0,
) -> Phonons:
    """Phonons of a relaxed crystal.

    Args:
        potential: The model; use float64.
        atoms: The crystal, relaxed with its cell.
        supercell: Repetitions of the cell; by default as many as make each of its heights at least twice the cutoff.
        displacement: Å.
        mesh: Density of the mesh for the density of states, as in phonopy: a length in Å.

    Raises:
        ConfigError: If phonopy is not installed.
        DataError: If the crystal is not periodic in all directions.
    """
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError as error:
        raise ConfigError(f"phonopy is not installed ({error}): pip install 'tdn[phonons]'.") from error
    if not atoms.pbc.all():
        raise DataError(f"Phonons need a crystal periodic in all directions, got pbc={atoms.pbc.tolist()}.")
    potential.check_elements(atoms.numbers)
    repeats = list(supercell) if supercell is not None else fitting_supercell(atoms, 2 * potential.r_max)
    cell = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that phonopy 3 did not look for the primitive cell unless asked
        phonon = Phonopy(cell, supercell_matrix=np.diag(repeats), primitive_matrix="auto")
    phonon.generate_displacements(distance=displacement)
    displaced = [_structure(c) for c in phonon.supercells_with_displacements or [] if c is not None]
    forces = [p.forces for p in predict(potential, GraphDataset(displaced, potential.r_max))]
    phonon.forces = np.array([own - own.mean(axis=0) for own in forces])
    phonon.produce_force_constants(show_drift=False)
    phonon.symmetrize_force_constants(show_drift=False)
    return _analyse(phonon, mesh)


def fitting_supercell(atoms: Atoms, height: float) -> list[int]:
    """Repetitions that make each height of the cell at least `height` (Å)."""
    rows = atoms.cell.array
    heights = atoms.get_volume() / np.linalg.norm(
        [np.cross(rows[(k + 1) % 3], rows[(k + 2) % 3]) for k in range(3)], axis=1
    )
    return [max(1, int(np.ceil(height / own - 1e-6))) for own in heights]


def _structure(cell: Any) -> Structure:
    return Structure(
        numbers=np.asarray(cell.numbers, dtype=np.int64),
        positions=np.array(cell.positions, dtype=np.float64),
        cell=np.array(cell.cell, dtype=np.float64),
        pbc=np.ones(3, dtype=np.bool_),
    )


def _analyse(phonon: Any, mesh: float) -> Phonons:
    primitive = phonon.primitive
    path = Atoms(numbers=primitive.numbers, cell=primitive.cell, pbc=True).cell.bandpath(npoints=0)
    names = [_split(part) for part in path.path.split(",")]
    pairs = [(a, b) for part in names for a, b in itertools.pairwise(part)]
    points = path.special_points
    paths = [np.linspace(points[a], points[b], 51) for a, b in pairs]
    phonon.run_band_structure(paths)
    found = phonon.get_band_structure_dict()
    distances = tuple(np.asarray(d) for d in found["distances"])
    labels = [(float(distances[0][0]), pairs[0][0])]
    for (_, end), (begin, _), own in zip(pairs, [*pairs[1:], (pairs[-1][1], "")], distances, strict=True):
        labels.append((float(own[-1]), end if begin == end else f"{end}|{begin}"))
    phonon.run_mesh(mesh)
    lowest = float(phonon.get_mesh_dict()["frequencies"].min())
    phonon.run_total_dos()
    dos = phonon.get_total_dos_dict()
    phonon.run_thermal_properties(t_min=0, t_max=1000, t_step=50, exclude_gamma_acoustic=True)
    thermal = phonon.get_thermal_properties_dict()
    return Phonons(
        distances=distances,
        bands=tuple(np.asarray(b) for b in found["frequencies"]),
        labels=tuple(labels),
        dos=np.array([dos["frequency_points"], dos["total_dos"]]),
        temperatures=np.asarray(thermal["temperatures"]),
        heat_capacity=np.nan_to_num(thermal["heat_capacity"]),
        free_energy=np.nan_to_num(thermal["free_energy"]),
        lowest=lowest,
        phonopy=phonon,
    )


def _split(path: str) -> list[str]:
    """`GXM1K` as G, X, M1, K."""
    names: list[str] = []
    for character in path:
        if character.isdigit() and names:
            names[-1] += character
        else:
            names.append(character)
    return names


def bands_figure(result: Phonons) -> Figure:
    """Bands along the path, and the density of states beside them."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.0, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    for distances, bands in zip(result.distances, result.bands, strict=True):
        left.plot(distances, bands, color=ACCENT, linewidth=1.0)
    for place, _ in result.labels:
        left.axvline(place, color=MUTED, linewidth=0.6)
    left.set_xticks([place for place, _ in result.labels], [n.replace("G", "Γ") for _, n in result.labels])
    left.set_xlim(0, result.distances[-1][-1])
    left.set_ylabel("frequency (THz)")
    if result.stable:
        left.set_ylim(bottom=0)
    left.axhline(0, color=MUTED, linewidth=0.6)
    left.grid(axis="x", visible=False)
    right.plot(result.dos[1], result.dos[0], color=ACCENT, linewidth=1.0)
    right.set_xlim(left=0)
    right.set_xticks([])
    right.set_xlabel("states")
    return figure
