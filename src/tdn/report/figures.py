"""Figures as SVG that takes its colours and typeface from the page, so that one file suits light and dark screens.

Clouds of points are embedded as pictures, everything else stays text and lines.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from tdn.evaluation.dynamics import Relaxation, Trajectory
from tdn.evaluation.evaluate import Evaluation
from tdn.evaluation.uncertainty import Calibrated
from tdn.files import atomic_write
from tdn.units import MEV_PER_EV

# Colours that stand for a CSS variable of the template; the hexadecimal values are what a PNG gets.
INK, MUTED, GRID, ACCENT, WARM, GOOD, BAD = "#1a1c20", "#686f7a", "#dcdfe4", "#2f6fb8", "#c8641b", "#2b7c50", "#bb3b33"
THEME = {
    **{INK: "--ink", MUTED: "--muted", GRID: "--line", ACCENT: "--accent", WARM: "--warm"},
    **{GOOD: "--good", BAD: "--bad"},
}
# Points are pictures and cannot follow the theme: this blue reads on white and on black.
POINTS = "#4a8fd6"
MAX_POINTS = 20000

Others = tuple[str, NDArray[np.float64], NDArray[np.float64]]
"""A curve to compare with: name, training times and values."""

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "savefig.transparent": True,
}


def new_figure(height: float = 2.5, width: float = 3.5) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes in the report's style; the size is in inches."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def to_svg(figure: Figure, name: str) -> str:
    """Inline SVG whose colours are the page's CSS variables; `name` keeps its identifiers apart from others."""
    buffer = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", dpi=200)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    # Older matplotlib writes the shorthand `font: 700 9.5px 'DejaVu Sans', ...`, newer one property each.
    svg = re.sub(r"(font-family:|font: (?:\d+ )?[\d.]+px) [^;\"]*", r"\1 var(--sans)", svg)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, f"var({variable})")
    # Identifiers such as those of axes repeat in every figure of a page.
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg).strip()


