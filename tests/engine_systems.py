"""Structures that the tests of LAMMPS and OpenMM share."""

from __future__ import annotations

from ase import Atoms
from ase.build import bulk, molecule


def crystal() -> Atoms:
    """Atoms of two elements in a skewed cell smaller than the cutoff."""
    atoms = bulk("C", cubic=True)
    atoms.numbers[::3] = 8
    # Lower triangular and with positive diagonal, as LAMMPS wants its cells: nothing is turned.
    atoms.set_cell([[3.9, 0.0, 0.0], [0.3, 3.7, 0.0], [-0.2, 0.4, 3.8]], scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def ethanol() -> Atoms:
    """A molecule in a box with 5 Å of vacuum around it."""
    atoms = molecule("CH3CH2OH")
    atoms.center(vacuum=5.0)
    return atoms
