"""A relaxation of files: what `tdn relax` does, in pieces that can be killed, continued and spread over workers."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tdn.errors import ConfigError, DataError
from tdn.files import atomic_write, write_json
from tdn.models.potential import Potential
from tdn.simulation.cluster import Cluster
from tdn.simulation.journal import JOB, Journal, Shard
from tdn.simulation.relaxation import Relaxed, RelaxSettings, relax_each

# Labels of the geometry that was read; they are wrong of any other.
LABEL_PREFIX = "REF_"


@dataclass(frozen=True)
class RelaxSummary:
    """How a job stands.

    Attributes:
        total: Structures of the whole job.
        finished: Of those, finished by all workers together.
        counts: Number of structures by status; empty until the job is collected.
        failures: `(index, message)` of those that failed.
        output: The file with the results, or None until the job is collected.
    """

    total: int
    finished: int
    counts: dict[str, int]
    failures: tuple[tuple[int, str], ...]
    output: Path | None


@dataclass(frozen=True)
class RelaxJob:
    """Structures, settings and where the results go.

    Attributes:
        structures: All of the job, in the order of the output.
        settings: How to relax.
        output: extxyz file to write.
        inputs: What else the results depend on, as JSON values: fingerprints of model and data, precision.
        trajectories: Folder for one extxyz file a structure with its path, or None.
    """

    structures: Sequence[Atoms]
    settings: RelaxSettings
    output: Path
    inputs: dict[str, Any]
    trajectories: Path | None = None

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the results depend on, as JSON values."""
        return {"structures": len(self.structures), "settings": dataclasses.asdict(self.settings), **self.inputs}

    @property
    def report(self) -> Path:
        """The file that tells what became of every structure."""
        return self.output.with_name(self.output.name + ".report.json")

    @property
    def journal_folder(self) -> Path:
        """Where finished structures are noted until the output is written."""
        return self.output.with_name(self.output.name + ".journal")

    def discard(self) -> None:
        """Forget what an interrupted run has finished; an old output stays until the new one replaces it."""
        if (self.journal_folder / JOB).is_file():
            shutil.rmtree(self.journal_folder)

    def journal(self, shard: Shard | None, resume: bool) -> Journal:
        """The journal of this job, opened."""
        worker = "all" if shard is None else f"{shard.number}-of-{shard.count}"
        return Journal(self.journal_folder, self.description, worker, resume)


def run_job(
    job: RelaxJob,
    engine: Potential | Cluster,
    *,
    shard: Shard | None = None,
    resume: bool = False,
    max_edges: int | None = None,
    progress: Callable[[int, Sequence[Relaxed]], None] | None = None,
) -> RelaxSummary:
    """Relax what is not finished yet; without a shard, then write the output.

    Args:
        job: What to do.
        engine: The model, or workers that have it.
        shard: Do this part only and write no output: the run without a shard, which resumes, collects.
        resume: Continue a journal of the same job.
        max_edges: Most edges in a batch; by default what fits the device.
        progress: Called with the number of finished structures and those results that are new.

    Raises:
        ConfigError: If there is a journal and `resume` is false, or it is that of another job.
        DataError: If there are no structures.
        OSError: If the disk is full; a later run resumes.
    """
    if not job.structures:
        raise DataError("There are no structures to relax: the files are empty.")
    part = shard or Shard()
    with job.journal(shard, resume) as journal:
        todo = [index for index in range(len(job.structures)) if index in part and index not in journal]
        for results in _relax(engine, job, todo, max_edges):
            if job.trajectories is not None:
                for result in results:
                    _write_frames(job.trajectories / f"{result.index:06d}.extxyz", result.trajectory)
            journal.extend(_record(result) for result in results)
            if progress is not None:
                progress(len(journal), results)
        if shard is not None:
            return RelaxSummary(len(job.structures), len(journal), {}, (), None)
        summary = _collect(job, journal)
        journal.remove()
    return summary