def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure as a picture on white, atomically."""
    FigureCanvasAgg(figure)
    with atomic_write(path) as temporary, rc_context(STYLE):
        figure.savefig(temporary, format="png", dpi=200, transparent=False, facecolor="white")


def parity_energy(evaluation: Evaluation) -> Figure:
    """Energy per atom relative to the reference energies, predicted against reference, eV/atom."""
    points = []
    for structure, prediction in zip(evaluation.structures, evaluation.predictions, strict=True):
        if structure.energy is not None:
            offset = sum(evaluation.reference_energies[int(z)] for z in structure.numbers)
            points.append(((structure.energy - offset) / len(structure), (prediction.energy - offset) / len(structure)))
    reference, predicted = np.array(points).T
    return _parity(reference, predicted, "energy relative to atoms", "eV/atom")


def parity_forces(evaluation: Evaluation) -> Figure:
    """Force components, predicted against reference, eV/Å; a random 20000 of them if there are more."""
    reference, predicted = _force_pairs(evaluation)
    return _parity(reference, predicted, "force component", "eV/Å")


def force_error_histogram(evaluation: Evaluation) -> Figure:
    """Distribution of the errors of the force components, meV/Å, with the MAE marked."""
    reference, predicted = _force_pairs(evaluation, limit=None)
    errors = np.abs(predicted - reference) * MEV_PER_EV
    positive = errors[errors > 0] if (errors > 0).any() else np.ones(1)
    figure, axes = new_figure(3.0)
    low, high = np.quantile(positive, 0.005), positive.max()
    axes.hist(np.clip(errors, low, None), bins=np.geomspace(low, max(high, 1.01 * low), 41), color=ACCENT)
    _mark(axes, float(errors.mean()), f"MAE {errors.mean():.3g}")
    axes.set_xscale("log")
    _plain_log(axes.xaxis)
    axes.set(xlabel="|error| of a force component (meV/Å)", ylabel="components")
    axes.grid(axis="x", visible=False)
    return figure


def learning_curve(
    x: NDArray[np.float64],
    valid: NDArray[np.float64],
    train: NDArray[np.float64] | None,
    xlabel: str,
    ylabel: str,
    others: Sequence[Others] = (),
) -> Figure:
    """An error over training time on validation frames and, thinner, on training batches; last values written out.

    `others` are validation errors of other runs: name, times and values.
    """
    figure, axes = new_figure()
    shown = [np.zeros(0)]
    both = [y for y in (train, valid) if y is not None and np.isfinite(y).any()]
    ends = [float(y[np.isfinite(y)][-1]) for y in both]
    for y, color, width in ((train, MUTED, 1.0), (valid, ACCENT, 1.8)):
        if y is None or not np.isfinite(y).any():
            continue
        known = np.isfinite(y)
        # The lower of two curves has its number below, so that numbers of close curves do not cover each other.
        above = len(ends) == 1 or y[known][-1] == max(ends)
        axes.plot(
            x[known], y[known], color=color, linewidth=width, marker="o" if known.sum() < 30 else None, markersize=3
        )
        axes.annotate(
            f"{y[known][-1]:.3g}", (x[known][-1], y[known][-1]), xytext=(0, 5 if above else -5),
            textcoords="offset points", ha="right", va="bottom" if above else "top", color=color, fontweight="bold",
        )  # fmt: skip
        shown.append(y[known])
    for k, (name, times, y) in enumerate(others):
        known = np.isfinite(y)
        style = {"color": (WARM, GOOD, BAD)[k % 3], "linestyle": "-" if k < 3 else (0, (4, 2))}
        axes.plot(times[known], y[known], linewidth=1.3, label=name, **style)
        shown.append(y[known])
    if others:
        axes.legend(fontsize=8.5, frameon=False, labelcolor="linecolor")
    values = np.concatenate(shown)
    if len(values) and values.min() > 0 and values.max() > 4 * values.min():
        axes.set_yscale("log")
        _plain_log(axes.yaxis)
    axes.margins(y=0.12)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def calibration(part: Calibrated) -> Figure:
    """RMS error against RMS predicted standard deviation, in classes of equally many predictions, meV or meV/Å."""
    groups = np.array_split(np.argsort(part.sigma), min(10, max(1, len(part.sigma) // 5)))
    predicted, error = (
        np.array([MEV_PER_EV * np.sqrt(np.square(values[group]).mean()) for group in groups])
        for values in (part.sigma, part.error)
    )
    figure, axes = new_figure(3.0)
    both = np.concatenate([predicted, error])
    both = both[both > 0] if (both > 0).any() else np.ones(1)
    limits = (both.min() / 1.5, both.max() * 1.5)
    axes.plot(limits, limits, color=MUTED, linewidth=0.9)
    axes.plot(predicted, error, color=ACCENT, marker="o", markersize=4, linewidth=1.0)
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_log(axis)
    unit = {"energy": "meV", "forces": "meV/Å"}[part.quantity]
    axes.set(xlabel=f"predicted standard deviation ({unit})", ylabel=f"error, RMS ({unit})")
    return figure


def relaxation_traces(relaxations: Sequence[Relaxation], quantity: str) -> Figure:
    """`energy`, `force` or `rmsd` step by step; the first relaxation stands out, the others are thin."""
    figure, axes = new_figure()
    for k, relaxation in reversed(list(enumerate(relaxations))):
        values = _trace(relaxation, quantity)
        if values is not None:
            style = {"color": ACCENT, "linewidth": 1.9} if k == 0 else {"color": MUTED, "linewidth": 0.8, "alpha": 0.7}
            axes.plot(np.arange(len(values)), values, **style)
    labels = {
        "energy": "energy above the end (meV)",
        "force": "largest force (eV/Å)",
        "rmsd": "RMSD to reference geometry (Å)",
    }
    if quantity == "force":
        axes.set_yscale("log")
        _plain_log(axes.yaxis)
        axes.axhline(relaxations[0].fmax, color=WARM, linewidth=1.0, linestyle=(0, (4, 3)))
    elif quantity == "energy":
        # One relaxation that leaves what the model knows must not flatten all others.
        starts = [_trace(r, quantity)[0] for r in relaxations if r.converged] or [_trace(relaxations[0], quantity)[0]]
        axes.set_ylim(0.0, 1.15 * max(*starts, 1.0))
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlabel="step", ylabel=labels[quantity])
    return figure


def nve_energy(trajectory: Trajectory) -> Figure:
    """Total energy per atom relative to the start over time, meV/atom, with the fitted line."""
    figure, axes = new_figure()
    energy = trajectory.total_energies
    axes.plot(trajectory.times, energy, color=ACCENT, linewidth=0.9)
    line = np.polyval(np.polyfit(trajectory.times, energy, 1), trajectory.times)
    axes.plot(trajectory.times, line, color=WARM, linewidth=1.6)
    # A conserved energy should look conserved: never magnify less than 0.1 meV/atom to the full height.
    half = max(1.3 * float(np.abs(energy - energy.mean()).max()), 0.05)
    axes.set_ylim(energy.mean() - half, energy.mean() + half)
    axes.set(xlabel="time (ps)", ylabel="total energy (meV/atom)")
    return figure


def nve_temperature(trajectory: Trajectory) -> Figure:
    """Kinetic temperature over time, K."""
    figure, axes = new_figure()
    axes.plot(trajectory.times, trajectory.temperatures, color=ACCENT, linewidth=0.7)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="time (ps)", ylabel="temperature (K)")
    return figure


def _parity(reference: NDArray[np.float64], predicted: NDArray[np.float64], quantity: str, unit: str) -> Figure:
    figure, axes = new_figure(3.0)
    low = min(reference.min(), predicted.min())
    high = max(reference.max(), predicted.max())
    margin = 0.04 * (high - low) or 0.1
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=MUTED, linewidth=0.9)
    few = len(reference) < 500
    axes.scatter(
        reference, predicted, s=14 if few else 5, alpha=0.75 if few else 0.3, color=POINTS, linewidths=0,
        rasterized=True, zorder=2.5,
    )  # fmt: skip
    axes.set(xlim=limits, ylim=limits, xlabel=f"reference {quantity} ({unit})", ylabel=f"predicted ({unit})")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    return figure


def _force_pairs(
    evaluation: Evaluation, limit: int | None = MAX_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pairs = [
        (structure.forces[structure.free], prediction.forces[structure.free])
        for structure, prediction in zip(evaluation.structures, evaluation.predictions, strict=True)
        if structure.forces is not None
    ]
    reference, predicted = (np.concatenate(parts).ravel() for parts in zip(*pairs, strict=True))
    if limit is not None and len(reference) > limit:
        chosen = np.random.default_rng(0).choice(len(reference), limit, replace=False)
        return reference[chosen], predicted[chosen]
    return reference, predicted


def _trace(relaxation: Relaxation, quantity: str) -> Any:
    """Values of one quantity step by step, `[k]`; None for distances without a reference."""
    if quantity == "energy":
        return MEV_PER_EV * (relaxation.energies - relaxation.energies[-1])
    return relaxation.max_forces if quantity == "force" else relaxation.rmsds


def _mark(axes: Axes, x: float, text: str) -> None:
    axes.axvline(x, color=WARM, linewidth=1.4)
    axes.annotate(
        text, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(5, -10), textcoords="offset points", color=WARM
    )


def _plain_log(axis: Any) -> None:
    """Label 1, 2 and 5 of each decade in plain digits, thinned out over many decades."""
    low, high = axis.get_view_interval()
    decades = np.log10(max(high, 1e-300) / max(low, 1e-300))
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
