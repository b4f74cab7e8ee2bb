"""Errors of more frames than fit into memory, from sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tdn.evaluation.metrics import Errors, ErrorTable, FramePrediction
from tdn.structure import Structure
from tdn.units import MEV_PER_EV

Array = NDArray[Any]


class RunningErrors:
    """The same as `measure_errors` of all values that are added.

    Args:
        relative: Whether to give the RMSE in percent of the reference's root mean square, too.
    """

    def __init__(self, relative: bool = False) -> None:
        self._relative = relative
        self._count = 0
        self._largest = 0.0
        self._sums = np.zeros(3)

    def add(self, predicted: ArrayLike, reference: ArrayLike) -> None:
        """Add values in eV, eV/Å or eV/Å³."""
        expected = np.asarray(reference, dtype=np.float64) * MEV_PER_EV
        error = np.asarray(predicted, dtype=np.float64) * MEV_PER_EV - expected
        self._count += error.size
        self._largest = max(self._largest, float(np.abs(error).max(initial=0.0)))
        self._sums += np.abs(error).sum(), np.square(error).sum(), np.square(expected).sum()

    def errors(self) -> Errors | None:
        """Of everything added, in meV-based units; None of nothing."""
        if not self._count:
            return None
        absolute, square, size = self._sums / self._count
        rms = max(float(np.sqrt(size)), np.finfo(np.float64).tiny ** 0.5)
        rmse = float(np.sqrt(square))
        relative = 100.0 * rmse / rms if self._relative else None
        return Errors(float(absolute), rmse, self._largest, self._count, relative)


def has_forces(structure: Structure, prediction: FramePrediction) -> bool:
    """Whether there are forces to compare; some networks predict energies alone and give NaN."""
    return structure.forces is not None and bool(structure.free.any()) and not bool(np.isnan(prediction.forces).all())


class RunningTable:
    """The same as `tabulate` of all frames that are added, and errors of forces by element."""

    def __init__(self) -> None:
        self._energy, self._per_atom, self._stress = RunningErrors(), RunningErrors(), RunningErrors()
        self._forces = RunningErrors(relative=True)
        self._elements: dict[int, RunningErrors] = {}
        self._frames = self._atoms = self._labelled = 0
        self._norms = 0.0

    def add(self, structures: Sequence[Structure], predictions: Sequence[FramePrediction]) -> None:
        """Add frames with their predictions."""
        for s, p in zip(structures, predictions, strict=True):
            self._frames, self._atoms = self._frames + 1, self._atoms + len(s)
            if s.energy is not None:
                self._energy.add(p.energy, s.energy)
                self._per_atom.add(p.energy / len(s), s.energy / len(s))
            if s.stress is not None and p.stress is not None:
                self._stress.add(p.stress, s.stress)
            if has_forces(s, p) and s.forces is not None:
                self._add_forces(s.numbers[s.free], p.forces[s.free], s.forces[s.free])

    def _add_forces(
        self, numbers: NDArray[np.int64], predicted: NDArray[np.float64], reference: NDArray[np.float64]
    ) -> None:
        self._forces.add(predicted, reference)
        self._labelled += 1
        self._norms += MEV_PER_EV * float(np.sqrt(np.square(predicted - reference).sum(-1).mean()))
        for z in np.unique(numbers).tolist():
            own = self._elements.setdefault(z, RunningErrors(relative=True))
            own.add(predicted[numbers == z], reference[numbers == z])

    def table(self) -> ErrorTable:
        """Errors of everything added."""
        return ErrorTable(
            energy=self._energy.errors(),
            energy_per_atom=self._per_atom.errors(),
            forces=self._forces.errors(),
            stress=self._stress.errors(),
            frames=self._frames,
            atoms=self._atoms,
            force_vector_rmse=self._norms / self._labelled if self._labelled else None,
        )

    def per_element(self) -> dict[str, Errors]:
        """Force errors by symbol, in the order of atomic numbers."""
        from ase.data import chemical_symbols

        found = {chemical_symbols[z]: self._elements[z].errors() for z in sorted(self._elements)}
        return {symbol: errors for symbol, errors in found.items() if errors is not None}
