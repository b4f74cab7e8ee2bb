"""Reference energies: exact where compositions allow, sensible where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tdn.data.reading import FrameSet, frames_from_atoms, read_frames
from tdn.data.reference import (
    ReferenceEnergies,
    composition_groups,
    fit_reference_energies,
    force_rms,
    resolve_reference_energies,
)
from tdn.errors import DataError
from tdn.structure import Structure

TRUE = {1: -13.587, 6: -1029.489, 8: -2041.982}


def structure(formula: str, noise: float = 0.0, seed: int = 0) -> Structure:
    """Atoms on a line with the sum of the true reference energies plus noise per atom."""
    atoms = Atoms(formula)
    positions = np.arange(3.0 * len(atoms)).reshape(-1, 3)
    energy = sum(TRUE[z] for z in atoms.numbers.tolist()) + noise * len(atoms) * np.random.default_rng(seed).normal()
    return replace(Structure.from_ase(atoms), positions=positions, energy=float(energy))


def frame_set(formulas: Sequence[str], isolated: dict[str, float] | None = None) -> FrameSet:
    frames = []
    for formula in formulas:
        built = structure(formula)
        atoms = built.to_ase()
        atoms.calc = SinglePointCalculator(atoms, energy=built.energy, forces=np.zeros((len(atoms), 3)))
        frames.append(atoms)
    for symbol, energy in (isolated or {}).items():
        atoms = Atoms(symbol)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        frames.append(atoms)
    return frames_from_atoms(frames)


def test_least_squares_recovers_the_truth_from_independent_compositions() -> None:
    fitted = fit_reference_energies([structure(f) for f in ("CH4", "CO2", "H2O", "C2H6O")])
    assert fitted.notes == ()
    for z, energy in TRUE.items():
        assert fitted.energies[z] == pytest.approx(energy, rel=1e-11)


def test_least_squares_keeps_millielectronvolts_of_huge_totals() -> None:
    structures = [structure(f) for f in ("CH4", "CO2", "H2O", "C2H6O")]
    shifted = [replace(s, energy=s.energy - 1e6 * len(s)) for s in structures]
    difference = fit_reference_energies(structures).energies[6] - fit_reference_energies(shifted).energies[6]
    assert difference == pytest.approx(1e6, abs=1e-6)


def test_one_composition_gives_equal_shifts_that_add_up() -> None:
    structures = [structure("C2H6O", noise=0.02, seed=k) for k in range(20)]
    fitted = fit_reference_energies(structures)
    assert np.ptp(list(fitted.energies.values())) < 1e-9
    residuals = [s.energy - fitted.total(s.numbers) for s in structures]
    assert abs(np.mean(residuals)) < 1e-8
    assert "only 1 of 3" in fitted.notes[0]


def test_collinear_compositions_stay_near_the_mean() -> None:
    structures = [structure(f, noise=0.01, seed=k) for k, f in enumerate(("H2O", "H4O2", "H6O3"))]
    fitted = fit_reference_energies(structures)
    mean = np.mean([s.energy / len(s) for s in structures])
    assert all(abs(energy - mean) < 1.0 for energy in fitted.energies.values())


def test_auto_takes_isolated_atoms_and_notes_extra_elements() -> None:
    frames = frame_set(["CH4", "C2H6"], {"H": -13.0, "C": -1000.0, "O": -2000.0})
    resolved = resolve_reference_energies("auto", frames)
    assert resolved.origin == "isolated atoms"
    assert dict(resolved.energies) == {1: -13.0, 6: -1000.0}
    assert "ignored: O" in resolved.notes[0]
    assert resolved.total([6, 1, 1, 1, 1]) == -1052.0
    assert resolve_reference_energies("least_squares", frames).energies[6] == pytest.approx(TRUE[6])


def test_missing_isolated_atoms_are_named() -> None:
    frames = frame_set(["CO2", "CH4"], {"H": -13.0})
    for spec in ("auto", "isolated"):
        with pytest.raises(DataError, match="No reference energy for C, O, only for H"):
            resolve_reference_energies(spec, frames)


def test_given_energies_by_symbol_or_number() -> None:
    frames = frame_set(["CH4", "C2H6"])
    for spec in ({"C": -1.0, "H": -2.0}, {6: -1.0, 1: -2.0}, {"6": -1.0, "1": -2.0}):
        assert dict(resolve_reference_energies(spec, frames).energies) == {1: -2.0, 6: -1.0}
    with pytest.raises(DataError, match="unknown element 'Xx'"):
        resolve_reference_energies({"Xx": 0.0}, frames)
    with pytest.raises(DataError, match="must be auto, isolated, least_squares"):
        resolve_reference_energies("average-ish", frames)


def test_total_of_an_unknown_element_is_refused() -> None:
    with pytest.raises(DataError, match="No reference energy for O"):
        ReferenceEnergies({1: -1.0}, "given").total([1, 8])


def test_without_energies_there_is_nothing_to_fit() -> None:
    with pytest.raises(DataError, match="need total energies"):
        fit_reference_energies([replace(structure("CH4"), energy=None)])


def test_force_rms_and_groups() -> None:
    one = replace(structure("H2"), forces=np.full((2, 3), 3.0))
    two = replace(structure("CO2"), forces=np.zeros((3, 3)))
    assert force_rms([one, two]) == pytest.approx(np.sqrt(9.0 * 2 / 5))
    assert force_rms([structure("H2")]) is None
    groups = composition_groups([structure("COC"), one, structure("C2O")])
    assert sorted(len(group) for group in groups) == [1, 2]


def test_real_isolated_atoms_leave_binding_energies(data_dir: Path) -> None:
    frames = read_frames([data_dir / "3bpa" / "train_300K.xyz", data_dir / "3bpa" / "iso_atoms.xyz"])
    references = resolve_reference_energies("auto", frames)
    binding = [(s.energy - references.total(s.numbers)) / len(s) for s in frames.structures]
    assert -6.0 < np.mean(binding) < -4.0
    assert np.std(binding) < 0.02


def test_published_linear_references_and_none_at_all(tmp_path: Path):
    np.savez(tmp_path / "linref.npz", coeff=np.array([0.0, -3.4, 0.0, 0.0, 0.0, 0.0, -7.4]))
    frames = frames_from_atoms([Atoms("CH", positions=[[0, 0, 0], [0, 0, 1.1]])], required=())
    references = resolve_reference_energies(str(tmp_path / "linref.npz"), frames)
    assert references.energies == {1: -3.4, 6: -7.4}
    assert "linear reference" in str(references)
    assert resolve_reference_energies("zero", frames).energies == {1: 0.0, 6: 0.0}
