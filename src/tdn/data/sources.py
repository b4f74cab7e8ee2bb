"""Data sets that `tdn data convert` reads piece by piece, and the registry of their formats."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
    "frames": "tdn.data.frame_files:FrameFiles",
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
