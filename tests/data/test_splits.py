"""Splits: sizes, disjointness, repeatability and groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tdn.data.reading import FrameSet, frames_from_atoms
from tdn.data.splits import Split, split_frames
from tdn.errors import DataError


def frame_set(count: int, group_size: int = 4) -> FrameSet:
    frames = []
    for k in range(count):
        atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.0 + 0.01 * k]], info={"molecule": f"m{k // group_size}"})
        atoms.calc = SinglePointCalculator(atoms, energy=float(k), forces=np.zeros((2, 3)))
        frames.append(atoms)
    return frames_from_atoms(frames)


def names(split: Split) -> list[set[str]]:
    return [set(part.origins) for part in (split.train, split.valid, split.test)]


@pytest.mark.parametrize(
    ("valid", "test", "expected"),
    [
        (0.1, 0.0, (36, 4, 0)),
        (0.25, 0.25, (20, 10, 10)),
        (3, 5, (32, 3, 5)),
        (1, 0, (39, 1, 0)),
        (0.001, 0, (39, 1, 0)),
    ],
)
def test_sizes_and_disjointness(valid: float, test: float, expected: tuple[int, int, int]) -> None:
    frames = frame_set(40)
    parts = names(split_frames(frames, valid, test, seed=3))
    assert tuple(map(len, parts)) == expected
    assert set.union(*parts) == set(frames.origins)
    assert sum(map(len, parts)) == 40


def test_same_seed_same_split_other_seed_another() -> None:
    frames = frame_set(40)
    assert names(split_frames(frames, 0.2, seed=1)) == names(split_frames(frames, 0.2, seed=1))
    assert names(split_frames(frames, 0.2, seed=1)) != names(split_frames(frames, 0.2, seed=2))


def test_groups_stay_together() -> None:
    split = split_frames(frame_set(40), 0.2, 0.1, seed=0, group_key="molecule")
    molecules = [{s.info["molecule"] for s in part.structures} for part in (split.train, split.valid, split.test)]
    assert not molecules[0] & molecules[1]
    assert not molecules[0] & molecules[2]
    assert not molecules[1] & molecules[2]
    assert (len(split.valid), len(split.test)) == (8, 4)


def test_impossible_splits_are_refused() -> None:
    frames = frame_set(8)
    with pytest.raises(DataError, match="leave none of 8"):
        split_frames(frames, 4, 4)
    with pytest.raises(DataError, match="fraction"):
        split_frames(frames, 1.5)
    with pytest.raises(DataError, match="has no `family` to split by"):
        split_frames(frames, 0.5, group_key="family")
    whole = replace(frames, structures=frames.structures[:4], origins=frames.origins[:4])
    with pytest.raises(DataError, match="too large"):
        split_frames(whole, 1, group_key="molecule")
