"""Models side by side: other runs on the same frames, with paired differences."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdn.errors import ConfigError, DataError
from tdn.evaluation.breakdown import break_down
from tdn.evaluation.evaluate import evaluate
from tdn.evaluation.tables import tabulate
from tdn.evaluation.uncertainty import evenly
from tdn.modelfile import load_model, read_header
from tdn.models.potential import Potential
from tdn.report.content import Compared, LearningCurves, Report
from tdn.report.model import num_parameters
from tdn.structure import Structure
from tdn.units import MEV_PER_EV

TIMED_FRAMES = 64


def compare(report: Report, run: Path, others: Sequence[str | os.PathLike[str]]) -> tuple[Compared, ...]:
    """Rows of a comparison: the run of a report, then the others, each evaluated on the report's frames.

    Args:
        report: Of the run, with its evaluation.
        run: Its folder.
        others: Run folders or model files.

    Raises:
        ConfigError: If there are no frames to compare on, or something is neither a run folder nor a model file.
        DataError: If a model does not know an element of the frames.
    """
    if report.evaluation is None or report.breakdown is None:
        raise ConfigError("Models are compared on frames: name labelled ones with --data.")
    paths = [model_path(path) for path in (run, *others)]
    names, headers = unique_names(paths), [read_header(path)["metadata"] for path in paths]
    potentials = [load_model(path, report.evaluation.timing.device) for path in paths]
    evaluations = [report.evaluation]
    for name, potential in zip(names[1:], potentials[1:], strict=True):
        try:
            evaluations.append(evaluate(potential, report.evaluation.structures))
        except DataError as error:
            raise DataError(f"{name} cannot be compared on these frames. {error}") from error
    breakdowns = [report.breakdown, *(break_down(evaluation) for evaluation in evaluations[1:])]
    speeds = measure_speeds(potentials, report.evaluation.structures)
    return tuple(
        Compared(
            name=names[k],
            errors=tabulate(evaluation.structures, evaluation.predictions),
            parameters=num_parameters(potentials[k]),
            training_s=_training_time(paths[k]),
            us_per_atom=speeds[k],
            energy_change=difference(breakdowns[0].energy_error, breakdowns[k].energy_error) if k else None,
            forces_change=difference(breakdowns[0].force_rmse, breakdowns[k].force_rmse) if k else None,
            curves=_curves(paths[k]) if k and _same_validation(headers[0], headers[k]) else None,
            notes=_notes(headers[0], headers[k]) if k else (),
        )
        for k, evaluation in enumerate(evaluations)
    )


def measure_speeds(potentials: Sequence[Potential], structures: Sequence[Structure]) -> list[float]:
    """Energy and forces of at most 64 frames in µs an atom, the best of three rounds in which the models take turns."""
    some = evenly(structures, TIMED_FRAMES)
    rounds = [[evaluate(potential, some).timing.us_per_atom for potential in potentials] for _ in range(3)]
    return [min(times) for times in zip(*rounds, strict=True)]


def model_path(path: str | os.PathLike[str]) -> Path:
    """The model file that is named, or the one of the run folder that is.

    Raises:
        ConfigError: If there is none.
    """
    file = Path(path) / "model.tdn" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ConfigError(f"{path} is neither a run folder with a model.tdn nor a model file.")
    return file


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Short names: of the folder for a `model.tdn`, else of the file; numbered where they are alike."""
    names = [path.resolve().parent.name if path.name == "model.tdn" else path.name for path in paths]
    return [f"{n} ({names[: k + 1].count(n)})" if names.count(n) > 1 else n for k, n in enumerate(names)]


def difference(own: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float] | None:
    """Mean of `|other| - |own|` over frames and its standard error; None with fewer than two labelled frames."""
    known = np.isfinite(own) & np.isfinite(other)
    if known.sum() < 2:
        return None
    values = MEV_PER_EV * (np.abs(other[known]) - np.abs(own[known]))
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _training_time(model: Path) -> float | None:
    summary = model.with_name("summary.json")
    return json.loads(summary.read_text(encoding="utf-8"))["elapsed_s"] if summary.is_file() else None


def _curves(model: Path) -> LearningCurves | None:
    metrics = model.with_name("metrics.csv")
    return LearningCurves.read(metrics) if metrics.is_file() else None


def _same_validation(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs were validated on the same frames, a random part of the same file and seed included."""
    first, second = (m.get("data", {}) for m in (own, other))
    if "valid" not in first or "valid" not in second:
        return False
    keys = ("sha256", "num_frames")
    same = all(first["valid"].get(key) == second["valid"].get(key) for key in keys)
    drawn = first["valid"].get("sha256") == first.get("train", {}).get("sha256")
    return same and (not drawn or own.get("seed") == other.get("seed"))


def _notes(own: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    first, second = (m.get("data", {}).get("train", {}).get("sha256") for m in (own, other))
    notes = []
    if first != second:
        notes.append("trained on other data: make sure that the frames compared here are not among them")
    if not _same_validation(own, other):
        notes.append("validated on other frames: its learning curve is not drawn")
    return tuple(notes)
