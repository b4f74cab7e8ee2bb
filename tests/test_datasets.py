"""The shipped data set: labels are finite and physical, splits are disjoint, the manifest tells the truth."""

import json

import ase.io
import numpy as np
import pytest

from tdn.datasets import ORGANICS_FILES, SPLITS, organics_path
from tdn.errors import DataError

ELEMENTS = {"H", "C", "N", "O", "F", "S", "Cl"}


@pytest.fixture(scope="module")
def frames():
    return {split: ase.io.read(organics_path(split), index=":") for split in SPLITS}


@pytest.fixture(scope="module")
def manifest():
    return json.loads(organics_path("train").with_name("manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def atom_energies():
    atoms = ase.io.read(organics_path("isolated_atoms"), index=":")
    assert all(len(atom) == 1 and atom.info["config_type"] == "IsolatedAtom" for atom in atoms)
    return {atom.get_chemical_symbols()[0]: atom.info["REF_energy"] for atom in atoms}


def test_manifest_counts_the_frames(frames, manifest):
    assert manifest["frames"] == {split: len(frames[split]) for split in SPLITS}
    for entry in manifest["molecules"]:
        kinds = [f.info["config_type"] for f in frames[entry["split"]] if f.info["molecule"] == entry["name"]]
        assert len(kinds) == entry["frames"]
        assert {kind: kinds.count(kind) for kind in ("relaxation", "perturbed", "stretched")}.items() <= entry.items()


def test_splits_share_no_molecule(frames):
    molecules = {split: {frame.info["smiles"] for frame in frames[split]} for split in SPLITS}
    assert not molecules["train"] & molecules["valid"]
    assert not molecules["train"] & molecules["test"]
    assert not molecules["valid"] & molecules["test"]


def test_every_split_has_every_element(frames, atom_energies):
    for split in SPLITS:
        assert set().union(*(frame.get_chemical_symbols() for frame in frames[split])) == ELEMENTS
    assert set(atom_energies) == ELEMENTS


@pytest.mark.parametrize("split", SPLITS)
def test_forces_obey_newtons_third_law(frames, split):
    for frame in frames[split]:
        forces = frame.arrays["REF_forces"]
        assert np.isfinite(forces).all()
        assert np.linalg.norm(forces, axis=1).max() <= 15.0
        # Forces are exact derivatives, so only the eight decimals of the file remain: at most 0.5e-8 eV/Å per atom.
        assert np.abs(forces.sum(0)).max() <= 0.5e-8 * len(frame) + 1e-9


@pytest.mark.parametrize("split", SPLITS)
def test_molecules_are_bound(frames, atom_energies, split):
    for frame in frames[split]:
        symbols = frame.get_chemical_symbols()
        atomization = sum(atom_energies[s] for s in symbols) - frame.info["REF_energy"]
        assert 1.0 < atomization / len(symbols) < 6.0, frame.info["molecule"]


def test_relaxations_go_downhill_to_small_forces(frames, manifest):
    by_molecule = {}
    for frame in (frame for split in SPLITS for frame in frames[split]):
        if frame.info["config_type"] == "relaxation":
            by_molecule.setdefault(frame.info["molecule"], []).append(frame)
    final_forces = {entry["name"]: entry["final_relaxation_force"] for entry in manifest["molecules"]}
    assert by_molecule.keys() == final_forces.keys()
    for name, steps in by_molecule.items():
        assert steps[-1].info["REF_energy"] < steps[0].info["REF_energy"], name
        force = np.linalg.norm(steps[-1].arrays["REF_forces"], axis=1).max()
        assert force == pytest.approx(final_forces[name], abs=1e-4)
        # The start and at most 12 steps: relaxations that used them all need not have arrived.
        assert force < (0.05 if len(steps) < 13 else 0.5), name


def test_frames_are_molecules_without_a_cell(frames):
    for split in SPLITS:
        assert all(not frame.pbc.any() and not frame.cell.any() for frame in frames[split])
        assert all(isinstance(frame.info["smiles"], str) for frame in frames[split])


def test_data_set_is_small():
    assert sum(organics_path(name).stat().st_size for name in ORGANICS_FILES) <= 3_000_000


def test_unknown_split_is_refused():
    with pytest.raises(DataError, match="isolated_atoms"):
        organics_path("training")
