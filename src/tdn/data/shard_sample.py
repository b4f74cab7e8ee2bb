"""A look at PubChemQCR's shards without converting them: some records of all files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tdn.data.formats import expand_paths
from tdn.data.labels import LabelKeys, LabelReport, LabelSource
from tdn.data.ocp import is_open_catalyst
from tdn.data.pubchemqcr import PubChemQCR
from tdn.data.reading import FrameSet
from tdn.data.sources import Notes, Trajectory
from tdn.errors import DataError

RECORDS = 200


def are_shards(paths: Sequence[str]) -> bool:
    """Whether these are files of PubChemQCR, or a folder of them."""
    files = expand_paths(paths)
    return files[0].suffix == ".lmdb" and not is_open_catalyst(files[0])


def read_shard_sample(
    paths: Sequence[str], stage: str = "1st", keys: LabelKeys | None = None, records: int = RECORDS
) -> FrameSet:
    """The usable frames of records evenly spread over the shards.

    Args:
        paths: One folder or file.
        stage: As in `PubChemQCR`.
        keys: Nothing but the default makes sense: the labels have no names to choose from.
        records: How many to read at most.

    Raises:
        DataError: If a record is damaged or none can be used, or keys were named.
    """
    if len(paths) != 1:
        raise DataError(f"Shards of PubChemQCR are read by themselves: name one folder or file, got {len(paths)}.")
    if keys not in (None, LabelKeys()):
        raise DataError("The labels of PubChemQCR's shards have no keys to choose: leave out the keys.")
    source = PubChemQCR(paths[0], stage)
    units, notes = source.spread(records), Notes()
    found: list[Trajectory] = [trajectory for unit in units for trajectory in source.read(unit, notes)]
    said = [f"{len(found)} trajectories in {len(units)} records"]
    said += [f"left out, {why}: {count}" for why, count in sorted(notes.drops.items())]
    if not found:
        raise DataError(f"{paths[0]}: {'; '.join(said)}. Is {stage} the stage that you want?")
    rows = [(number, t.name, frame) for number, t in enumerate(found) for frame in t.frames]
    label = LabelSource("PubChemQCR", len(rows), len(rows))
    references = source.describe()["reference_energies"]
    return FrameSet(
        structures=tuple(frame for _, _, frame in rows),
        isolated_atoms={int(z): energy for z, energy in references.items()},
        report=LabelReport(label, label, LabelSource(None, 0, 0), notes=tuple(said)),
        source=str(Path(paths[0])),
        fingerprint="",
        origins=tuple(f"{name}:{frame.info['stage']}:{frame.info['step']}" for _, name, frame in rows),
        trajectories=tuple(number for number, _, _ in rows),
    )
