"""Folders of DeePMD-kit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tdn.data.reading import read_frames
from tdn.errors import DataError


def write_system(folder: Path, frames: int = 3, sets: int = 2, **changes: np.ndarray) -> Path:
    """Water molecules in a box, labels that count the frames."""
    folder.mkdir(exist_ok=True)
    (folder / "type.raw").write_text("0\n1\n1\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    for k in range(sets):
        own = folder / f"set.{k:03d}"
        own.mkdir(exist_ok=True)
        arrays = {
            "coord": np.random.default_rng(k).normal(size=(frames, 9)),
            "box": np.tile(10.0 * np.eye(3).ravel(), (frames, 1)),
            "energy": np.arange(frames) - 10.0 * k,
            "force": np.full((frames, 9), float(k)),
            "virial": np.tile(np.diag([1.0, 2.0, 3.0]).ravel(), (frames, 1)),
        }
        for name, values in {**arrays, **changes}.items():
            np.save(own / f"{name}.npy", values.astype(np.float32))
    return folder


def test_all_sets_are_read_with_elements_and_stress_of_the_virial(tmp_path: Path) -> None:
    frames = read_frames(write_system(tmp_path / "water"))
    assert [s.energy for s in frames.structures] == [0.0, 1.0, 2.0, -10.0, -9.0, -8.0]
    assert frames.structures[0].numbers.tolist() == [8, 1, 1]
    assert frames.structures[4].forces.tolist() == [[1.0] * 3] * 3
    assert np.allclose(frames.structures[0].stress, -np.diag([1.0, 2.0, 3.0]) / 1000.0)
    assert frames.origins[3] == "water:3"


def test_data_decide_the_fingerprint(tmp_path: Path) -> None:
    same = [read_frames(write_system(tmp_path / name)).fingerprint for name in ("a", "b")]
    other = read_frames(write_system(tmp_path / "c", energy=np.zeros(3))).fingerprint
    assert same[0] == same[1] != other


def test_a_folder_that_says_so_is_not_periodic(tmp_path: Path) -> None:
    write_system(tmp_path / "water")
    (tmp_path / "water" / "nopbc").touch()
    assert not read_frames(tmp_path / "water").structures[0].pbc.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "type_map.raw").unlink(), "no type_map.raw"),
        (lambda folder: (folder / "type_map.raw").write_text("O\n"), "name an element for every type"),
        (lambda folder: np.save(folder / "set.000" / "force.npy", np.zeros((3, 6))), "force.npy has shape"),
        (lambda folder: (folder / "set.000" / "coord.npy").unlink(), "cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change, message: str) -> None:
    change(write_system(tmp_path / "water"))
    with pytest.raises(DataError, match=message):
        read_frames(tmp_path / "water")


def test_real_water(data_dir: Path) -> None:
    frames = read_frames([data_dir / "water" / "data_0", data_dir / "water" / "data_1"])
    assert len(frames) == 240
    assert frames.elements == (1, 8)
    assert frames.structures[0].energy == pytest.approx(-29944, abs=2.0)
