"""LMDB files of OC20 and OC22 read the same whatever pickled them, and nothing in them is executed."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from oc_files import is2re_record, pickle_record, s2ef_record, slabs, write_lmdb, write_records
from tdn.cli.data import app
from tdn.data.convert import convert
from tdn.data.labels import LabelKeys
from tdn.data.ocp import OCPOptions, check_one_kind_of_energy, iterate_lmdb, read_oc20_references
from tdn.data.reading import read_frames
from tdn.data.sources import open_source
from tdn.data.store import FrameStore
from tdn.errors import DataError
from tdn.structure import Structure

STYLES = ["old", "new"]


def read(path: Path, **options: Any) -> list[Structure]:
    return [structure for _, structure in iterate_lmdb(path, OCPOptions(**options))]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("names", [("y", "force"), ("energy", "forces")])
def test_frames_read_as_written(style: str, names: tuple[str, str], tmp_path: Path):
    frames = slabs(4)
    records = [s2ef_record(atoms, 70 + k, 2 * k, names) for k, atoms in enumerate(frames)]
    structures = read(write_records(tmp_path / "a.lmdb", records, style))
    for k, (structure, atoms) in enumerate(zip(structures, frames, strict=True)):
        np.testing.assert_array_equal(structure.numbers, atoms.numbers)
        np.testing.assert_allclose(structure.positions, atoms.positions, atol=1e-6)
        np.testing.assert_allclose(structure.cell, atoms.cell.array, atol=1e-6)
        np.testing.assert_allclose(structure.forces, atoms.calc.results["forces"], atol=1e-6)
        assert structure.energy == atoms.calc.results["energy"]
        assert structure.tags.tolist() == [0, 0, 1, 1, 2]
        assert structure.fixed.tolist() == [True, True, False, False, False]
        assert structure.pbc.all()
        assert structure.info == {"sid": 70 + k, "fid": 2 * k}


@pytest.mark.parametrize("style", STYLES)
def test_relaxations_have_two_geometries_and_the_relaxed_energy(style: str, tmp_path: Path):
    (atoms,) = slabs(1)
    path = write_records(tmp_path / "data.lmdb", [is2re_record(atoms, 5)], style)
    (initial,), (relaxed,) = read(path), read(path, geometry="relaxed")
    assert initial.energy == relaxed.energy == pytest.approx(atoms.calc.results["energy"] - 0.5)
    assert initial.info["y_init"] == pytest.approx(atoms.calc.results["energy"])
    assert initial.forces is None
    np.testing.assert_allclose((relaxed.positions - initial.positions)[:, 2], [0, 0, 0.1, 0.1, 0.1], atol=1e-6)


@pytest.mark.parametrize("length", [None, 12, 40])
def test_records_come_in_the_order_of_their_numbers_whatever_the_length_says(length: int | None, tmp_path: Path):
    records = [s2ef_record(atoms, k, 0) for k, atoms in enumerate(slabs(12))]
    structures = read(write_records(tmp_path / "a.lmdb", records, length=length))
    # An LMDB sorts its keys as bytes: 0, 1, 10, 11, 2.
    assert [s.info["sid"] for s in structures] == list(range(12))


@pytest.mark.parametrize("kind", [int, np.int64, torch.tensor, lambda n: torch.tensor([n]), lambda n: np.array([n])])
def test_names_of_systems_may_be_numbers_arrays_or_tensors(kind: Any, tmp_path: Path):
    (atoms,) = slabs(1)
    (structure,) = read(write_records(tmp_path / "a.lmdb", [s2ef_record(atoms, kind(31), kind(7))]))
    assert structure.info == {"sid": 31, "fid": 7}
    assert type(structure.info["sid"]) is int


def test_test_splits_have_no_targets(tmp_path: Path):
    (atoms,) = slabs(1)
    record = s2ef_record(atoms, 3, 4)
    del record["y"], record["force"]
    path = write_records(tmp_path / "a.lmdb", [record])
    (structure,) = read(path)
    assert structure.energy is None
    assert structure.forces is None
    with pytest.raises(DataError, match="record 0: there are no relaxed positions"):
        read(path, geometry="relaxed")


def test_oc20_becomes_total_energies_beside_oc22(tmp_path: Path):
    first, second = slabs(2)
    oc22 = is2re_record(second, torch.tensor(9), oc22=1, nads=1)
    path = write_records(tmp_path / "a.lmdb", [is2re_record(first, 8), oc22])
    adsorption = read(path)
    with pytest.raises(DataError, match=r"oc20_ref\.pkl"):
        check_one_kind_of_energy(adsorption)
    (tmp_path / "oc20_ref.pkl").write_bytes(pickle.dumps({"random8": np.float64(-200.0), "random1": -1.0}))
    references = read_oc20_references(tmp_path / "oc20_ref.pkl")
    assert references == {8: -200.0, 1: -1.0}
    total = read(path, oc20_references=references)
    check_one_kind_of_energy(total, OCPOptions(oc20_references=references))
    assert total[0].energy == pytest.approx(adsorption[0].energy - 200.0)
    assert total[1].energy == adsorption[1].energy
    assert total[1].info["nads"] == 1
    with pytest.raises(DataError, match="record 0: there is no reference energy of OC20 system 8"):
        read(path, oc20_references={1: 0.0})


def test_slabs_are_told_from_adslabs_by_the_text_beside(tmp_path: Path):
    path = write_records(tmp_path / "data.0000.lmdb", [s2ef_record(atoms, k, 0) for k, atoms in enumerate(slabs(3))])
    with pytest.raises(DataError, match="no text beside it"):
        read(path, surfaces="slabs")
    (tmp_path / "data_log.0000.txt").write_text("clean_1,0\nads_2,0\nclean_3,0\n")
    assert [s.info["sid"] for s in read(path, surfaces="slabs")] == [0, 2]
    assert [s.info["sid"] for s in read(path, surfaces="adslabs")] == [1]
    (tmp_path / "data_log.0000.txt").write_text("clean_1,0\n")
    with pytest.raises(DataError, match="1 lines, but"):
        read(path, surfaces="slabs")


def test_outliers_are_left_out_on_request(tmp_path: Path):
    frames = slabs(3)
    for atoms, energy, force in zip(frames, (10.0, -10.1, 1.0), (49.0, 1.0, 51.0), strict=True):
        atoms.calc.results["energy"] = energy
        atoms.calc.results["forces"] = np.array([[force, 0, 0]] + 4 * [[0.0, 0, 0]])
    path = write_records(tmp_path / "a.lmdb", [s2ef_record(atoms, k, 0) for k, atoms in enumerate(frames)])
    assert [s.info["sid"] for s in read(path, max_energy=10.0)] == [0, 2]
    assert [s.info["sid"] for s in read(path, max_force=50.0)] == [0, 1]
    assert len(read(path)) == 3


@pytest.mark.parametrize("style", STYLES)
def test_code_in_a_pickle_is_refused(style: str, tmp_path: Path):
    class Exploit:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    (atoms,) = slabs(1)
    path = write_lmdb(tmp_path / "a.lmdb", {"0": pickle_record({**s2ef_record(atoms, 1, 2), "x": Exploit()}, style)})
    with pytest.raises(DataError, match="not on the list"):
        read(path)
    assert not (tmp_path / "executed").exists()


def test_records_that_lack_something_are_refused_by_number(tmp_path: Path):
    good, bad = (s2ef_record(atoms, k, 0) for k, atoms in enumerate(slabs(2)))
    path = write_records(tmp_path / "a.lmdb", [good, {**bad, "pos": bad["pos"][:-1]}])
    with pytest.raises(DataError, match=r"record 1: `pos` should have shape \(5, 3\), got \(4, 3\)"):
        read(path)
    with pytest.raises(DataError, match=r"record 0: there is no `cell`"):
        read(write_records(tmp_path / "b.lmdb", [{k: v for k, v in good.items() if k != "cell"}]))
    entries = {"0": pickle_record(good, "old"), "2": pickle_record(good, "old")}
    with pytest.raises(DataError, match="none with number 1"):
        read(write_lmdb(tmp_path / "c.lmdb", entries))
    with pytest.raises(DataError, match="no records"):
        read(write_lmdb(tmp_path / "d.lmdb", {"length": pickle.dumps(0)}))


def test_a_file_of_users_in_the_new_style(data_dir: Path):
    structures = read(data_dir / "oc" / "ocp_is2re_style_68.lmdb")
    assert [s.info["sid"] for s in structures] == list(range(68))
    assert len({int(z) for s in structures for z in s.numbers}) == 42
    assert {len(s) for s in structures} <= set(range(13, 44))
    assert all(s.energy is not None and s.forces is None for s in structures)


def test_a_folder_is_one_set_of_frames(tmp_path: Path):
    frames = slabs(5)
    for part, chosen in enumerate((frames[:2], frames[2:])):
        records = [s2ef_record(atoms, 10 * part + k, k) for k, atoms in enumerate(chosen)]
        write_records(tmp_path / f"data.{part:04d}.lmdb", records, length=len(records))
    read_set = read_frames(tmp_path)
    assert [s.info["sid"] for s in read_set.structures] == [0, 1, 10, 11, 12]
    assert read_set.origins[2] == "data.0001.lmdb:0"
    assert "5 of 5 frames" in str(read_set.report)
    assert read_set.elements == tuple(sorted({int(z) for atoms in frames for z in atoms.numbers}))
    without = read_frames(tmp_path, LabelKeys(forces="none"), required=("energy",))
    assert all(s.forces is None for s in without.structures)


def test_missing_labels_are_noticed_as_in_other_files(tmp_path: Path):
    (atoms,) = slabs(1)
    path = write_records(tmp_path / "a.lmdb", [is2re_record(atoms, 1)])
    assert read_frames(path, required=("energy",)).structures[0].energy is not None
    with pytest.raises(DataError, match="No forces found in 1 frames"):
        read_frames(path)
    with pytest.raises(DataError, match="no key 'dft_energy'"):
        read_frames(path, LabelKeys(energy="dft_energy"))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_records_become_a_frame_store(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tdn.data.ocp_source.RECORDS_PER_PIECE", 3)
    frames = slabs(7)
    frames[4].calc.results["energy"] = 11.0
    records = [s2ef_record(atoms, k, 5) for k, atoms in enumerate(frames)]
    write_records(tmp_path / "s2ef" / "data.0000.lmdb", records[:5], "new", length=5)
    write_records(tmp_path / "s2ef" / "data.0001.lmdb", records[5:], "old", length=2)
    source = open_source("auto", [str(tmp_path / "s2ef")], {"max_energy": 10.0})
    store = convert(source, tmp_path / "store", workers=workers)
    assert [s.info["sid"] for s in store.view()] == [0, 1, 2, 3, 5, 6]
    assert store.index["drops"] == {"record: |energy| above 10 eV": 1}
    again = [
        s for name in ("data.0000.lmdb", "data.0001.lmdb") for s in read(tmp_path / "s2ef" / name, max_energy=10.0)
    ]
    for stored, structure in zip(store.view(), again, strict=True):
        assert stored.energy == structure.energy
        np.testing.assert_array_equal(stored.forces, structure.forces)
        np.testing.assert_array_equal(stored.fixed, structure.fixed)
        np.testing.assert_array_equal(stored.tags, structure.tags)


def test_options_of_a_conversion_are_given_by_name(tmp_path: Path):
    data = write_records(tmp_path / "data.lmdb", [is2re_record(atoms, k) for k, atoms in enumerate(slabs(2))])
    arguments = ["convert", str(data), str(tmp_path / "store"), "--option", "geometry=relaxed"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (first, _), (relaxed, _) = FrameStore(tmp_path / "store").view(), read(data, geometry="relaxed")
    np.testing.assert_array_equal(first.positions, relaxed.positions)
    wrong = CliRunner().invoke(app, [*arguments[:3], "--option", "colour=red"])
    assert "no option colour" in str(wrong.exception)


def test_another_lmdb_is_not_taken_for_one_of_oc20(tmp_path: Path):
    path = write_lmdb(tmp_path / "qcr.lmdb", {"000000001": gzip.compress(pickle.dumps({}))})
    with pytest.raises(DataError, match="is a shard of PubChemQCR"):
        read_frames(path)
