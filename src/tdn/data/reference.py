"""Reference energies: the constant of each element that is subtracted from total energies before a network sees them.

Total energies reach -1e5 eV while differences of interest are meV, so everything here is float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tdn.data.linear_reference import read_linear_reference
from tdn.data.reading import FrameSet
from tdn.errors import DataError
from tdn.structure import Structure

ReferenceSpec = str | Mapping[str, float] | Mapping[int, float] | Mapping[str | int, float]


@dataclass(frozen=True)
class ReferenceEnergies:
    """Energy of each element on its own.

    Attributes:
        energies: eV by atomic number.
        origin: `isolated atoms`, `least squares`, `given`, `linear reference` or `zero`.
        notes: What a user should know of them.
    """

    energies: Mapping[int, float]
    origin: str
    notes: tuple[str, ...] = ()

    def total(self, numbers: ArrayLike) -> float:
        """Sum over the atoms of one structure, eV.

        Raises:
            DataError: If an element has no reference energy.
        """
        unique, counts = np.unique(np.asarray(numbers, dtype=np.int64), return_counts=True)
        _check_covered(self.energies, unique.tolist())
        return float(sum(count * self.energies[int(z)] for z, count in zip(unique, counts, strict=True)))

    def __str__(self) -> str:
        from ase.data import chemical_symbols

        listed = ", ".join(f"{chemical_symbols[z]} {energy:.4f}" for z, energy in self.energies.items())
        return f"reference energies from {self.origin}: {listed} eV"


def resolve_reference_energies(spec: ReferenceSpec, frames: FrameSet) -> ReferenceEnergies:
    """Reference energies of the elements in `frames`.

    Args:
        spec: `isolated` (isolated-atom frames), `least_squares`, `auto` (isolated atoms if the files have any, else
            least squares), `zero` (energies are differences already, such as adsorption energies), a published npz
            of linear references, or energies in eV by symbol or atomic number.
        frames: Training frames with their isolated atoms.

    Raises:
        DataError: If an element of the frames has no reference energy, or `spec` is not understood.
    """
    if isinstance(spec, Mapping):
        return _covering({_atomic_number(key): float(value) for key, value in spec.items()}, "given", frames.elements)
    if spec.endswith(".npz"):
        return ReferenceEnergies(read_linear_reference(spec, frames.elements), "linear reference")
    if spec == "zero":
        return ReferenceEnergies(dict.fromkeys(frames.elements, 0.0), "zero")
    if spec not in ("auto", "isolated", "least_squares"):
        raise DataError(
            "Reference energies must be auto, isolated, least_squares, zero, an npz of linear references or a mapping "
            f"of element to eV, got {spec!r}."
        )
    if spec == "isolated" or (spec == "auto" and frames.isolated_atoms):
        return _covering(frames.isolated_atoms, "isolated atoms", frames.elements)
    return fit_reference_energies(frames.structures)


def fit_reference_energies(structures: Sequence[Structure]) -> ReferenceEnergies:
    """Least-squares energy per element from total energies and compositions.

    Each frame counts by its energy per atom. Directions that the compositions do not determine (one molecule only,
    elements that always come together) stay at the mean energy per atom: the minimum-norm solution around it.

    Raises:
        DataError: If no structure has an energy.
    """
    labelled = [s for s in structures if s.energy is not None]
    if not labelled:
        raise DataError("Reference energies by least squares need total energies, and no frame has one.")
    elements = sorted({int(z) for s in labelled for z in np.unique(s.numbers)})
    fractions = np.stack([_composition(s.numbers, elements) / len(s) for s in labelled])
    per_atom = np.array([s.energy for s in labelled], dtype=np.float64) / [len(s) for s in labelled]
    mean = float(per_atom.mean())
    correction, _, rank, _ = np.linalg.lstsq(fractions, per_atom - mean, rcond=1e-8)
    notes = ()
    if rank < len(elements):
        notes = (
            f"the compositions determine only {rank} of {len(elements)} reference energies, so that energies of other "
            "compositions are not comparable; isolated-atom frames would fix it",
        )
    energies = {z: mean + float(shift) for z, shift in zip(elements, correction, strict=True)}
    return ReferenceEnergies(energies, "least squares", notes)


def force_rms(structures: Sequence[Structure]) -> float | None:
    """Root mean square of all force components, eV/Å; None if there are no forces. The natural scale of a network."""
    squares = [np.square(s.forces).ravel() for s in structures if s.forces is not None]
    return float(np.sqrt(np.concatenate(squares).mean())) if squares else None


def composition_groups(structures: Sequence[Structure]) -> list[list[Structure]]:
    """Structures of equal composition together."""
    groups: dict[bytes, list[Structure]] = {}
    for structure in structures:
        groups.setdefault(np.sort(structure.numbers).tobytes(), []).append(structure)
    return list(groups.values())


def _composition(numbers: NDArray[np.int64], elements: Sequence[int]) -> NDArray[np.float64]:
    """Atoms of each element."""
    return np.bincount(np.searchsorted(elements, numbers), minlength=len(elements)).astype(np.float64)


def _covering(energies: Mapping[int, float], origin: str, elements: Sequence[int]) -> ReferenceEnergies:
    """The energies of `elements` only; others are ignored with a note."""
    _check_covered(energies, elements)
    extra = [z for z in energies if z not in elements]
    notes = (f"not in the training frames and ignored: {_symbols(extra)}",) if extra else ()
    return ReferenceEnergies({z: energies[z] for z in elements}, origin, notes)


def _check_covered(energies: Mapping[int, float], elements: Sequence[int]) -> None:
    missing = [z for z in elements if z not in energies]
    if missing:
        raise DataError(
            f"No reference energy for {_symbols(missing)}, only for {_symbols(list(energies)) or 'none'}. Add "
            "isolated-atom frames (config_type=IsolatedAtom), give the energies by hand, or choose least_squares."
        )


def _symbols(numbers: Sequence[int]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[z] for z in numbers)


def _atomic_number(key: str | int) -> int:
    """Atomic number of a symbol, a number, or a number in quotes as JSON and YAML may give it."""
    from ase.data import atomic_numbers

    if isinstance(key, str) and not key.isdigit():
        if key not in atomic_numbers:
            raise DataError(f"Reference energies name an unknown element {key!r}: use symbols or atomic numbers.")
        return int(atomic_numbers[key])
    return int(key)