def _relax(
    engine: Potential | Cluster, job: RelaxJob, todo: Sequence[int], max_edges: int | None
) -> Iterator[Sequence[Relaxed]]:
    """Results of the structures `todo`, as they come."""
    starts = ((index, job.structures[index]) for index in todo)
    if isinstance(engine, Potential):
        return ([result] for result in relax_each(engine, starts, job.settings, max_edges=max_edges))
    relax_some = functools.partial(_relax_some, settings=job.settings, max_edges=max_edges)
    return engine.map(relax_some, engine.pieces(starts, len(todo)))


def _relax_some(
    potential: Potential, starts: Sequence[tuple[int, Atoms]], settings: RelaxSettings, max_edges: int | None
) -> list[Relaxed]:
    return list(relax_each(potential, starts, settings, max_edges=max_edges))


def _collect(job: RelaxJob, journal: Journal) -> RelaxSummary:
    """Write all results in the order of the input, then the report."""
    rows: list[dict[str, Any]] = []

    def frames() -> Iterator[Atoms]:
        for index, source in enumerate(job.structures):
            record = journal.read(index)
            rows.append({key: record[key] for key in ("index", "status", "steps", "fmax", "energy", "message")})
            if record["status"] != "failed":
                yield _restore(source, record)

    _write_frames(job.output, frames())
    counts = {status: sum(row["status"] == status for row in rows) for status in ("converged", "unconverged", "failed")}
    write_json(job.report, {"job": job.description, "counts": counts, "structures": rows})
    failures = tuple((row["index"], row["message"]) for row in rows if row["status"] == "failed")
    return RelaxSummary(len(rows), len(rows), counts, failures, job.output)


def open_output(output: Path, overwrite: bool, resume: bool) -> None:
    """Make sure that nothing is lost unasked.

    Raises:
        ConfigError: If the output exists, and neither option says what to do with it.
    """
    if overwrite and resume:
        raise ConfigError("Choose one of --resume and --overwrite.")
    if output.suffix not in (".extxyz", ".xyz"):
        raise ConfigError(f"The output {output} must be an .extxyz file: it holds results and info of every structure.")
    if output.is_dir():
        raise ConfigError(f"The output {output} is a folder: name a file.")
    if output.exists() and not overwrite and not resume:
        raise ConfigError(f"The output {output} exists: --overwrite replaces it, or name another.")


def _write_frames(path: Path, frames: Any) -> None:
    """Frames as extxyz, atomically."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for atoms in frames:
            ase.io.write(file, atoms, format="extxyz")


def _record(result: Relaxed) -> dict[str, Any]:
    atoms = result.atoms
    found = atoms.calc.results if atoms.calc is not None else {}
    return {
        "index": result.index,
        "status": result.status,
        "steps": result.steps,
        "fmax": result.fmax if math.isfinite(result.fmax) else None,
        "message": result.message,
        "energy": found.get("energy"),
        **({} if result.status == "failed" else _geometry(atoms, found)),
    }


def _geometry(atoms: Atoms, found: dict[str, Any]) -> dict[str, Any]:
    arrays = {"positions": atoms.positions, "cell": atoms.cell.array, "forces": found["forces"]}
    arrays |= {"stress": found["stress"]} if "stress" in found else {}
    return {name: np.asarray(value).tolist() for name, value in arrays.items()}


def _restore(source: Atoms, record: dict[str, Any]) -> Atoms:
    """The input structure at its final geometry, with the results and what it had of its own."""
    atoms = source.copy()
    for store in (atoms.info, atoms.arrays):
        for name in [name for name in store if name.startswith(LABEL_PREFIX)]:
            del store[name]
    atoms.set_cell(record["cell"])
    atoms.set_positions(record["positions"], apply_constraint=False)
    results = {name: np.array(record[name]) for name in ("forces", "stress") if name in record}
    atoms.calc = SinglePointCalculator(atoms, energy=record["energy"], **results)
    atoms.info |= {f"relax_{name}": record[name] for name in ("index", "status", "steps", "fmax")}
    return atoms
