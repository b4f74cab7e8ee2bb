"""Evaluations that several workers share, or that are interrupted: predictions are kept in a journal."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from tdn.data.dataset import GraphDataset
from tdn.data.formats import fingerprint
from tdn.data.reading import FrameSet
from tdn.errors import ConfigError
from tdn.evaluation.evaluate import (
    Evaluation,
    FramePrediction,
    Observer,
    evenly_spread,
    predict,
    summarize,
    summarize_sums,
)
from tdn.evaluation.running import RunningTable
from tdn.models.potential import Potential
from tdn.simulation.cluster import Cluster
from tdn.simulation.journal import Journal, Shard
from tdn.structure import Structure

# Frames that are predicted, and noted, together.
CHUNK = 256


@dataclass(frozen=True)
class EvaluationJob:
    """Predictions of frames, or of a part of them, that outlive the process.

    Attributes:
        potential: The model.
        frames: All of them.
        journal: Predictions of all workers.
        part: The frames that are this worker's.
    """

    potential: Potential
    frames: FrameSet
    journal: Journal
    part: Shard

    @classmethod
    def open(
        cls, potential: Potential, frames: FrameSet, model: Path, output: Path | None, shard: str, resume: bool
    ) -> Self:
        """The job whose journal is `OUTPUT.journal`.

        Args:
            potential: The model, as it predicts.
            frames: All frames.
            model: File of the model, by which the job is known.
            output: Folder of the evaluation.
            shard: `i/n`, or empty for all frames.
            resume: Whether this is the worker that collects.

        Raises:
            ConfigError: Without an output, with both a shard and `resume`, or for the journal of another job.
        """
        if output is None:
            raise ConfigError("--shard, --resume and --dask need --output: predictions are kept in OUTPUT.journal.")
        if shard and resume:
            raise ConfigError("Choose one of --shard and --resume or --dask: a shard always continues, they collect.")
        part = Shard.parse(shard) if shard else Shard()
        job = {
            "frames": len(frames),
            "model": fingerprint([model]),
            "data": frames.fingerprint,
            "dtype": str(potential.dtype),
        }
        worker = f"{part.number}-of-{part.count}" if shard else "all"
        folder = output.with_name(output.name + ".journal")
        return cls(potential, frames, Journal(folder, job, worker, resume=True), part)

    @property
    def finished(self) -> int:
        """How many frames are predicted, by all workers."""
        return len(self.journal)

    def run(self, cluster: Cluster | None = None, progress: Callable[[int], None] | None = None) -> None:
        """Predict what is this worker's and not done yet.

        Args:
            cluster: Workers that do it; by default this process does.
            progress: Called with the number of finished frames.

        Raises:
            DataError: If a frame has an element that the potential does not know, or atoms overlap.
        """
        todo = [k for k in range(len(self.frames)) if k in self.part and k not in self.journal]
        frames = ((k, self.frames.structures[k], self.frames.origins[k]) for k in todo)
        if cluster is None:
            chunks = iter(lambda: list(itertools.islice(frames, CHUNK)), [])
            done = map(functools.partial(_predict_some, self.potential), chunks)
        else:
            done = cluster.map(_predict_some, cluster.pieces(frames, len(todo)))
        for records in done:
            self.journal.extend(records)
            if progress is not None:
                progress(self.finished)

    def collect(self, observe: Observer | None = None) -> Evaluation:
        """The evaluation of all frames, as `evaluate` gives it."""
        view = self.frames.structures
        sums, seconds, kept = RunningTable(), 0.0, []
        wanted = evenly_spread(len(view)) if self.frames.on_disk else range(len(view))
        for index in range(len(view)):
            structure, record = view[index], self.journal.read(index)
            prediction = _prediction(record, structure)
            seconds += record["seconds"]
            sums.add([structure], [prediction])
            if index in wanted:
                kept.append((structure, prediction))
            if observe is not None:
                observe([structure], [prediction])
        if self.frames.on_disk:
            return summarize_sums(self.potential, sums, kept, seconds)
        structures, predictions = zip(*kept, strict=True)
        return summarize(self.potential, structures, predictions, seconds)

    def close(self) -> None:
        """Forget the predictions, once the results are elsewhere."""
        self.journal.remove()


def _predict_some(potential: Potential, frames: Sequence[tuple[int, Structure, str]]) -> list[dict[str, Any]]:
    """Records of some frames, given with index and origin."""
    indices, structures, origins = zip(*frames, strict=True)
    potential.check_elements(np.unique(np.concatenate([s.numbers for s in structures])).tolist())
    dataset = GraphDataset(structures, potential.r_max, origins)
    start = time.perf_counter()
    predictions = predict(potential, dataset)
    seconds = (time.perf_counter() - start) / len(indices)
    return [_record(k, p, seconds) for k, p in zip(indices, predictions, strict=True)]


def _record(index: int, prediction: FramePrediction, seconds: float) -> dict[str, Any]:
    values = {name: _listed(value) for name, value in vars(prediction).items() if value is not None}
    return {"index": index, "seconds": seconds, **values}


def _listed(value: Any) -> Any:
    """A number or array as JSON, which has no NaN: None stands for it."""
    array = np.asarray(value, dtype=np.float64)
    listed = array.astype(object)
    listed[~np.isfinite(array)] = None
    return listed.tolist()


def _prediction(record: dict[str, Any], structure: Structure) -> FramePrediction:
    energy, forces = (np.array(record[name], dtype=np.float64) for name in ("energy", "forces"))
    stress = np.array(record["stress"], dtype=np.float64) if "stress" in record else None
    return FramePrediction(float(energy), forces.reshape(len(structure), 3), stress)
