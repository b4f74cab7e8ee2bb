"""`.aselmdb` files of both dialects read as what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oc_files import slabs, write_aselmdb, write_lmdb
from tdn.data.reading import read_frames
from tdn.errors import DataError


@pytest.mark.parametrize("dialect", ["lists", "ndarray"])
def test_rows_read_as_written_in_the_order_of_their_ids(dialect: str, tmp_path: Path):
    frames = slabs(12)
    for k, atoms in enumerate(frames):
        atoms.info |= {"sid": 500 + k, "fid": k}
    read = read_frames(write_aselmdb(tmp_path / "data.aselmdb", frames, dialect, deleted=[3]))
    # Ids start at 1, and byte order would put 10 before 2.
    expected = [atoms for k, atoms in enumerate(frames, start=1) if k != 3]
    assert [s.info["sid"] for s in read.structures] == [atoms.info["sid"] for atoms in expected]
    for structure, atoms in zip(read.structures, expected, strict=True):
        np.testing.assert_array_equal(structure.numbers, atoms.numbers)
        np.testing.assert_allclose(structure.positions, atoms.positions, rtol=0, atol=1e-14)
        np.testing.assert_allclose(structure.cell, atoms.cell.array, rtol=0, atol=1e-14)
        np.testing.assert_allclose(structure.forces, atoms.calc.results["forces"], rtol=0, atol=1e-14)
        assert structure.energy == pytest.approx(atoms.calc.results["energy"], abs=1e-12)
        assert structure.fixed.tolist() == [True, True, False, False, False]
        assert structure.tags.tolist() == [0, 0, 1, 1, 2]
        assert structure.pbc.all()
    assert read.structures[0].info["note"] == "row 1"


def test_a_system_without_a_name_is_called_by_its_index(tmp_path: Path):
    read = read_frames(write_aselmdb(tmp_path / "data.aselmdb", slabs(3), "ndarray"))
    assert [s.info["sid"] for s in read.structures] == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "message"), [(b"no zlib", "cannot be decoded"), (__import__("zlib").compress(b"[1]"), "no row")]
)
def test_a_damaged_entry_is_refused(value: bytes, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        read_frames(write_lmdb(tmp_path / "data.aselmdb", {"1": value}))


def test_a_truncated_file_is_refused_and_not_mapped(tmp_path: Path):
    path = write_aselmdb(tmp_path / "data.aselmdb", slabs(12), "lists")
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(DataError, match="truncated"):
        read_frames(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be opened as LMDB"):
        read_frames(path)
