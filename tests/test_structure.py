"""Structures keep what ASE knows of an atom: tags, and whether it is held in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from tdn.data.reading import frames_from_atoms, read_frames
from tdn.errors import DataError
from tdn.structure import Structure


def slab() -> Atoms:
    """Two layers of copper, the lower one held, with forces on all atoms."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0, periodic=True)
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 2))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((8, 3)))
    return atoms


def test_tags_and_fixed_atoms_survive_the_way_through_ase():
    structure = Structure.from_ase(slab())
    assert structure.fixed is not None
    assert structure.tags is not None
    assert structure.fixed.tolist() == [tag == 2 for tag in structure.tags.tolist()]
    again = Structure.from_ase(structure.to_ase())
    np.testing.assert_array_equal(again.fixed, structure.fixed)
    np.testing.assert_array_equal(again.tags, structure.tags)


def test_plain_atoms_have_neither():
    structure = Structure.from_ase(molecule("CH4"))
    assert structure.fixed is None
    assert structure.tags is None
    assert structure.free.all()


def test_only_atoms_held_in_all_directions_are_fixed():
    atoms = molecule("CH4")
    atoms.set_constraint([FixCartesian([0], mask=(True, True, True)), FixCartesian([1], mask=(True, False, False))])
    assert Structure.from_ase(atoms).free.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("name", ["fixed", "tags"])
def test_a_wrong_length_is_refused(name: str):
    with pytest.raises(DataError, match=f"`{name}` of shape"):
        replace(Structure.from_ase(molecule("CH4")), **{name: np.zeros(2, dtype=int)})


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db"])
def test_forces_of_fixed_atoms_are_read_as_stored(suffix: str, tmp_path: Path):
    path = tmp_path / f"slab.{suffix}"
    ase.io.write(path, slab())
    (structure,) = read_frames(path).structures
    assert structure.fixed is not None
    assert structure.fixed.sum() == 4
    np.testing.assert_array_equal(structure.forces, np.ones((8, 3)))
    assert structure.tags is not None


def test_a_frame_of_oc20_keeps_its_fixed_atoms(data_dir: Path):
    (structure,) = frames_from_atoms([ase.io.read(data_dir / "oc" / "oc20_CO_on_AlCuSe_1frame.json")]).structures
    assert structure.fixed is not None
    assert structure.fixed.sum() == 24
    assert structure.tags is not None
    assert np.bincount(structure.tags).tolist() == [32, 2]
    # This file holds zeros for them, which is why they must not count.
    assert structure.forces is not None
    assert not structure.forces[structure.fixed].any()
