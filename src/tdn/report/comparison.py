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
from tdn.evaluation.breakdown import Breakdown, break_down
from tdn.evaluation.evaluate import Evaluation, evaluate
from tdn.evaluation.tables import tabulate
from tdn.modelfile import load_model, read_header
from tdn.report.content import Compared, LearningCurves, Report
from tdn.report.model import num_parameters
from tdn.units import MEV_PER_EV


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
    names = unique_names(paths)
    own = read_header(paths[0])["metadata"]
    found = [_row(names[0], paths[0], report.evaluation)]
    for name, path in zip(names[1:], paths[1:], strict=True):
        metadata, potential = read_header(path)["metadata"], load_model(path)
        try:
            evaluation = evaluate(potential, report.evaluation.structures)
        except DataError as error:
            raise DataError(f"{name} cannot be compared on these frames. {error}") from error
        found.append(_row(name, path, evaluation, (report.breakdown, break_down(evaluation)), (own, metadata)))
    return tuple(found)


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


def _row(
    name: str,
    path: Path,
    evaluation: Evaluation,
    breakdowns: tuple[Breakdown, Breakdown] | None = None,
    metadata: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
) -> Compared:
    summary, metrics = path.with_name("summary.json"), path.with_name("metrics.csv")
    seconds = json.loads(summary.read_text(encoding="utf-8"))["elapsed_s"] if summary.is_file() else None
    alike = metadata is None or _same_validation(*metadata)
    own, other = breakdowns or (None, None)
    return Compared(
        name=name,
        errors=tabulate(evaluation.structures, evaluation.predictions),
        parameters=num_parameters(load_model(path)),
        training_s=seconds,
        us_per_atom=evaluation.timing.us_per_atom,
        energy_change=difference(own.energy_error, other.energy_error) if own and other else None,
        forces_change=difference(own.force_rmse, other.force_rmse) if own and other else None,
        curves=LearningCurves.read(metrics) if metadata is not None and alike and metrics.is_file() else None,
        notes=_notes(*metadata) if metadata is not None else (),
    )


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
