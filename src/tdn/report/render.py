"""From `Report` to HTML."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from tdn.files import atomic_write
from tdn.report import figures
from tdn.report.advice import advise
from tdn.report.content import Compared, LearningCurves, Report, duration, number, percent
from tdn.report.structures import element_colours, worst_frames
from tdn.version import __version__


def render_report(report: Report) -> str:
    """The page as one string: style and figures are inside it, and nothing is loaded from elsewhere."""
    environment = Environment(
        loader=PackageLoader("tdn", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    environment.filters["duration"] = duration
    return environment.get_template("report.html").render(
        report=report,
        figures=draw(report),
        advice=advise(report),
        worst=worst_frames(report),
        colours=element_colours(report.evaluation.structures if report.evaluation else ()),
        version=__version__,
    )


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write the page, atomically.

    Raises:
        OSError: If the file cannot be written.
    """
    page = render_report(report)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def draw(report: Report) -> dict[str, Markup]:
    """All figures that the report has content for, as inline SVG by name."""
    drawings: dict[str, Callable[[], Figure]] = {}
    evaluation = report.evaluation
    if evaluation is not None and evaluation.overall.energy is not None:
        drawings["parity_energy"] = partial(figures.parity_energy, evaluation)
    if evaluation is not None and evaluation.overall.forces is not None:
        drawings["parity_forces"] = partial(figures.parity_forces, evaluation)
        drawings["force_errors"] = partial(figures.force_error_histogram, evaluation)
    for part in report.calibration:
        drawings[f"calibration_{part.quantity}"] = partial(figures.calibration, part)
    for quantity in ("energy", "force", "rmsd") if report.relaxations else ():
        if quantity != "rmsd" or any(r.rmsds is not None for r in report.relaxations):
            drawings[f"relaxation_{quantity}"] = partial(figures.relaxation_traces, report.relaxations, quantity)
    trajectory = report.trajectory
    if trajectory is not None:
        drawings["nve_energy"] = partial(figures.nve_energy, trajectory)
        drawings["nve_temperature"] = partial(figures.nve_temperature, trajectory)
    if report.curves is not None:
        drawings.update(_curves(report.curves, report.comparison[1:]))
    return {name: Markup(figures.to_svg(make(), name.replace("_", "-"))) for name, make in drawings.items()}


# Name of a figure -> columns of metrics.csv for validation and training, and the label; absent ones are left out.
CURVES = {
    "curve_forces": ("valid_forces_mae", "train_forces_mae", "force MAE (meV/Å)"),
    "curve_energy": ("valid_energy_mae_mev_per_atom", "train_energy_mae_mev_per_atom", "energy MAE (meV/atom)"),
    "curve_stress": ("valid_stress_mae", "train_stress_mae", "stress MAE (meV/Å³)"),
    "curve_loss": ("valid_loss", "loss", "loss"),
}


def _curves(curves: LearningCurves, compared: Sequence[Compared]) -> dict[str, Callable[[], Figure]]:
    short = curves.minutes.max(initial=0.0) < 2.0
    x, xlabel = (curves.minutes * 60.0, "training time (s)") if short else (curves.minutes, "training time (min)")
    drawings: dict[str, Callable[[], Figure]] = {}
    runs = [(c.name, (60.0 if short else 1.0) * c.curves.minutes, c.curves.columns) for c in compared if c.curves]
    for name, (valid, train, label) in CURVES.items():
        y = curves.columns.get(valid)
        if y is not None and np.isfinite(y).sum() > 1:
            others = [(run, times, columns[valid]) for run, times, columns in runs if valid in columns]
            drawings[name] = partial(figures.learning_curve, x, y, curves.columns.get(train), xlabel, label, others)
    return drawings
