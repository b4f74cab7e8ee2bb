"""From a source to a frame store: piece by piece, in parallel, resumable, in bounded memory.

Every piece of the source becomes one shard with a note beside it, both written atomically; a piece whose note is there
is done. The order of frames depends on the source alone, never on the number of workers.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tdn.data.shards import map_arrays, save_arrays, write_shard
from tdn.data.sources import Notes, Source, Unit
from tdn.data.store import FORMAT, FORMAT_VERSION, INDEX, SPLIT, TABLES, FrameStore
from tdn.errors import DataError
from tdn.files import write_json

PLAN = "plan.json"
Progress = Callable[[int, int, int], None]
"""Called with pieces done, pieces, and frames written."""


@dataclass(frozen=True)
class _Task:
    """What a worker needs for one piece."""

    source: Source
    unit: Unit
    path: Path
    dtype: str
    references: dict[int, float]


def convert(
    source: Source,
    destination: str | Path,
    *,
    dtype: str = "float64",
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FrameStore:
    """Write a frame store, or finish one that was interrupted.

    Args:
        source: What to read.
        destination: Folder of the store.
        dtype: Of positions and forces: `float64` keeps every digit, `float32` takes half the space (Å to seven digits).
        workers: Processes; 1 reads in this one.
        overwrite: Remove another store in the folder first.
        progress: Hears how far it is.

    Raises:
        DataError: If the folder holds something else, or the source cannot be read; what is done stays done.
    """
    folder = Path(destination)
    units = source.units()
    plan = {"source": _portable(source.describe()), "dtype": dtype, "units": [_label(unit) for unit in units]}
    _open_folder(folder, plan, overwrite)
    references = {int(z): float(e) for z, e in source.describe().get("reference_energies", {}).items()}
    tasks = [
        _Task(source, unit, folder / f"shard-{k:05d}.safetensors", dtype, references) for k, unit in enumerate(units)
    ]
    missing = [task for task in tasks if not _is_done(task.path)]
    done, frames = len(tasks) - len(missing), 0
    if progress is not None:
        progress(done, len(tasks), frames)
    for note in _run(missing, workers):
        done, frames = done + 1, frames + note["frames"]
        if progress is not None:
            progress(done, len(tasks), frames)
    _finish(folder, plan, tasks)
    return FrameStore(folder)


def _portable(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description without places: a store may be moved, and its source too."""
    return {name: value for name, value in description.items() if name not in ("root", "paths")}


def _label(unit: Unit) -> list[Any]:
    return [Path(unit.path).name, unit.first, unit.count, unit.start]


