"""Files to frame sets: formats, isolated atoms, damaged files, and real data sets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from tdn.data.labels import LabelKeys
from tdn.data.reading import frames_from_atoms, is_isolated_atom, read_frames
from tdn.errors import DataError
from tdn.units import EV_PER_KCAL_PER_MOL


def molecules(count: int = 3) -> list[Atoms]:
    """CO molecules of growing length with energies and forces."""
    frames = []
    for k in range(count):
        atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1 + 0.05 * k]])
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0 + k, forces=[[0, 0, 0.5 * k], [0, 0, -0.5 * k]])
        frames.append(atoms)
    return frames


def lone(symbol: str, energy: float, **keywords: object) -> Atoms:
    atoms = Atoms(symbol, **keywords)
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def npz_arrays(frames: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "nuclear_charges": np.array([8, 1], dtype=np.uint8),
        "coords": rng.normal(size=(frames, 2, 3)) + np.array([[0.0, 0, 0], [3.0, 0, 0]]),
        "energies": rng.normal(size=frames) - 97000.0,
        "forces": rng.normal(size=(frames, 2, 3)),
    }


def test_extxyz_round_trip_with_origins_and_fingerprint(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "co.xyz", molecules(), format="extxyz")
    frames = read_frames(tmp_path / "co.xyz")
    assert [s.energy for s in frames.structures] == [-14.0, -13.0, -12.0]
    assert frames.origins == ("co.xyz:0", "co.xyz:1", "co.xyz:2")
    assert frames.fingerprint == hashlib.sha256((tmp_path / "co.xyz").read_bytes()).hexdigest()
    assert frames.elements == (6, 8)
    assert frames.select([2, 0]).origins == ("co.xyz:2", "co.xyz:0")


def test_patterns_and_several_files_are_one_set_without_repeats(tmp_path: Path) -> None:
    for name in ("b.xyz", "a.xyz"):
        ase.io.write(tmp_path / name, molecules(2), format="extxyz")
    frames = read_frames([tmp_path / "b.xyz", str(tmp_path / "*.xyz")])
    assert frames.origins == ("b.xyz:0", "b.xyz:1", "a.xyz:0", "a.xyz:1")
    assert frames.fingerprint != read_frames(tmp_path / "a.xyz").fingerprint


def test_a_cell_does_not_mean_periodic(tmp_path: Path) -> None:
    atoms = molecules(1)[0]
    atoms.set_cell([50.0, 50.0, 50.0])
    ase.io.write(tmp_path / "co.xyz", atoms, format="extxyz")
    structure = read_frames(tmp_path / "co.xyz").structures[0]
    assert not structure.pbc.any()
    assert structure.cell[0, 0] == 50.0


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_ase_databases_keep_key_value_pairs_and_data(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"frames.{suffix}"
    with ase.db.connect(path) as database:
        for k, atoms in enumerate(molecules()):
            database.write(atoms, REF_energy=-20.0 - k, molecule="CO", data={"REF_forces": np.full((2, 3), float(k))})
    frames = read_frames(path)
    assert [s.energy for s in frames.structures] == [-20.0, -21.0, -22.0]
    assert np.array_equal(frames.structures[2].forces, np.full((2, 3), 2.0))
    assert frames.structures[0].info["molecule"] == "CO"


def test_rmd17_npz_is_converted_from_kcal_per_mol(tmp_path: Path) -> None:
    arrays = npz_arrays()
    np.savez(tmp_path / "m.npz", **arrays, old_energies=arrays["energies"] + 1.0)
    frames = read_frames(tmp_path / "m.npz")
    assert len(frames) == 4
    assert frames.structures[1].energy == pytest.approx(arrays["energies"][1] * EV_PER_KCAL_PER_MOL, rel=1e-15)
    assert np.allclose(frames.structures[1].forces, arrays["forces"][1] * EV_PER_KCAL_PER_MOL, rtol=1e-14)
    old = read_frames(tmp_path / "m.npz", LabelKeys(energy="old_energies"))
    assert old.structures[0].energy - frames.structures[0].energy == pytest.approx(EV_PER_KCAL_PER_MOL, rel=1e-6)


def test_npz_of_another_layout_or_shape_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", R=np.zeros((1, 2, 3)))
    with pytest.raises(DataError, match="lacks nuclear_charges, coords, energies, forces"):
        read_frames(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **(npz_arrays() | {"forces": np.zeros((3, 2, 3))}))
    with pytest.raises(DataError, match=r"`forces` has shape \(3, 2, 3\)"):
        read_frames(tmp_path / "b.npz")


def test_forces_of_fixed_atoms_are_read_as_stored() -> None:
    atoms = molecules(3)[2]
    atoms.set_constraint(FixAtoms([0]))
    assert frames_from_atoms([atoms]).structures[0].forces[0, 2] == 1.0


def test_missing_empty_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such file: .*nothing\.xyz"):
        read_frames(tmp_path / "nothing.xyz")
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(DataError, match=r"empty\.xyz is empty"):
        read_frames(tmp_path / "empty.xyz")
    ase.io.write(tmp_path / "co.xyz", molecules(), format="extxyz")
    text = (tmp_path / "co.xyz").read_text()
    (tmp_path / "cut.xyz").write_text("".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"cut\.xyz cannot be read"):
        read_frames(tmp_path / "cut.xyz")
    np.savez(tmp_path / "m.npz", **npz_arrays())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cut\.npz cannot be read"):
        read_frames(tmp_path / "cut.npz")


def test_broken_geometry_names_the_frame() -> None:
    frames = molecules(2)
    frames[1].positions[0, 0] = np.nan
    with pytest.raises(DataError, match=r"Frame frame 1: Positions of CO contain NaN"):
        frames_from_atoms(frames)


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (Atoms("H"), True),
        (Atoms("H", cell=[50.0] * 3), True),
        (Atoms("H", cell=[100.0] * 3, pbc=True), True),
        (Atoms("H", cell=[100.0, 100.0, 3.0], pbc=True), False),
        (bulk("Cu"), False),
        (Atoms("H", info={"total_charge": 1}), False),
        (Atoms("HH", positions=[[0, 0, 0], [0, 0, 0.7]], info={"config_type": "IsolatedAtom"}), False),
        (Atoms("H", cell=[6.0] * 3, pbc=True, info={"config_type": "IsolatedAtom"}), True),
        (Atoms("H", cell=[6.0] * 3, pbc=True, info={"config_type": "isolated_atom"}), True),
        (Atoms("H", cell=[6.0] * 3, pbc=True, info={"config_type": "md"}), False),
    ],
)
def test_which_frames_are_isolated_atoms(atoms: Atoms, expected: bool) -> None:
    assert is_isolated_atom(atoms) is expected


def test_isolated_atoms_are_taken_out_and_one_atom_crystals_stay() -> None:
    copper = bulk("Cu")
    copper.calc = SinglePointCalculator(copper, energy=-3.7, forces=np.zeros((1, 3)))
    frames = frames_from_atoms([lone("Cu", -0.2), copper, lone("O", -1.5, info={"config_type": "IsolatedAtom"})])
    assert frames.isolated_atoms == {8: -1.5, 29: -0.2}
    assert len(frames) == 1
    assert frames.structures[0].energy == -3.7
    assert "2 isolated atoms" in str(frames.report)


def test_marked_isolated_atoms_go_before_unmarked_and_contradictions_are_refused() -> None:
    marked = lone("O", -1.5, info={"config_type": "IsolatedAtom"})
    assert frames_from_atoms([lone("O", -9.0), marked, *molecules(1)]).isolated_atoms == {8: -1.5}
    with pytest.raises(DataError, match=r"the same isolated atom O with energies -9\.0"):
        frames_from_atoms([lone("O", -9.0), lone("O", -1.5), *molecules(1)])


def test_isolated_atom_without_the_chosen_energy_is_refused() -> None:
    frames = molecules(2)
    for atoms in frames:
        atoms.info["REF_energy"] = -1.0
    with pytest.raises(DataError, match="isolated atom without a usable `REF_energy`"):
        frames_from_atoms([*frames, lone("O", -1.5)])


REAL = [
    (["rmd17/rmd17_ethanol_train_01.npz"], 1000, 0, (1, 6, 8), 0),
    (["3bpa/train_300K.xyz", "3bpa/iso_atoms.xyz"], 500, 4, (1, 6, 7, 8), 0),
    (["acac/train_300K.xyz", "acac/isolated_atoms.xyz"], 500, 3, (1, 6, 8), 0),
    (["solvent_xtb/solvent_train.xyz"], 200, 3, (1, 6, 8), 0),
    (["mlearn/Si_training.extxyz"], 214, 0, (14,), 214),
]


@pytest.mark.parametrize(("files", "count", "isolated", "elements", "stress"), REAL)
def test_real_files(
    data_dir: Path, files: list[str], count: int, isolated: int, elements: tuple[int, ...], stress: int
) -> None:
    frames = read_frames([data_dir / file for file in files])
    assert len(frames) == count
    assert len(frames.isolated_atoms) == isolated
    assert frames.elements == elements
    assert frames.report.forces.num_labelled == count
    assert frames.report.stress.num_labelled == stress


def test_real_database_has_stress(data_dir: Path) -> None:
    frames = read_frames(data_dir / "mptrj10" / "mptraj10.db")
    assert len(frames) == 10
    assert len(frames.elements) == 23
    assert all(s.stress is not None for s in frames.structures)


def test_real_frames_without_forces_are_refused_unless_not_needed(data_dir: Path) -> None:
    path = data_dir / "acac" / "test_H_transfer.xyz"
    with pytest.raises(DataError, match="No forces found in 15 frames"):
        read_frames(path)
    assert len(read_frames(path, required=("energy",))) == 15
