"""Entries of the accuracy suite read from their files: training, validation and test frames, the same for everybody."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tdn.data.reading import FrameSet, read_frames
from tdn.data.splits import split_frames
from tdn.datasets import organics_path
from tdn.errors import DataError
from tdn.files import atomic_write
from tdn.reproduce.suites import SUITES, Block, Entry, Part
from tdn.structure import Structure

# Never the seed of a run: all runs see the same frames.
SPLIT_SEED = 0


@dataclass(frozen=True)
class EntryData:
    """Frames of an entry.

    Attributes:
        train: To learn from, with isolated atoms if there are any.
        valid: To choose by.
        blocks: To test on, by name.
    """

    train: FrameSet
    valid: FrameSet
    blocks: Mapping[str, FrameSet]

    def counts(self) -> dict[str, int]:
        """Frames of every part."""
        parts = {"train": self.train, "valid": self.valid, **self.blocks}
        return {name: len(part) for name, part in parts.items()}


def data_folder(suite: str, data: str | os.PathLike[str] | None) -> Path:
    """Folder with the files of a suite.

    Raises:
        DataError: If it cannot be found; says where to get the files.
    """
    if suite == "shipped":
        return organics_path("train").parent
    known = SUITES[suite]
    if data is None:
        raise DataError(f"Name the folder of the data, --data FOLDER (or TDN_DATA). Get them from {known.source}.")
    wanted = [file for entry in known.entries.values() for file in entry.train.files]
    for folder in (Path(data) / name for name in known.folders):
        if any((folder / file).exists() for file in wanted):
            return folder
    places = ", ".join(str(Path(data) / name) for name in known.folders)
    raise DataError(f"No data of {suite} in {places}: looked for {wanted[0]} and others. Get them from {known.source}.")


def missing_files(entry: Entry, folder: Path) -> list[str]:
    """Files that the entry needs and that are not there."""
    parts = [entry.train, *(block.part for block in entry.blocks.values() if not block.optional)]
    if isinstance(entry.valid, Part):
        parts.append(entry.valid)
    files = dict.fromkeys(file for part in parts for file in part.files)
    return [file for file in files if not (folder / file).exists()]


def choose_entries(suite: str, folder: Path, names: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """The entries that are asked for, or all whose files are there; and what is said of those that are left out.

    Raises:
        ConfigError: If there is no such entry.
        DataError: If files of an entry that was asked for are missing, or none is complete.
    """
    known = SUITES[suite]
    chosen = [known.entry(name) for name in names] or list(known.entries.values())
    absent = {entry.name: missing_files(entry, folder) for entry in chosen}
    remarks = [f"{name}: no {', '.join(files)} in {folder}" for name, files in absent.items() if files]
    complete = [entry for entry in chosen if not absent[entry.name]]
    if remarks and (names or not complete):
        raise DataError(f"{'; '.join(remarks)}. Get the files from {known.source}.")
    return complete, remarks


def read_entry(entry: Entry, folder: Path) -> EntryData:
    """Training, validation and test frames.

    Raises:
        DataError: If files cannot be read, or a test has no frame that training does not see.
    """
    train = _read(entry.train, folder)
    if isinstance(entry.valid, Part):
        valid = _read(entry.valid, folder)
    else:
        split = split_frames(train, entry.valid, seed=SPLIT_SEED)
        train, valid = split.train, split.valid
    seen = {_key(structure) for part in (train, valid) for structure in part.structures}
    blocks = {}
    for name, block in entry.blocks.items():
        if not block.optional or all((folder / file).exists() for file in block.part.files):
            blocks[name] = _unseen(_read(block.part, folder, block), seen, name)
    return EntryData(train, valid, blocks)


def _read(part: Part, folder: Path, block: Block | None = None) -> FrameSet:
    # Tests along a path may come with energies only.
    required = ("energy", "forces") if block is None else ("energy",)
    frames = read_frames([folder / file for file in part.files], required=required, allow_partial=True)
    indices = range(len(frames))[part.first : part.last]
    if part.where is not None:
        name, low, high = part.where
        absent = [frames.origins[k] for k in indices if name not in frames.structures[k].info]
        if absent:
            raise DataError(f"Frame {absent[0]} has no `{name}` to choose by.")
        indices = [k for k in indices if low <= float(frames.structures[k].info[name]) <= high]
    return frames.select(indices)


def _unseen(frames: FrameSet, seen: set[bytes], name: str) -> FrameSet:
    new = [k for k, structure in enumerate(frames.structures) if _key(structure) not in seen]
    if not new:
        raise DataError(f"The test {name} has no frames that training does not see.")
    return frames.select(new)


def _key(structure: Structure) -> bytes:
    """Equal for frames with the same atoms at the same places, up to the digits of text files."""
    return structure.numbers.tobytes() + np.round(structure.positions, 5).tobytes()


def write_frames(path: Path, frames: FrameSet) -> None:
    """Write labelled frames, and isolated atoms, as extended XYZ that `tdn train` reads."""
    import ase.io
    from ase import Atoms

    written = []
    for structure in frames.structures:
        atoms = replace(structure, info={}).to_ase()
        for name in ("energy", "stress"):
            if getattr(structure, name) is not None:
                atoms.info[f"REF_{name}"] = getattr(structure, name)
        if structure.forces is not None:
            atoms.set_array("REF_forces", structure.forces)
        written.append(atoms)
    for number, energy in frames.isolated_atoms.items():
        written.append(Atoms(numbers=[number], positions=[[0.0] * 3]))
        written[-1].info |= {"config_type": "IsolatedAtom", "REF_energy": energy}
        written[-1].set_array("REF_forces", np.zeros((1, 3)))
    with atomic_write(path) as temporary:
        ase.io.write(temporary, written, format="extxyz")
