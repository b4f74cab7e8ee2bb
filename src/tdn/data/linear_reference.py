"""Linear references and normalisers that were published with OC20 and OC22."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tdn.errors import DataError

# Energies of atoms in plane-wave calculations lie between -20 and 5 eV. A fit gives nearly 0 to an element that is not
# in its data, and anything, from hundreds to 1e10 eV, to one that is there by rounding only.
SMALLEST_COEFFICIENT = 0.01
LARGEST_COEFFICIENT = 100.0


@dataclass(frozen=True)
class Normaliser:
    """Targets are `(value - mean) / std`.

    Attributes:
        mean: eV, or eV/Å for forces.
        std: The same unit.
    """

    mean: float
    std: float


NORMALISERS = MappingProxyType(
    {
        "oc20-s2ef-energy": Normaliser(-0.7554450631141663, 2.887317180633545),
        "oc20-s2ef-forces": Normaliser(0.0, 2.887317180633545),
        "oc20-is2re": Normaliser(-1.525913953781128, 2.279365062713623),
        "oc22-s2ef-energy": Normaliser(0.0, 25.119809935106424),  # after the linear reference
        "oc22-s2ef-forces": Normaliser(0.0, 0.14759646356105804),
    }
)
"""Constants of the published configurations, by task and quantity; those of OC22 are EquiformerV2's."""


def read_linear_reference(path: str | os.PathLike[str], elements: Collection[int]) -> dict[int, float]:
    """Energies of `elements` in eV from an npz with `coeff [Z]`, as published with OC22.

    Raises:
        DataError: If the file is none of that kind, or the coefficient of an element is absent or unphysical.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as content:
            coefficients = np.asarray(content["coeff"], dtype=np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is no npz with `coeff`, the energy of each element by atomic number: {error}"
        ) from error
    if coefficients.ndim != 1:
        raise DataError(f"{path}: `coeff` should be a list by atomic number, got shape {coefficients.shape}.")
    sizes = np.abs(coefficients)
    absent = [z for z in elements if z >= len(sizes) or sizes[z] < SMALLEST_COEFFICIENT]
    broken = [z for z in elements if z not in absent and not sizes[z] <= LARGEST_COEFFICIENT]
    if absent or broken:
        from ase.data import chemical_symbols

        parts = []
        if absent:
            parts.append(f"no energy of {', '.join(chemical_symbols[z] for z in absent)}")
        if broken:
            listed = ", ".join(f"{chemical_symbols[z]} {coefficients[z]:.3g} eV" for z in broken)
            parts.append(f"unphysical energies: {listed}")
        raise DataError(
            f"{path} has {'; '.join(parts)}. The fit knew nothing of these elements: remove their structures, or fit "
            "references of your own (reference_energies: least_squares)."
        )
    return {z: float(coefficients[z]) for z in sorted(elements)}
