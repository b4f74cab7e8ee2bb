"""The report of a training run, from the files in its folder."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tdn.evaluation.evaluate import evaluate
from tdn.evaluation.uncertainty import measure_calibration
from tdn.modelfile import load_model, read_header
from tdn.report.comparison import compare
from tdn.report.content import LearningCurves, Report, Rows, duration, number
from tdn.report.model import data_rows, factor_tables, model_rows, provenance_rows
from tdn.report.render import write_report
from tdn.structure import Structure

REPORT = "report.html"


def training_report(
    run_folder: str | os.PathLike[str],
    structures: Sequence[Structure] = (),
    evaluated_on: str = "test",
    *,
    origins: Sequence[str] | None = None,
    group_by: Sequence[str] = (),
    others: Sequence[str | os.PathLike[str]] = (),
    device: torch.device | str = "cpu",
) -> Report:
    """Content of the report of a run; of one that is not finished, of the best model so far.

    Args:
        run_folder: Folder with `model.tdn`, `metrics.csv` and, if finished, `summary.json`, as `tdn train` leaves it.
        structures: Labelled frames to evaluate the model on; without them the report has no errors.
        evaluated_on: What these frames are: `test`, or `validation` where there are no test frames.
        origins: Name of each frame, such as `test.extxyz:12`.
        group_by: Keys of the frames by which errors are grouped, beside `config_type`.
        others: Run folders or model files to compare with on these frames.
        device: Where the run's model is evaluated.

    Raises:
        ModelFileError: If there is no readable model in the folder.
        ConfigError: If frames do not have a key, or there is nothing to compare with or on.
    """
    folder = Path(run_folder)
    done, metrics = folder / "summary.json", folder / "metrics.csv"
    summary = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else None
    metadata = read_header(folder / "model.tdn")["metadata"]
    potential = load_model(folder / "model.tdn", device)
    evaluation = evaluate(potential, structures) if structures else None
    frames = metadata.get("num_frames")
    report = Report(
        title="A trained potential" if frames is None else f"A potential trained on {frames} frames",
        lead=_lead(summary),
        model=model_rows(potential),
        data=data_rows(metadata),
        evaluation=evaluation,
        evaluated_on=evaluated_on,
        origins=origins if evaluation and origins and len(origins) == len(evaluation.structures) else None,
        group_by=tuple(group_by),
        calibration=measure_calibration(potential, evaluation) if evaluation else (),
        curves=LearningCurves.read(metrics) if metrics.is_file() else None,
        tables=factor_tables(potential),
        timing=(training_times(summary) if summary else ())
        + (evaluation_times(evaluation.to_dict()["timing"]) if evaluation else ()),
        provenance=provenance_rows(metadata),
        commands=(f"tdn train {folder.name}/config.yaml", f"tdn info {folder.name}/model.tdn"),
    )
    return dataclasses.replace(report, comparison=compare(report, folder, others)) if others else report


def write_training_report(
    run_folder: str | os.PathLike[str],
    structures: Sequence[Structure] = (),
    evaluated_on: str = "test",
    *,
    origins: Sequence[str] | None = None,
) -> Path:
    """Write `report.html` into the folder of a finished run and return its path; arguments as `training_report`.

    Call it once `model.tdn`, `metrics.csv` and `summary.json` are there, with the test frames or, where there are
    none, the validation frames.
    """
    path = Path(run_folder) / REPORT
    write_report(path, training_report(run_folder, structures, evaluated_on, origins=origins))
    return path


def _lead(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return "The run is not finished: the model is the best one so far."
    time = duration(summary["elapsed_s"])
    return f"{summary['steps']} steps in {time}; the best weights are those of step {summary['best_step']}."


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
