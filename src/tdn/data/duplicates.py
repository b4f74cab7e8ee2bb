"""Frames with equal geometries, within and across the sets of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tdn.data.reading import FrameSet
from tdn.structure import Structure


@dataclass(frozen=True)
class Duplicates:
    """Names of the frames whose geometry an earlier frame has.

    Attributes:
        within: In the same set, by its name.
        steady: In the same trajectory, by the name of the set: a relaxation that stands still makes such frames.
        across: In another set, by the names of this and of the earlier one.
    """

    within: dict[str, list[str]] = field(default_factory=dict)
    steady: dict[str, list[str]] = field(default_factory=dict)
    across: dict[tuple[str, str], list[str]] = field(default_factory=dict)


def frame_digest(structure: Structure) -> bytes:
    """Identity of a geometry: elements, positions and, where periodic, the cell, to 1e-4 Å."""
    parts = [structure.positions, structure.cell if structure.pbc.any() else np.zeros(0)]
    digest = hashlib.sha256(structure.numbers.tobytes() + structure.pbc.tobytes())
    for part in parts:
        digest.update(np.round(part * 1e4).astype(np.int64).tobytes())
    return digest.digest()


def find_duplicates(sets: Mapping[str, FrameSet]) -> Duplicates:
    """Equal geometries in the sets, looked at in their order.

    Args:
        sets: By name, such as `train`.
    """
    first_seen: dict[bytes, tuple[str, int | None]] = {}
    found = Duplicates()
    for name, frames in sets.items():
        trajectories = frames.trajectories or [None] * len(frames)
        for structure, origin, trajectory in zip(frames.structures, frames.origins, trajectories, strict=True):
            digest = frame_digest(structure)
            earlier = first_seen.get(digest)
            if earlier is None:
                first_seen[digest] = (name, trajectory)
            elif earlier[0] != name:
                found.across.setdefault((name, earlier[0]), []).append(origin)
            elif trajectory is not None and earlier[1] == trajectory:
                found.steady.setdefault(name, []).append(origin)
            else:
                found.within.setdefault(name, []).append(origin)
    return found
