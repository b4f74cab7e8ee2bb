"""The raw S2EF download: frames and lines belong together, energies become adsorption energies."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from oc_files import slabs, write_raw
from tdn.data.formats import read_atoms
from tdn.data.oc20_raw import read_raw_frames
from tdn.data.reading import read_frames
from tdn.errors import DataError

REFERENCES = [-300.25, -299.5, -301.0]


def test_adsorption_energies_and_forces_of_fixed_atoms(tmp_path: Path):
    frames = slabs(3)
    read = read_frames(write_raw(tmp_path, frames, REFERENCES))
    for k, (structure, atoms) in enumerate(zip(read.structures, frames, strict=True)):
        assert structure.energy == pytest.approx(atoms.calc.results["energy"], abs=1e-7)
        np.testing.assert_allclose(structure.forces, atoms.calc.results["forces"], atol=1e-7)
        assert structure.info["sid"] == 1000 + k
        assert structure.info["fid"] == 3 * k
        assert structure.fixed.sum() == 2
        assert np.abs(structure.forces[structure.fixed]).max() > 0


def test_total_energies_on_request(tmp_path: Path):
    frames = slabs(3)
    totals = read_raw_frames(write_raw(tmp_path, frames, REFERENCES), total_energies=True)
    for atoms, total, reference in zip(frames, totals, REFERENCES, strict=True):
        assert total.calc.results["energy"] == pytest.approx(atoms.calc.results["energy"] + reference, abs=1e-7)


def test_decompressed_files_read_the_same(tmp_path: Path):
    path = write_raw(tmp_path, slabs(3), REFERENCES)
    for name in ("0.extxyz", "0.txt"):
        (tmp_path / name).write_bytes(lzma.decompress((tmp_path / f"{name}.xz").read_bytes()))
    (tmp_path / "0.txt.xz").unlink()
    plain, packed = read_atoms(tmp_path / "0.extxyz"), read_atoms(path)
    assert [a.info["sid"] for a in plain] == [a.info["sid"] for a in packed]
    assert [a.calc.results["energy"] for a in plain] == [a.calc.results["energy"] for a in packed]


def test_a_text_of_ones_own_beside_a_file_is_none_of_our_business(tmp_path: Path):
    path = write_raw(tmp_path, slabs(3), REFERENCES)
    (tmp_path / "train.extxyz").write_bytes(lzma.decompress(path.read_bytes()))
    (tmp_path / "train.txt").write_text("Notes on the training set.\n")
    assert "sid" not in read_atoms(tmp_path / "train.extxyz")[0].info


def test_frames_and_lines_that_do_not_match_are_refused(tmp_path: Path):
    path = write_raw(tmp_path, slabs(3), REFERENCES)
    index = tmp_path / "0.txt.xz"
    lines = lzma.decompress(index.read_bytes()).splitlines()
    index.write_bytes(lzma.compress(b"\n".join(lines[:2])))
    with pytest.raises(DataError, match=r"3 frames but 0\.txt\.xz has 2 lines"):
        read_frames(path)
    index.write_bytes(lzma.compress(b"\n".join([*lines[:2], b"random3;frame1"])))
    with pytest.raises(DataError, match=r"0\.txt\.xz, line 3: expected"):
        read_frames(path)
    index.write_bytes(lzma.compress(b"\n".join([*lines[:2], b"random3,frame1"])))
    with pytest.raises(DataError, match="no reference energy of system 3"):
        read_frames(path)
    index.unlink()
    with pytest.raises(DataError, match=r"no 0\.txt\.xz"):
        read_frames(path)


@pytest.mark.parametrize("name", ["0.extxyz.xz", "0.txt.xz"])
def test_truncated_files_are_refused(name: str, tmp_path: Path):
    path = write_raw(tmp_path, slabs(3), REFERENCES)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_frames(path)
