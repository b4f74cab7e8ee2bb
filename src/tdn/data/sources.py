"""Data sets that `tdn data convert` reads piece by piece, and the registry of their formats."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tdn.data.labels import LabelKeys
from tdn.errors import DataError
from tdn.structure import Structure


class Unit(NamedTuple):
    """A piece of a source that can be read on its own.

    Attributes:
        path: Its file.
        first: Number of its first record in the file.
        count: Number of its records.
        start: Where a reader finds the first record, such as its key.
    """

    path: str
    first: int
    count: int
    start: str = ""


class Trajectory(NamedTuple):
    """Frames that belong together: splits never divide them.

    Attributes:
        name: Unique in the source, such as PubChem's CID.
        frames: At least one.
    """

    name: str
    frames: Sequence[Structure]


@dataclass
class Notes:
    """What a reader says besides the trajectories.

    Attributes:
        drops: Counts what is left out by its reason, as `what: why`.
        reference_energies: Energies of isolated atoms that were found, eV by atomic number.
    """

    drops: Counter[str] = field(default_factory=Counter)
    reference_energies: dict[int, float] = field(default_factory=dict)


class Source(Protocol):
    """A data set. Implementations are small frozen dataclasses, since they are sent to worker processes."""

    def describe(self) -> dict[str, Any]:
        """What decides the content, as JSON types: the options, and under `reference_energies` eV by atomic number."""
        ...

    def units(self) -> list[Unit]:
        """The pieces, in order; the same files give the same pieces."""
        ...

    def read(self, unit: Unit, notes: Notes) -> Iterator[Trajectory]:
        """One piece; what is not a trajectory goes to `notes`."""
        ...


FORMATS = {
    "frames": "tdn.data.sources:FrameFiles",
    "pubchemqcr": "tdn.data.pubchemqcr:PubChemQCR",
    "ocp": "tdn.data.ocp_source:OpenCatalyst",
}
"""Name of a format -> `module:class` of its source, called with the paths and the options."""


def open_source(format_name: str, paths: Sequence[str], options: Mapping[str, Any]) -> Source:
    """A source by the name of its format.

    Args:
        format_name: In `FORMATS`, or `auto`: a folder of `*.lmdb` or such files are PubChemQCR, OC20 or OC22, all
            else are frames.
        paths: Files or folders.
        options: Fields of the source.

    Raises:
        DataError: If there is no such format, or it has no such option.
    """
    name = _guess(paths) if format_name == "auto" else format_name
    if name not in FORMATS:
        raise DataError(f"No format {name!r}; there are auto, {', '.join(FORMATS)}.")
    module, _, cls = FORMATS[name].partition(":")
    make = getattr(importlib.import_module(module), cls)
    fields = tuple(make.__dataclass_fields__)
    unknown = sorted(set(options) - set(fields[1:]))
    if unknown:
        raise DataError(
            f"The format {name} has no option {', '.join(unknown)}; it has {', '.join(fields[1:]) or 'none'}."
        )
    if fields[0] == "root" and len(paths) != 1:
        raise DataError(f"The format {name} takes one folder or file, got {len(paths)}.")
    return make(paths[0] if fields[0] == "root" else tuple(paths), **options)


def _guess(paths: Sequence[str]) -> str:
    first = Path(paths[0])
    found = [first] if first.suffix == ".lmdb" else sorted(first.glob("*.lmdb")) if first.is_dir() else []
    if not found:
        return "frames"
    from tdn.data.ocp import is_open_catalyst

    return "ocp" if is_open_catalyst(found[0]) else "pubchemqcr"


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
        from tdn.data.formats import expand_paths

        return [
            Unit(os.path.abspath(file), 0, 1, f"{file.stat().st_size}-{file.stat().st_mtime_ns}")
            for file in expand_paths(self.paths)
        ]

    def read(self, unit: Unit, notes: Notes) -> Iterator[Trajectory]:
        """The frames of one file, in order, those of a group together where its first one stands."""
        from tdn.data.reading import read_frames

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
