"""A frame store: labelled structures on disk for random access, in memory-mapped arrays, without pickle.

A store is a folder:

| file | content |
|---|---|
| `index.json` | format version, source, counts, checksums of the shards, what was left out, statistics, splits |
| `index.safetensors` | `num_atoms` of every frame, `trajectory_starts`, `shard_starts`, `trajectory_sums` |
| `shard-00000.safetensors` ... | arrays of the frames one after the other, see `tdn.data.shards` |
| `split.safetensors` | trajectories of `train`, `valid` and `test`, in order |

Frames are numbered through all shards; the frames of a trajectory stand together.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tdn.data.shards import Arrays, map_arrays, map_shard, structure_at
from tdn.errors import DataError
from tdn.structure import Structure

FORMAT, FORMAT_VERSION = "tdn-frames", 1
INDEX, TABLES, SPLIT = "index.json", "index.safetensors", "split.safetensors"
PARTS = ("train", "valid", "test")
OPEN_SHARDS = 4096  # memory maps at a time; the system allows some 65 000


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether `path`, with or without `::part`, is a frame store."""
    return (Path(os.fspath(path).partition("::")[0]) / INDEX).is_file()


class FrameStore:
    """A frame store, opened for reading; a few arrays are in memory, everything else is mapped.

    Args:
        path: Its folder.

    Raises:
        DataError: If it is incomplete, damaged or of a newer format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.index: dict[str, Any] = json.loads((self.path / INDEX).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{path} is no finished frame store: it has no {INDEX}. Make one with: tdn data convert SOURCE {path}"
            ) from error
        except ValueError as error:
            raise DataError(f"{self.path / INDEX} is damaged ({error}): convert again.") from error
        if self.index.get("format") != FORMAT:
            raise DataError(f"{self.path / INDEX} does not belong to a frame store.")
        if self.index["format_version"] > FORMAT_VERSION:
            raise DataError(f"{path} was written by a newer tdn (format {self.index['format_version']}): upgrade tdn.")
        tables, _ = map_arrays(self.path / TABLES)
        self.num_atoms: NDArray[np.uint32] = tables["num_atoms"]
        self.trajectory_starts: NDArray[np.int64] = tables["trajectory_starts"]
        self.trajectory_sums: NDArray[np.float64] = tables["trajectory_sums"]
        self._shard_starts: list[int] = tables["shard_starts"].tolist()
        self._open: OrderedDict[int, Arrays] = OrderedDict()

    def __len__(self) -> int:
        return self._shard_starts[-1]

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories."""
        return len(self.trajectory_starts) - 1

    @property
    def reference_energies(self) -> dict[int, float]:
        """Energies of isolated atoms, eV by atomic number, of elements that have one."""
        return {int(z): float(energy) for z, energy in self.index["reference_energies"].items()}

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(self.index["elements"])

    def locate(self, frame: int) -> tuple[Arrays, int]:
        """Arrays of the shard with a frame, and its number there.

        Raises:
            IndexError: If there is no such frame.
        """
        if not 0 <= frame < self._shard_starts[-1]:
            raise IndexError(frame)
        shard = bisect_right(self._shard_starts, frame) - 1
        arrays = self._open.get(shard)
        if arrays is None:
            arrays = self._map(shard)
        return arrays, frame - self._shard_starts[shard]

    def __getitem__(self, frame: int) -> Structure:
        arrays, local = self.locate(frame)
        return structure_at(arrays, local)

    def names(self, shard: int) -> list[str]:
        """Names of the trajectories of a shard."""
        _, metadata = map_arrays(self.path / self.index["shards"][shard]["name"])
        return json.loads(metadata["names"])

    def trajectory_names(self) -> list[str]:
        """Names of all trajectories, in order."""
        return [name for shard in range(len(self.index["shards"])) for name in self.names(shard)]

    def frames_of(self, trajectories: NDArray[np.int64]) -> NDArray[np.int64]:
        """Frames of some trajectories, one trajectory after the other."""
        starts = self.trajectory_starts[trajectories]
        lengths = self.trajectory_starts[trajectories + 1] - starts
        ends = np.cumsum(lengths)
        if not len(ends):
            return np.zeros(0, dtype=np.int64)
        return np.arange(ends[-1]) - np.repeat(ends - lengths - starts, lengths)

    def split(self) -> dict[str, NDArray[np.int64]]:
        """Trajectories of each part.

        Raises:
            DataError: If the store was made without a split.
        """
        if not (self.index.get("split") and (self.path / SPLIT).is_file()):
            raise DataError(
                f"{self.path} has no split: tdn data convert with --split makes one (no frame is read again)."
            )
        return {name: np.array(part) for name, part in map_arrays(self.path / SPLIT)[0].items()}

    def view(self, part: str = "") -> StoreView:
        """All frames, or those of one part of the split.

        Raises:
            DataError: If there is no such part.
        """
        if not part:
            return StoreView(self, np.arange(len(self)), "")
        trajectories = self.split().get(part)
        if trajectories is None:
            raise DataError(f"{self.path} has no part {part!r}; the parts of a split are {', '.join(PARTS)}.")
        frames = self.frames_of(trajectories)
        if self.index["split"].get("one_frame"):
            # One frame of each trajectory, chosen once: the published code draws another at every access.
            lengths = np.diff(self.trajectory_starts)[trajectories]
            chosen = np.random.default_rng(42).integers(lengths)
            frames = self.trajectory_starts[trajectories] + chosen
        return StoreView(self, frames, part)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Compare every shard with its checksum.

        Returns:
            What is wrong, one line a shard; empty if all is well.
        """
        wrong, shards = [], self.index["shards"]
        for k, shard in enumerate(shards):
            path = self.path / shard["name"]
            if not path.is_file():
                wrong.append(f"{shard['name']} is missing")
            else:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                        wrong.append(f"{shard['name']} has changed since it was written")
            if progress is not None:
                progress(k + 1, len(shards))
        return wrong

    def fingerprint(self) -> str:
        """SHA-256 of the checksums of the shards."""
        return hashlib.sha256("".join(shard["sha256"] for shard in self.index["shards"]).encode()).hexdigest()

    def _map(self, shard: int) -> Arrays:
        entry: Mapping[str, Any] = self.index["shards"][shard]
        path = self.path / entry["name"]
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise DataError(f"{path} is missing or not of {entry['bytes']} bytes: restore it, or convert again.")
        arrays = map_shard(path)
        self._open[shard] = arrays
        while len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return arrays


class StoreView(Sequence[Structure]):
    """Some frames of a store as a sequence of structures that are read when they are asked for.

    Args:
        store: The store.
        frames: Their numbers.
        part: Name of the part of the split, for messages.
        without: Labels that the structures are given without.
    """

    def __init__(self, store: FrameStore, frames: NDArray[np.int64], part: str, without: tuple[str, ...] = ()) -> None:
        self.store, self.frames, self.part, self.without = store, frames, part, without

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Structure: ...
    @overload
    def __getitem__(self, index: slice) -> StoreView: ...
    def __getitem__(self, index: int | slice) -> Structure | StoreView:
        if isinstance(index, slice):
            return self._of(self.frames[index])
        structure = self.store[int(self.frames[index])]
        return replace(structure, **dict.fromkeys(self.without)) if self.without else structure

    @property
    def num_atoms(self) -> NDArray[np.int64]:
        """Atoms of every frame."""
        return self.store.num_atoms[self.frames].astype(np.int64)

    @property
    def trajectories(self) -> NDArray[np.int64]:
        """Trajectory of every frame."""
        return self.store.trajectory_starts.searchsorted(self.frames, side="right") - 1

    def spread(self, count: int) -> StoreView:
        """At most `count` frames, evenly spread."""
        if len(self) <= count:
            return self
        return self._of(self.frames[np.linspace(0, len(self) - 1, count).astype(np.int64)])

    def select(self, indices: Sequence[int]) -> StoreView:
        """The frames at `indices` of this view."""
        return self._of(self.frames[np.asarray(indices, dtype=np.int64)])

    def fingerprint(self) -> str:
        """SHA-256 of the shards and of which frames these are."""
        return hashlib.sha256(self.store.fingerprint().encode() + self.frames.tobytes()).hexdigest()

    def _of(self, frames: NDArray[np.int64]) -> StoreView:
        return StoreView(self.store, frames, self.part, self.without)


class Origins(Sequence[str]):
    """Names of the frames of a view, for messages, made when they are asked for."""

    def __init__(self, view: StoreView) -> None:
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Origins: ...
    def __getitem__(self, index: int | slice) -> str | Origins:
        if isinstance(index, slice):
            return Origins(self._view[index])
        return f"{self._view.store.path.name}:{int(self._view.frames[index])}"
