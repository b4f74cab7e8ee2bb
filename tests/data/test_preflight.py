"""Checks before training: silent on good data, loud on broken copies of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tdn.data.duplicates import frame_digest
from tdn.data.labels import LabelReport, LabelSource
from tdn.data.preflight import Finding, check_frames, stiffness
from tdn.data.reading import FrameSet, read_frames
from tdn.data.reference import ReferenceEnergies, resolve_reference_energies
from tdn.structure import Structure
from tdn.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE, EV_PER_KCAL_PER_MOL

FORCE_CONSTANT = 30.0  # eV/Å²


def molecule(rng: np.random.Generator, temperature: float = 0.03) -> Structure:
    """A thermal sample of six atoms on harmonic springs between all pairs, energies and forces exact."""
    rest = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2], [2, 2, 0], [2, 0, 2]], dtype=float)
    positions = rest + rng.normal(size=(6, 3)) * np.sqrt(temperature / FORCE_CONSTANT)
    offset = (positions - rest) - (positions - rest).mean(axis=0)
    return Structure(
        numbers=np.array([6, 6, 8, 1, 1, 1]),
        positions=positions,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        energy=float(-4000.0 + 0.5 * FORCE_CONSTANT * np.square(offset).sum()),
        forces=-FORCE_CONSTANT * offset,
    )


def frame_set(structures: list[Structure], name: str = "a") -> FrameSet:
    source = LabelSource("energy", len(structures), len(structures))
    origins = tuple(f"{name}:{k}" for k in range(len(structures)))
    return FrameSet(tuple(structures), {}, LabelReport(source, source, source), name, "", origins)


def sample(count: int = 100, seed: int = 0) -> FrameSet:
    rng = np.random.default_rng(seed)
    return frame_set([molecule(rng) for _ in range(count)], f"s{seed}")


def changed(frames: FrameSet, change: Callable[[Structure], Structure]) -> FrameSet:
    return replace(frames, structures=tuple(change(s) for s in frames.structures))


def scaled(frames: FrameSet, energy: float, force: float) -> FrameSet:
    return changed(frames, lambda s: replace(s, energy=s.energy * energy, forces=s.forces * force))


def checks(findings: list[Finding], severity: str = "warning") -> set[str]:
    return {finding.check for finding in findings if finding.severity == severity}


def test_good_frames_have_no_findings() -> None:
    assert check_frames(sample(seed=0), sample(20, seed=1), sample(20, seed=2), r_max=4.0) == []


def test_force_constant_of_a_harmonic_sample_is_recovered() -> None:
    assert stiffness(sample(2000).structures) == pytest.approx(FORCE_CONSTANT, rel=0.1)
    assert stiffness(sample(5).structures) is None


UNITS = {
    "kcal/mol": (1 / EV_PER_KCAL_PER_MOL, 1 / EV_PER_KCAL_PER_MOL),
    "kcal/mol, eV/Å": (1 / EV_PER_KCAL_PER_MOL, 1.0),
    "Hartree, eV/Å": (1 / EV_PER_HARTREE, 1.0),
    "eV, Hartree/bohr": (1.0, ANGSTROM_PER_BOHR / EV_PER_HARTREE),
    "Hartree, Hartree/bohr": (1 / EV_PER_HARTREE, ANGSTROM_PER_BOHR / EV_PER_HARTREE),
    "eV, kcal/mol/Å": (1.0, 1 / EV_PER_KCAL_PER_MOL),
    "meV": (1000.0, 1000.0),
}


@pytest.mark.parametrize("unit", UNITS)
def test_wrong_units_are_warned_of(unit: str, data_dir: Path) -> None:
    frames = read_frames(data_dir / "rmd17" / "rmd17_ethanol_train_01.npz").select(range(200))
    assert checks(check_frames(frames)) == set()
    assert checks(check_frames(scaled(frames, *UNITS[unit]))) & {"force_rms", "energy_force_ratio"}


def test_forces_of_zero_are_no_labels() -> None:
    findings = check_frames(scaled(sample(), 1.0, 0.0))
    assert any(f.check == "force_rms" and "zero" in f.message for f in findings)


def test_a_failed_calculation_is_named() -> None:
    frames = sample()
    frames.structures[7].forces[2] = [250.0, 0.0, -250.0]
    found = [f for f in check_frames(frames) if f.check == "largest_force"]
    assert "1 train frames have forces above 100 eV/Å, up to 250 (s0:7)" in found[0].message


def test_net_forces_are_warned_of() -> None:
    pushed = changed(sample(), lambda s: replace(s, forces=s.forces + 1.0))
    assert "net_force" in checks(check_frames(pushed))


def test_duplicates_within_and_across_sets() -> None:
    train, valid = sample(30, seed=0), sample(10, seed=1)
    copied = replace(train.structures[3], energy=0.0, positions=train.structures[3].positions + 1e-7)
    leaking = frame_set([*valid.structures, copied], "v")
    message = next(f.message for f in check_frames(train, leaking) if f.check == "duplicates")
    assert "1 of valid are also in train (v:10)" in message
    twice = frame_set([*train.structures, train.structures[0]], "t")
    message = next(f.message for f in check_frames(twice) if f.check == "duplicates")
    assert "Duplicate frames: 1 in train (t:30)" in message


def test_repeated_geometries_of_a_trajectory_are_one_note_and_no_warning() -> None:
    train, valid = sample(30, seed=0), sample(10, seed=1)
    resting = {
        name: replace(
            frame_set([*part.structures, *[part.structures[-1]] * count], name),
            trajectories=(*range(len(part)), *[len(part) - 1] * count),
        )
        for name, part, count in (("a", train, 3), ("b", valid, 2))
    }
    findings = check_frames(resting["a"], resting["b"])
    assert "duplicates" not in checks(findings)
    (note,) = [f for f in findings if f.check == "steady"]
    assert note.severity == "note"
    assert "3 in train, 2 in valid (a:30, a:31, a:32, b:10, b:11)" in note.message


def test_energies_of_trajectories_may_spread_more_than_thermal_ones_but_not_in_another_unit() -> None:
    trajectories = tuple(range(100))
    relaxing = replace(scaled(sample(), 1.0, 0.15), trajectories=trajectories)
    assert "energy_force_ratio" in checks(check_frames(replace(relaxing, trajectories=None)))
    assert "energy_force_ratio" not in checks(check_frames(relaxing))
    in_hartree_per_bohr = scaled(relaxing, 1.0, ANGSTROM_PER_BOHR / EV_PER_HARTREE)
    assert "energy_force_ratio" in checks(check_frames(in_hartree_per_bohr))


def test_missing_forces_are_odd_only_where_they_are_wanted() -> None:
    energies = changed(sample(), lambda s: replace(s, forces=None))
    assert "labels" in checks(check_frames(energies))
    assert "labels" not in checks(check_frames(energies, with_forces=False))
    relaxations = changed(energies, lambda s: replace(s, info={"y_init": -3.0}))
    assert "labels" not in checks(check_frames(relaxations))


def test_digest_sees_elements_positions_and_periodic_cells_only() -> None:
    one = molecule(np.random.default_rng(0))
    box = replace(one, cell=np.eye(3) * 9.0)
    assert frame_digest(one) == frame_digest(box)
    assert frame_digest(replace(box, pbc=np.ones(3, dtype=bool))) != frame_digest(box)
    assert frame_digest(replace(one, numbers=one.numbers[::-1].copy())) != frame_digest(one)
    assert frame_digest(replace(one, positions=one.positions + 1e-2)) != frame_digest(one)


def test_elements_that_training_lacks_are_an_error() -> None:
    foreign = changed(sample(5, seed=1), lambda s: replace(s, numbers=np.array([6, 6, 16, 1, 1, 1])))
    findings = check_frames(sample(), foreign)
    assert findings[0].severity == "error"
    assert "valid frames contain S" in findings[0].message


def test_sets_read_from_different_keys_are_warned_of() -> None:
    other = sample(5, seed=1)
    other = replace(other, report=replace(other.report, energy=LabelSource("REF_energy", 5, 5)))
    assert "keys" in checks(check_frames(sample(), other))


def test_frames_without_labels_are_reported() -> None:
    bare = changed(sample(5), lambda s: replace(s, energy=None, forces=None))
    findings = check_frames(bare)
    assert "labels" in checks(findings, "error")
    assert "labels" in checks(findings, "warning")


def test_close_overlapping_and_lone_atoms() -> None:
    frames = sample(4)
    frames.structures[1].positions[0] = frames.structures[1].positions[1] + [0.3, 0, 0]
    frames.structures[2].positions[0] = frames.structures[2].positions[1]
    frames.structures[3].positions[0] += 50.0
    findings = {f.check: f for f in check_frames(frames, r_max=4.0)}
    assert "(s0:1)" in findings["distances"].message
    assert findings["overlap"].severity == "error"
    assert "s0:2" in findings["overlap"].message
    assert "(s0:3)" in findings["lone_atoms"].message


def test_stress_in_gigapascal_or_zero_is_warned_of() -> None:
    frames = changed(sample(), lambda s: replace(s, stress=np.eye(3) * 0.02))
    assert checks(check_frames(frames)) == set()
    for factor in (160.2, 0.0):
        wrong = changed(frames, lambda s, factor=factor: replace(s, stress=s.stress * factor))
        assert checks(check_frames(wrong)) == {"stress"}


def test_total_energies_with_references_of_another_kind_are_warned_of() -> None:
    wrong = ReferenceEnergies({1: 0.0, 6: -1.0, 8: -2.0}, "given")
    assert "binding_energy" in checks(check_frames(sample(), references=wrong))
    right = resolve_reference_energies("least_squares", sample())
    assert checks(check_frames(sample(), references=right)) == set()
    mixed = sample(20)
    mixed = replace(
        mixed, structures=tuple(replace(s, energy=s.energy + 90 * (k % 2)) for k, s in enumerate(mixed.structures))
    )
    assert "energy_spread" in checks(check_frames(mixed, references=right))


REAL = [
    "rmd17/rmd17_aspirin_train_01.npz",
    "3bpa/train_300K.xyz",
    "acac/train_300K.xyz",
    "solvent_xtb/solvent_train.xyz",
    "mlearn/Si_training.extxyz",
    "mlearn/Li_training.extxyz",
    "lips/lips_200.extxyz",
    "mptrj10/mptraj10.db",
]


@pytest.mark.parametrize("file", REAL)
def test_real_data_raise_no_warning(data_dir: Path, file: str) -> None:
    frames = read_frames(data_dir / file)
    references = resolve_reference_energies("auto", frames)
    assert [f for f in check_frames(frames, references=references) if f.severity != "note"] == []


def test_known_duplicates_of_real_data_are_found(data_dir: Path) -> None:
    train = read_frames(data_dir / "3bpa" / "train_300K.xyz")
    mixed = read_frames(data_dir / "3bpa" / "train_mixedT.xyz")
    message = next(f.message for f in check_frames(train, mixed) if f.check == "duplicates")
    assert "31 of valid are also in train" in message
