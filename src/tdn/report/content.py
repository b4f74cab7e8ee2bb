"""What a report can say; a section appears only when its content is there."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tdn.checks import CheckResult
from tdn.cp.tables import FactorTable
from tdn.evaluation.breakdown import Breakdown, break_down
from tdn.evaluation.dynamics import Relaxation, Trajectory
from tdn.evaluation.evaluate import Evaluation
from tdn.evaluation.metrics import ErrorTable
from tdn.evaluation.uncertainty import Calibrated

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Headline:
    """One number at the top of the page.

    Attributes:
        label: What it is.
        value: Formatted number.
        unit: Its unit.
        note: On what it was measured, in a few words.
    """

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class LearningCurves:
    """Columns of a run's `metrics.csv`; NaN where a row has no value.

    Attributes:
        minutes: Training time, `[k]`.
        columns: The other columns by name, `[k]` each.
    """

    minutes: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float64]]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LearningCurves:
        """Read `metrics.csv` of a run folder; columns that are not numbers are left out."""
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = {}
        for name in rows[0] if rows else ():
            try:
                columns[name] = np.array([float(row[name] or "nan") for row in rows])
            except ValueError:
                continue
        return cls(columns.pop("elapsed_s", np.zeros(len(rows))) / 60.0, columns)


@dataclass(frozen=True)
class Compared:
    """One model of a comparison, on the frames of the report.

    Attributes:
        name: Short name; the first model of a comparison is the report's own.
        errors: On the frames.
        parameters: Trained numbers.
        training_s: Duration of its training, s; None if unknown.
        us_per_atom: Energy and forces on this machine, µs an atom.
        energy_change: Mean over frames of its error of the energy per atom minus the own model's, and standard error of
            that mean, meV/atom; None for the own model.
        forces_change: The same of the RMSE of a frame's force components, meV/Å.
        curves: Learning curves, if they are of the same validation frames.
        notes: What to keep in mind, in sentences.
    """

    name: str
    errors: ErrorTable
    parameters: int
    training_s: float | None
    us_per_atom: float
    energy_change: tuple[float, float] | None = None
    forces_change: tuple[float, float] | None = None
    curves: LearningCurves | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """JSON types; differences as mean and standard error."""
        names = ("name", "parameters", "training_s", "us_per_atom", "energy_change", "forces_change", "notes")
        return {**{name: getattr(self, name) for name in names}, "errors": self.errors.to_dict()}


@dataclass(frozen=True)
class Report:
    """Content of one page.

    Attributes:
        title: Headline of the page.
        lead: One or two sentences below it.
        model: Facts about the model, as label and value.
        data: Facts about the data.
        evaluation: Errors and predictions.
        evaluated_on: What the evaluation's frames are, such as `test`.
        origins: Name of each of these frames, such as `test.extxyz:12`.
        group_by: Keys of the frames by which errors are grouped, beside `config_type`.
        num_worst: Frames that are drawn, the worst by energy and by forces.
        calibration: Predicted uncertainties beside errors.
        comparison: This model and others on the same frames.
        curves: Learning curves.
        relaxations: Relaxations; the first one stands out.
        relaxation_reference: Where the reference geometries come from, such as a level of theory.
        trajectory: NVE run.
        tables: Factor tables of the model, whose certificates are shown.
        checks: Physics checks.
        timing: Durations and speeds, as label and value.
        provenance: Versions, seeds, machine, as label and value.
        commands: Shell commands that reproduce the page.
    """

    title: str
    lead: str = ""
    model: Rows = ()
    data: Rows = ()
    evaluation: Evaluation | None = None
    evaluated_on: str = "test"
    origins: Sequence[str] | None = None
    group_by: tuple[str, ...] = ()
    num_worst: int = 6
    calibration: tuple[Calibrated, ...] = ()
    comparison: tuple[Compared, ...] = ()
    curves: LearningCurves | None = None
    relaxations: tuple[Relaxation, ...] = ()
    relaxation_reference: str = ""
    trajectory: Trajectory | None = None
    tables: tuple[FactorTable, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    timing: Rows = ()
    provenance: Rows = ()
    commands: tuple[str, ...] = field(default=())

    @cached_property
    def breakdown(self) -> Breakdown | None:
        """Where the errors are: by force magnitude, element, `config_type` and whatever else is asked for."""
        if self.evaluation is None:
            return None
        own = ("config_type",) if any("config_type" in s.info for s in self.evaluation.structures) else ()
        return break_down(self.evaluation, tuple(dict.fromkeys((*own, *self.group_by))))

    @property
    def headlines(self) -> tuple[Headline, ...]:
        """The numbers at the top, from whatever there is."""
        found: list[Headline] = []
        if self.evaluation is not None:
            overall, where = (
                self.evaluation.overall,
                f"MAE, {self.evaluation.overall.frames} {self.evaluated_on} frames",
            )
            if overall.energy_per_atom is not None:
                found.append(Headline("Energy", number(overall.energy_per_atom.mae), "meV/atom", where))
            if overall.forces is not None:
                percent = number(overall.forces.relative_rmse_percent or 0.0)
                found.append(Headline("Forces", number(overall.forces.mae), "meV/Å", where))
                found.append(Headline("Relative force error", percent, "%", "RMSE over RMS of the reference"))
            if overall.stress is not None:
                found.append(Headline("Stress", number(overall.stress.mae), "meV/Å³", where))
        with_reference = [r.rmsds[-1] for r in self.relaxations if r.rmsds is not None]
        if with_reference:
            note = f"median RMSD to the reference, {len(with_reference)} relaxations"
            found.append(Headline("Relaxed geometry", number(float(np.median(with_reference))), "Å", note))
        if self.trajectory is not None:
            note = f"NVE, {number(self.trajectory.times[-1])} ps"
            found.append(Headline("Energy drift", number(self.trajectory.drift), "meV/atom/ps", note))
        if self.checks:
            claimed = [check.passed for check in self.checks if check.claimed]
            found.append(Headline("Physics checks", f"{sum(claimed)} of {len(claimed)}", "passed"))
        return tuple(found)


def number(value: float, digits: int = 3) -> str:
    """A number for people: three digits, powers of ten only where zeros would be in the way."""
    if value != value:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    sign = "−" if value < 0 else ""
    if size < 1e-3 or size >= 1e7:
        mantissa, exponent = f"{size:.{digits - 2}e}".split("e")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{sign}{mantissa} × 10{raised}"
    if size >= 999.5:
        return f"{sign}{size:,.0f}".replace(",", "\u202f")
    return f"{sign}{size:.{digits}g}"


def percent(fraction: float) -> str:
    """A fraction for people, in whole per cent unless it is below one."""
    return f"{100 * fraction:.0f}\u202f%" if fraction >= 0.01 or not fraction else f"{100 * fraction:.1g}\u202f%"


def duration(seconds: float) -> str:
    """`42 s`, `4 min 10 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{number(seconds)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
