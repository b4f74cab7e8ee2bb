"""An exported model against the one that it was made of, on structures of other sizes than the traced ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tdn.checks.measure import AMPLITUDE, with_generators
from tdn.checks.probes import displaced, probe_structures, supercell
from tdn.errors import ExportError
from tdn.graph import AtomGraph
from tdn.models.potential import Potential
from tdn.neighbors import neighbor_list
from tdn.structure import Structure

Array = NDArray[np.float64]
# Energy (eV), forces `[n, 3]` (eV/Å), stress `[3, 3]` (eV/Å³) or None.
Evaluate = Callable[[Structure], tuple[float, Array, Array | None]]

# Largest relative difference between the same physics computed by two programs.
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-11}
# What an export may take on the disk: more than a large model with its code.
EXPORT_BYTES = 100_000_000


@dataclass(frozen=True)
class Agreement:
    """Largest relative differences between an export and its model.

    Attributes:
        energy: Of total energies, relative to the norm of the energies of the atoms above their references.
        forces: Of all forces of a structure, norm by norm.
        stress: Of the stress of periodic structures, norm by norm.
        limit: What they may reach.
    """

    energy: float
    forces: float
    stress: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether all are within the limit; a NaN is not."""
        return all(value <= self.limit for value in (self.energy, self.forces, self.stress))


def comparable(potential: Potential, structures: Sequence[Structure] | None) -> Sequence[Structure]:
    """What to compare on: call it before the export, which may take a minute.

    The atoms of given structures are displaced a little, and the image of a lone periodic atom becomes an atom of its
    own: differences are relative, and the forces in a minimum or in a perfect crystal are nothing but rounding.

    Args:
        potential: The model.
        structures: Given ones; clusters, a crystal and a supercell of the model's elements if None.

    Raises:
        DataError: If the model cannot compute one of them.
    """
    if structures is None:
        structures = probe_structures(potential.elements, potential.r_max)
        return (*structures, supercell(structures[-1]))
    for structure in structures:
        potential.check_elements(structure.numbers)
        neighbor_list(structure, potential.r_max)  # refuses atoms on top of each other
    larger = [supercell(structure) if len(structure) == 1 else structure for structure in structures]
    return [displaced(structure, AMPLITUDE, rng, 1)[0] for structure, rng in with_generators(larger)]


def require_agreement(evaluate: Evaluate, potential: Potential, structures: Sequence[Structure]) -> Agreement:
    """Compare an export with its model.

    Args:
        evaluate: Runs the export.
        potential: The model it was made of.
        structures: What to compare on, of `comparable`.

    Raises:
        ExportError: If a result differs by more than the limit; the export must not be used.
    """
    differences = np.array([_differences(evaluate, potential, structure) for structure in structures])
    # `max` of NumPy hands a NaN on, as it should.
    energy, forces, stress = differences.max(axis=0)
    agreement = Agreement(float(energy), float(forces), float(stress), LIMITS[potential.dtype])
    if not agreement.passed:
        raise ExportError(
            f"The exported model differs from the original: relative differences of energy {energy:.1e}, forces "
            f"{forces:.1e}, stress {stress:.1e}; at most {agreement.limit:.0e} expected. Nothing was written. Try "
            "--dtype float64; if that differs too, please report it with the versions of PyTorch and the compiler."
        )
    return agreement


def _differences(evaluate: Evaluate, potential: Potential, structure: Structure) -> tuple[float, float, float]:
    graph = AtomGraph.from_structure(structure, potential.r_max).to(potential.device)
    expected = potential(graph)
    references = potential.reference_energies[potential.element_index[graph.numbers]]
    size = float((expected.energies - references).norm())
    energy, forces, stress = evaluate(structure)
    of_energy = abs(energy - float(expected.energy)) / max(size, 1e-12)
    of_forces = _relative(forces, expected.forces.double().cpu().numpy())
    if stress is None or not structure.pbc.all():
        return of_energy, of_forces, 0.0
    return of_energy, of_forces, _relative(stress, expected.stress[0].double().cpu().numpy())


def _relative(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))
