"""The choice of label keys, its report and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tdn.data.labels import LabelKeys
from tdn.data.reading import frames_from_atoms
from tdn.errors import DataError


def water(seed: int = 0, periodic: bool = False, **results: object) -> Atoms:
    """A distorted water molecule with the given calculator results."""
    rng = np.random.default_rng(seed)
    positions = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]) + 0.05 * rng.normal(size=(3, 3))
    atoms = Atoms("OHH", positions=positions, cell=np.diag([8.0, 9.0, 10.0]), pbc=periodic)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def labelled(seed: int = 0, periodic: bool = False, **more: object) -> Atoms:
    return water(seed, periodic, energy=-10.0 - seed, forces=np.full((3, 3), 0.1 * seed), **more)


def test_calculator_labels_are_found_and_the_choice_is_said() -> None:
    frames = frames_from_atoms([labelled(k) for k in range(4)])
    assert str(frames.report) == "energies from `energy`, 4 of 4 frames; forces from `forces`, 4 of 4 frames; no stress"
    assert [s.energy for s in frames.structures] == [-10.0, -11.0, -12.0, -13.0]
    assert np.allclose(frames.structures[2].forces, 0.2)


def test_reference_keys_come_before_plain_ones_which_are_named_as_unused() -> None:
    atoms = labelled(1)
    atoms.info["REF_energy"] = -99.0
    atoms.arrays["REF_forces"] = np.ones((3, 3))
    frames = frames_from_atoms([atoms])
    assert frames.structures[0].energy == -99.0
    assert np.array_equal(frames.structures[0].forces, np.ones((3, 3)))
    assert "not used: `energy`, `forces`" in str(frames.report)


def test_explicit_key_overrides_the_search() -> None:
    atoms = labelled(1)
    atoms.info |= {"REF_energy": -99.0, "mp2": -50.0}
    assert frames_from_atoms([atoms], LabelKeys(energy="mp2")).structures[0].energy == -50.0


def test_free_energy_is_read_only_when_named() -> None:
    atoms = labelled(1, free_energy=-11.5)
    assert frames_from_atoms([atoms]).structures[0].energy == -11.0
    assert frames_from_atoms([atoms], LabelKeys(energy="free_energy")).structures[0].energy == -11.5


def test_none_reads_no_labels() -> None:
    frames = frames_from_atoms([labelled()], LabelKeys(forces="none"), required=("energy",))
    assert frames.structures[0].forces is None
    assert "no forces" in str(frames.report)


def test_explicit_key_that_is_absent_is_refused_with_its_name() -> None:
    with pytest.raises(DataError, match=r"No energies found in 1 frames: looked for `mp2`"):
        frames_from_atoms([labelled()], LabelKeys(energy="mp2"))


def test_required_label_that_is_nowhere_is_refused() -> None:
    with pytest.raises(DataError, match="No forces found"):
        frames_from_atoms([water(energy=-1.0)])
    assert len(frames_from_atoms([water(energy=-1.0)], required=("energy",))) == 1


def test_label_missing_in_some_frames_is_refused_unless_allowed() -> None:
    frames = [labelled(0), water(1, energy=-1.0), labelled(2)]
    with pytest.raises(DataError, match=r"`forces`\) are missing in 1 of 3 frames: frame 1"):
        frames_from_atoms(frames)
    read = frames_from_atoms(frames, allow_partial=True)
    assert [s.forces is None for s in read.structures] == [False, True, False]
    assert "forces from `forces`, 2 of 3 frames" in str(read.report)


def test_keys_that_share_the_frames_are_refused_as_ambiguous() -> None:
    frames = [labelled(k) for k in range(3)]
    frames[0].info["REF_energy"] = -9.0
    with pytest.raises(DataError, match=r"`REF_energy` in 1, `energy` in 3"):
        frames_from_atoms(frames)
    assert frames_from_atoms(frames, LabelKeys(energy="energy")).structures[0].energy == -10.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_not_finite_are_refused_with_their_frames(value: float) -> None:
    frames = [labelled(k) for k in range(4)]
    frames[2].calc.results["forces"][1, 1] = value
    with pytest.raises(DataError, match=r"`forces` is NaN or infinite in 1 frames: frame 2"):
        frames_from_atoms(frames, allow_partial=True)


def test_wrong_shapes_are_refused_with_the_frame() -> None:
    atoms = water(energy=-1.0)
    atoms.arrays["REF_forces"] = np.zeros((3, 2))
    with pytest.raises(DataError, match=r"Frame frame 0: `REF_forces` should have shape \(3, 3\), got \(3, 2\)"):
        frames_from_atoms([atoms])
    atoms = labelled()
    atoms.info["REF_energy"] = np.array([-1.0, -2.0, -3.0])
    with pytest.raises(DataError, match="one total energy"):
        frames_from_atoms([atoms])
    atoms.info["REF_energy"] = "n/a"
    with pytest.raises(DataError, match="should hold numbers"):
        frames_from_atoms([atoms])


STRESS = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]) * 1e-3


@pytest.mark.parametrize("value", [STRESS, STRESS.ravel(), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) * 1e-3])
def test_stress_of_every_layout_becomes_a_matrix(value: np.ndarray) -> None:
    atoms = labelled(periodic=True)
    atoms.info["REF_stress"] = value
    assert np.allclose(frames_from_atoms([atoms]).structures[0].stress, STRESS)


def test_voigt_order_is_that_of_ase() -> None:
    atoms = labelled(periodic=True, stress=np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) * 1e-3)
    stress = frames_from_atoms([atoms]).structures[0].stress
    assert np.allclose(stress, atoms.get_stress(voigt=False))


def test_virial_becomes_stress_with_opposite_sign() -> None:
    atoms = labelled(periodic=True)
    atoms.info["REF_virials"] = -720.0 * STRESS
    assert np.allclose(frames_from_atoms([atoms]).structures[0].stress, STRESS)
    atoms.info["my_virial"] = 720.0 * STRESS
    assert np.allclose(frames_from_atoms([atoms], LabelKeys(stress="my_virial")).structures[0].stress, -STRESS)


def test_asymmetric_stress_is_refused() -> None:
    atoms = labelled(periodic=True)
    atoms.info["stress"] = np.arange(9.0).reshape(3, 3)
    with pytest.raises(DataError, match="symmetric"):
        frames_from_atoms([atoms])


def test_stress_may_be_partial_and_is_never_read_without_full_periodicity() -> None:
    frames = [labelled(0, True, stress=np.zeros(6)), labelled(1, True), labelled(2, False, stress=np.zeros(6))]
    read = frames_from_atoms(frames)
    assert [s.stress is None for s in read.structures] == [False, True, True]
    assert "stress from `stress`, 1 of 2 periodic frames" in str(read.report)
    with pytest.raises(DataError, match="Stress"):
        frames_from_atoms(frames, LabelKeys(stress="stress"))
