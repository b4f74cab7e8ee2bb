"""The picture of the rank ablation on n bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdn.files import atomic_write

PANELS = (("mse", "mean squared error"), ("equivariance_error", "relative equivariance error"))


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Error and equivariance error against the rank, ours and the published ones; written atomically.

    Args:
        result: As in `results.json`.
        path: Of the picture; its suffix gives the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        for axis, (quantity, label) in zip(axes, PANELS, strict=True):
            _panel(axis, result["rows"].values(), quantity)
            axis.set(xlabel="rank R", ylabel=label, yscale="log", xscale="log")
            axis.set_xticks([10, 15, 20, 28, 40, 81], ["10", "15", "20", "28", "40", "81"])
            axis.minorticks_off()
        axes[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes[0].yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes[0].legend(fontsize=8, frameon=False)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=150)
        pyplot.close(figure)


def _panel(axis: Any, rows: Any, quantity: str) -> None:
    ranked = sorted((row for row in rows if row["rank"]), key=lambda row: row["rank"])
    published = [(row["rank"], str(row["published"][quantity])) for row in ranked if row["published"][quantity]]
    groups = (
        ("this run, the paper's ranks", [row for row in ranked if row["published"]["mse"]], "o-", "tab:blue"),
        ("this run, exact ranks", [row for row in ranked if not row["published"]["mse"]], "*", "tab:red"),
    )
    values = [(rank, float(text.lstrip("<"))) for rank, text in published]
    axis.plot(*_columns(values), "--", color="0.6", label="published", marker="s", markersize=4)
    bounds = [value for value, (_, text) in zip(values, published, strict=True) if text.startswith("<")]
    axis.plot(*_columns(bounds), "v", color="0.6", markersize=8)
    for label, chosen, style, colour in groups:
        points = [(row["rank"], row[quantity]) for row in chosen]
        axis.plot(*_columns(points), style, color=colour, label=label, markersize=12 if style == "*" else 5)
    dense = [row[quantity] for row in rows if row["rank"] is None]
    if dense:
        axis.axhline(dense[0], color="0.3", linestyle=":", linewidth=1, label="this run, w/o CP+PS")


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