def _open_folder(folder: Path, plan: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder, or check that what is in it is the same conversion.

    Raises:
        DataError: If it is another one, or something else altogether.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: name a folder for the store.")
    known = folder / PLAN
    if folder.is_dir() and any(folder.iterdir()) and not known.is_file():
        raise DataError(f"{folder} is not empty and no frame store: name another folder.")
    if known.is_file():
        old = json.loads(known.read_text(encoding="utf-8"))
        if old == json.loads(json.dumps(plan)) and not overwrite:
            for unfinished in folder.glob(".*.tmp"):
                unfinished.unlink()
            return
        if not overwrite:
            changed = [name for name in plan if old.get(name) != json.loads(json.dumps(plan[name]))]
            raise DataError(
                f"{folder} holds a store made with another {' and '.join(changed)} ({len(old['units'])} pieces then, "
                f"{len(plan['units'])} now): name another folder, or --overwrite to remove it."
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(known, plan)


def _note_path(shard: Path) -> Path:
    return shard.with_suffix(".json")


def _is_done(shard: Path) -> bool:
    """Whether the note of a shard is there and the shard has the size that it says."""
    note = _note_path(shard)
    if not note.is_file():
        return False
    size = json.loads(note.read_text(encoding="utf-8"))["bytes"]
    return size == (shard.stat().st_size if shard.is_file() else 0)


def _run(tasks: Sequence[_Task], workers: int) -> Iterator[dict[str, Any]]:
    """Notes of the tasks as they are done; at most a few pieces are in memory."""
    if workers <= 1:
        yield from map(convert_unit, tasks)
        return
    # Not fork: the parent may have threads of PyTorch or of a progress bar.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
        waiting = iter(tasks)
        running = {pool.submit(convert_unit, task) for task, _ in zip(waiting, range(2 * workers), strict=False)}
        try:
            while running:
                finished, running = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                for future in finished:
                    yield future.result()
                    running |= {pool.submit(convert_unit, task) for task in [next(waiting, None)] if task is not None}
        except concurrent.futures.process.BrokenProcessPool as error:
            raise DataError(
                "A worker was killed: was there enough memory, or is a source file damaged (--workers 1 tells which)? "
                "The same command goes on where this one was."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Let this worker end when the process that started it does, even by a kill: it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def convert_unit(task: _Task) -> dict[str, Any]:
    """Write the shard of one piece and its note; returns the note."""
    notes = Notes()
    # Records are millions of small dictionaries without cycles, which the collector would visit over and over.
    collecting = gc.isenabled()
    gc.disable()
    try:
        counts = write_shard(task.path, task.source.read(task.unit, notes), task.dtype, task.references)
    finally:
        if collecting:
            gc.enable()
    digest, size = "", 0
    if counts is not None:
        with task.path.open("rb") as file:
            digest, size = hashlib.file_digest(file, "sha256").hexdigest(), task.path.stat().st_size
    note = {
        "name": task.path.name,
        "bytes": size,
        "sha256": digest,
        **(counts or {"frames": 0, "trajectories": 0, "atoms": 0, "elements": []}),
        "drops": dict(sorted(notes.drops.items())),
        "reference_energies": {str(z): energy for z, energy in sorted(notes.reference_energies.items())},
    }
    write_json(_note_path(task.path), note)
    return note


def _finish(folder: Path, plan: Mapping[str, Any], tasks: Sequence[_Task]) -> None:
    """Tables over all shards, and last the index, which says that the store is complete."""
    notes = [json.loads(_note_path(task.path).read_text(encoding="utf-8")) for task in tasks]
    shards = [note for note in notes if note["frames"]]
    if not shards:
        drops = sum((Counter(note["drops"]) for note in notes), Counter())
        raise DataError(f"Nothing could be read from the source; left out: {dict(drops) or 'nothing'}.")
    num_atoms, starts, sums = [], [np.zeros(1, dtype=np.int64)], []
    first = 0
    for shard in shards:
        arrays, _ = map_arrays(folder / shard["name"])
        num_atoms.append(np.diff(arrays["offsets"]).astype(np.uint32))
        starts.append(arrays["trajectories"][1:] + first)
        sums.append(np.array(arrays["sums"]))
        first += shard["frames"]
    tables = {
        "num_atoms": np.concatenate(num_atoms),
        "trajectory_starts": np.concatenate(starts),
        "trajectory_sums": np.concatenate(sums),
        "shard_starts": np.cumsum([0, *(shard["frames"] for shard in shards)], dtype=np.int64),
    }
    save_arrays(folder / TABLES, tables)
    given = plan["source"].get("reference_energies", {})
    found = {z: e for note in notes for z, e in note["reference_energies"].items()}
    kept = ("name", "bytes", "sha256", "frames", "trajectories", "atoms")
    index = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "source": {name: value for name, value in plan["source"].items() if name != "reference_energies"},
        "dtype": plan["dtype"],
        "frames": first,
        "trajectories": len(tables["trajectory_starts"]) - 1,
        "atoms": sum(shard["atoms"] for shard in shards),
        "elements": sorted({z for shard in shards for z in shard["elements"]}),
        "reference_energies": {**found, **given},
        "drops": dict(sorted(sum((Counter(note["drops"]) for note in notes), Counter()).items())),
        "shards": [{name: shard[name] for name in kept} for shard in shards],
    }
    old = folder / INDEX
    if old.is_file() and (folder / SPLIT).is_file():
        index |= {name: json.loads(old.read_text(encoding="utf-8")).get(name, {}) for name in ("split", "statistics")}
    write_json(old, index)
