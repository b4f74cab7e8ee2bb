"""Files of frames as a source of `tdn data convert`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tdn.data.formats import expand_paths
from tdn.data.labels import LabelKeys
from tdn.data.reading import read_frames
from tdn.data.sources import Notes, Trajectory, Unit
from tdn.errors import DataError
from tdn.structure import Structure


@dataclass(frozen=True)
class FrameFiles:
    """Files that `tdn.data.reading` reads; each is a piece, and must fit into memory.

    Attributes:
        paths: Files or glob patterns.
        keys: Names of the labels.
        group_key: Info entry whose frames belong together, such as `molecule`; each frame is on its own without one.
        allow_partial: Accept frames that lack a label which others have.
    """

    paths: tuple[str, ...]
    keys: LabelKeys = field(default_factory=LabelKeys)
    group_key: str | None = None
    allow_partial: bool = False

    def describe(self) -> dict[str, Any]:
        """Keys and grouping."""
        return {
            "format": "frames",
            "keys": vars(self.keys),
            "group_key": self.group_key,
            "allow_partial": self.allow_partial,
        }

    def units(self) -> list[Unit]:
        """One a file; its size and time of change tell whether it is still the same."""
        return [
            Unit(os.path.abspath(file), 0, 1, f"{file.stat().st_size}-{file.stat().st_mtime_ns}")
            for file in expand_paths(self.paths)
        ]

    def read(self, unit: Unit, notes: Notes) -> Iterator[Trajectory]:
        """The frames of one file, in order, those of a group together where its first one stands."""
        frames = read_frames(unit.path, self.keys, required=(), allow_partial=self.allow_partial)
        notes.reference_energies.update(frames.isolated_atoms)
        groups: dict[str, list[Structure]] = {}
        for structure, origin in zip(frames.structures, frames.origins, strict=True):
            if self.group_key is not None and self.group_key not in structure.info:
                raise DataError(f"Frame {origin} has no `{self.group_key}` to group by.")
            name = origin if self.group_key is None else str(structure.info[self.group_key])
            groups.setdefault(name, []).append(structure)
        for name, members in groups.items():
            yield Trajectory(name, members)
