"""`Structure`: one labelled atomic structure in the package's units; the only type that readers produce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tdn.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Structure:
    """Atoms in a box, with whatever labels are known.

    Attributes:
        numbers: Atomic numbers, int64 `[n]`.
        positions: Å, float64 `[n, 3]`.
        cell: Rows are the lattice vectors in Å, float64 `[3, 3]`; zeros where there is none.
        pbc: Periodic directions, bool `[3]`.
        energy: Total energy in eV, or None if unknown.
        forces: eV/Å, float64 `[n, 3]`, or None.
        stress: eV/Å³, float64 `[3, 3]`, ASE's sign (tension positive), or None.
        info: Further scalars of the frame, such as `config_type`.
        fixed: Atoms held in place, bool `[n]`, whose forces count neither in losses nor in errors; None if none is.
        tags: Kind of each atom, int64 `[n]`, as ASE's tags; in catalysis data sets 0 subsurface, 1 surface,
            2 adsorbate. None if there are none.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: float | None = None
    forces: NDArray[np.float64] | None = None
    stress: NDArray[np.float64] | None = None
    info: Mapping[str, Scalar] = field(default_factory=dict)
    fixed: NDArray[np.bool_] | None = None
    tags: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.numbers)
        if n == 0:
            raise DataError("A structure needs at least one atom, got none: remove the empty frame.")
        if self.positions.shape != (n, 3):
            raise DataError(f"Expected positions of shape ({n}, 3) for {n} atoms, got {self.positions.shape}.")
        for name in ("fixed", "tags"):
            value = getattr(self, name)
            if value is not None and value.shape != (n,):
                raise DataError(f"Expected `{name}` of shape ({n},) for {n} atoms, got {value.shape}.")
        if not np.isfinite(self.positions).all():
            raise DataError(f"Positions of {self.formula} contain NaN or infinity: repair or remove the frame.")
        if not np.isfinite(self.cell).all():
            raise DataError(f"The cell of {self.formula} contains NaN or infinity: repair or remove the frame.")
        if self.numbers.min() < 1 or self.numbers.max() > 118:
            raise DataError(f"Atomic numbers must be 1..118, got {sorted(set(self.numbers.tolist()))}.")
        lengths = np.linalg.norm(self.cell, axis=1)
        if (self.pbc & (lengths < 1e-8)).any():
            raise DataError(
                f"{self.formula} is periodic along {np.flatnonzero(self.pbc).tolist()} but its cell has a zero vector "
                "there: set the cell or pbc=False."
            )
        if self.pbc.all() and abs(np.linalg.det(self.cell)) < 1e-6 * max(lengths.prod(), 1e-300):
            raise DataError(f"The cell of {self.formula} has no volume: its vectors are linearly dependent.")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def formula(self) -> str:
        """Hill formula, for messages."""
        from ase.formula import Formula

        symbols = self.symbols
        return Formula.from_dict({s: symbols.count(s) for s in sorted(set(symbols))}).format("hill")

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols, one an atom."""
        from ase.data import chemical_symbols

        return [chemical_symbols[z] if 0 <= z < len(chemical_symbols) else f"Z{z}" for z in self.numbers.tolist()]

    @property
    def volume(self) -> float | None:
        """Cell volume in Å³ if all directions are periodic, else None: stress has a meaning only then."""
        return float(abs(np.linalg.det(self.cell))) if bool(self.pbc.all()) else None

    @property
    def free(self) -> NDArray[np.bool_]:
        """Atoms that may move, bool `[n]`."""
        return np.ones(len(self), dtype=np.bool_) if self.fixed is None else ~self.fixed

    @classmethod
    def unchecked(cls, **fields: Any) -> Structure:
        """All fields of a structure that was checked before, in a tenth of the time that checking takes."""
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made

    @classmethod
    def from_ase(cls, atoms: Atoms, **labels: Any) -> Structure:
        """Copy the geometry of `atoms`; labels are chosen by the reader (`tdn.data`) and passed by name.

        Atoms that ASE holds fully (`FixAtoms`, or `FixCartesian` in all directions) are `fixed`.
        """
        return cls(
            numbers=np.asarray(atoms.get_atomic_numbers(), dtype=np.int64),
            positions=np.array(atoms.get_positions(), dtype=np.float64),
            cell=np.array(atoms.get_cell().array, dtype=np.float64),
            pbc=np.array(atoms.get_pbc(), dtype=np.bool_),
            **{"fixed": _fixed_atoms(atoms), "tags": _tags(atoms), **labels},
        )

    def to_ase(self) -> Atoms:
        """The geometry as `ase.Atoms` with tags and fixed atoms, without labels."""
        from ase import Atoms
        from ase.constraints import FixAtoms

        atoms = Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc, tags=self.tags)
        atoms.info.update(self.info)
        if self.fixed is not None and self.fixed.any():
            atoms.set_constraint(FixAtoms(mask=self.fixed))
        return atoms


def _fixed_atoms(atoms: Atoms) -> NDArray[np.bool_] | None:
    """Which atoms are held in all directions; None if none is."""
    if not atoms.constraints:
        return None
    from ase.constraints import FixAtoms, FixCartesian

    fixed = np.zeros(len(atoms), dtype=np.bool_)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms) or (isinstance(constraint, FixCartesian) and np.all(constraint.mask)):
            fixed[constraint.index] = True
    return fixed if fixed.any() else None


def _tags(atoms: Atoms) -> NDArray[np.int64] | None:
    """ASE's tags, if they have been set."""
    return np.array(atoms.get_tags(), dtype=np.int64) if atoms.has("tags") else None
