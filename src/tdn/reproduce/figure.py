"""The picture of an accuracy suite: errors in the time of training, and errors against the cost of using the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tdn.files import atomic_write
from tdn.reproduce.suites import SUITES, Entry

if TYPE_CHECKING:
    from tdn.reproduce.summary import Group

WARM = ("#7f0000", "#d62728", "#ff7f0e", "#e6b400", "#8c564b", "#e377c2")
LINES = ("-", "--", ":", "-.")  # of the machines
MARKERS = "osD^"  # of the machines
COLD = ("#1f77b4", "#2ca02c", "#9467bd", "#17becf", "#7f7f7f", "#111111")


def draw(suite: str, groups: Mapping[str, Sequence[Group]], path: Path) -> None:
    """Draw a row for each entry: validation force error in time, and test force error against inference time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {entry: own for entry, own in groups.items() if own}
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(len(shown), 2, figsize=(12, 3.6 * len(shown)), squeeze=False)
        for (name, own), (left, right) in zip(shown.items(), axes, strict=True):
            colours = _colours([group.contender for group in own])
            _curves(left, own, colours)
            _front(right, SUITES[suite].entries[name], own, colours)
            left.set_title(f"{suite}, {name}: validation while training", loc="left")
        figure.tight_layout()
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
        plt.close(figure)


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Warm colours for ours, cold ones for peers."""
    ours = list(dict.fromkeys(name for name in names if name.startswith("tdn")))
    peers = list(dict.fromkeys(name for name in names if not name.startswith("tdn")))
    warm = {name: WARM[k % len(WARM)] for k, name in enumerate(ours)}
    return warm | {name: COLD[k % len(COLD)] for k, name in enumerate(peers)}


def _curves(axis: Any, groups: Sequence[Group], colours: Mapping[str, str]) -> None:
    named: set[str] = set()
    machines = sorted({group.machine for group in groups})
    for group in sorted(groups, key=lambda group: not group.contender.startswith("tdn")):
        for result in group.results:
            points = [(row["elapsed_s"] / 60, row["forces_mae"]) for row in result["curve"] if "forces_mae" in row]
            name = group.contender if len(machines) == 1 else f"{group.contender}, {group.machine}"
            label = None if name in named else name
            named.add(name)
            style = LINES[machines.index(group.machine) % len(LINES)]
            marker = "." if len(points) < 40 else ""
            colour = colours[group.contender]
            axis.plot(*zip(*points, strict=True), style, color=colour, lw=1.2, marker=marker, label=label)
            # Where the learning rate has annealed: runs are compared by their ends.
            axis.plot(*zip(*points[-1:], strict=True), "o", color=colour, ms=5)
    axis.set(xlabel="training, min", ylabel="force MAE, meV/Å")
    _logarithmic(axis)
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _front(axis: Any, entry: Entry, groups: Sequence[Group], colours: Mapping[str, str]) -> None:
    """Test errors of the first block: down and left is better; lines join what nothing beats in the same time."""
    name, block = next(iter(entry.blocks.items()))
    reached: dict[tuple[float, str], list[tuple[float, float]]] = {}
    machines = sorted({group.machine for group in groups})
    markers = {machine: MARKERS[k % len(MARKERS)] for k, machine in enumerate(machines)}
    for group in groups:
        errors = group.errors(name, "forces", entry.measure)
        if not errors:
            continue
        x, y = group.mean("inference_ms"), fmean(errors)
        reached.setdefault((group.seconds, group.machine), []).append((x, y))
        spread = [[y - min(errors)], [max(errors) - y]]
        marker = markers[group.machine]
        axis.errorbar([x], [y], yerr=spread, fmt=marker, ms=6, color=colours[group.contender], capsize=2)
        axis.annotate(clock(group.seconds), (x, y), textcoords="offset points", xytext=(6, 3), fontsize=7)
    for points in reached.values():
        axis.plot(*zip(*pareto_front(points), strict=True), color="0.75", lw=0.8, zorder=0)
    published = [row for row in block.published if row.forces is not None]
    if published:
        best = min(published, key=lambda row: row.forces or 0.0)
        axis.axhline(best.forces, color="0.6", lw=0.8, ls=":")
        axis.annotate(
            f"{best.model}, published", (1, best.forces), xycoords=("axes fraction", "data"), fontsize=7, color="0.4",
            ha="right", va="bottom",
        )  # fmt: skip
    if len(machines) > 1:  # the same network takes different times on them
        for machine, marker in markers.items():
            axis.plot([], [], marker, color="0.5", label=machine)
        axis.legend(fontsize=7, frameon=False)
    axis.set(xlabel="energy and forces of one structure, ms", ylabel=f"force {entry.measure.upper()}, meV/Å")
    axis.margins(x=0.2, y=0.15)
    _logarithmic(axis)
    axis.set_title(f"tested on: {name}", loc="left")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both numbers, by the first one."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _logarithmic(axis: Any) -> None:
    """Both axes, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(xscale="log", yscale="log")
    for each, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        many = high > 5.0 * low
        each.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if many else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)))
        each.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        each.set_minor_formatter(NullFormatter())
    axis.grid(True, which="major", lw=0.3, alpha=0.5)


def clock(seconds: float) -> str:
    """`45 s`, `15 min` or `6 h`."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
