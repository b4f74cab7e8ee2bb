"""The report of a training run, from the files in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdn.evaluation.evaluate import evaluate
from tdn.modelfile import load_model, read_header
from tdn.report.content import LearningCurves, Report, Rows, number
from tdn.report.model import data_rows, factor_tables, model_rows, provenance_rows
from tdn.report.render import write_report
from tdn.structure import Structure

REPORT = "report.html"


def training_report(
    run_folder: str | os.PathLike[str], structures: Sequence[Structure] = (), evaluated_on: str = "test"
) -> Report:
    """Content of the report of a finished run.

    Args:
        run_folder: Folder with `model.tdn`, `metrics.csv` and `summary.json`, as `tdn train` leaves it.
        structures: Labelled frames to evaluate the model on; without them the report has no errors.
        evaluated_on: What these frames are: `test`, or `validation` where there are no test frames.

    Raises:
        ModelFileError: If there is no readable model in the folder.
    """
    folder = Path(run_folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    metadata = read_header(folder / "model.tdn")["metadata"]
    potential = load_model(folder / "model.tdn")
    evaluation = evaluate(potential, structures) if structures else None
    frames = metadata.get("num_frames")
    return Report(
        title="A trained potential" if frames is None else f"A potential trained on {frames} frames",
        lead=f"{summary['steps']} steps in {duration(summary['elapsed_s'])}; the best weights are those of step "
        f"{summary['best_step']}.",
        model=model_rows(potential),
        data=data_rows(metadata),
        evaluation=evaluation,
        evaluated_on=evaluated_on,
        curves=LearningCurves.read(folder / "metrics.csv"),
        tables=factor_tables(potential),
        timing=training_times(summary) + (evaluation_times(evaluation.to_dict()["timing"]) if evaluation else ()),
        provenance=provenance_rows(metadata),
        commands=(f"tdn train {folder.name}/config.yaml", f"tdn info {folder.name}/model.tdn"),
    )


def write_training_report(
    run_folder: str | os.PathLike[str], structures: Sequence[Structure] = (), evaluated_on: str = "test"
) -> Path:
    """Write `report.html` into the folder of a finished run and return its path; arguments as `training_report`.

    Call it once `model.tdn`, `metrics.csv` and `summary.json` are there, with the test frames or, where there are
    none, the validation frames.
    """
    path = Path(run_folder) / REPORT
    write_report(path, training_report(run_folder, structures, evaluated_on))
    return path


def training_times(summary: Mapping[str, Any]) -> Rows:
    """Durations of a run, from its `summary.json`."""
    return (
        ("Training", f"{duration(summary['elapsed_s'])}, {summary['steps']} steps, validation included"),
        ("Training step", f"{number(1e3 * summary['seconds_per_step'])} ms"),
    )


def evaluation_times(timing: Any) -> Rows:
    """Speed of an evaluation, from the `timing` of its JSON form."""
    where = f"{timing['device']}, {timing['dtype']}, {timing['threads']} threads"
    return (
        ("Energy and forces, batched", f"{number(timing['us_per_atom'])} µs an atom ({where})"),
        ("Frame", f"{number(timing['ms_per_frame'])} ms"),
    )


def duration(seconds: float) -> str:
    """`42 s`, `4 min 10 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{number(seconds)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
