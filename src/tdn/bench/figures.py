"""Pictures of benchmark results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdn.bench.results import row_title, short
from tdn.bench.suites import EXPLANATIONS
from tdn.errors import TDNError
from tdn.files import atomic_write


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the result of a suite: bars of times, or curves where a size was varied; format by the suffix of `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = {"scaling": _scaling, "product": _products}.get(result["suite"], _times)(result, plt)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=150, bbox_inches="tight")
        plt.close(figure)


def _times(result: Mapping[str, Any], plt: Any) -> Any:
    rows = [row for row in result["rows"] if row["passes"]]
    if not rows:
        raise TDNError("No contender could be timed: there is nothing to draw.")
    if result["suite"] == "conv" and len({row["lmax"] for row in rows}) > 1:
        return _degrees(rows, result.get("exponents", []), plt)
    names = list(dict.fromkeys(name for row in rows for name in row["passes"]))
    width = 7.0 if len(names) == 1 else 4.5 * len(names)
    figure, axes = plt.subplots(len(rows), len(names), figsize=(width, 0.6 + 2.4 * len(rows)), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for name, axis in zip(names, line, strict=False):
            if name in row["passes"]:
                _bars(axis, row["passes"][name], f"{row_title(row)}:\n{EXPLANATIONS[name]}")
            else:
                axis.set_axis_off()
    figure.tight_layout()
    return figure


def _bars(axis: Any, found: Mapping[str, Any], title: str) -> None:
    """Medians as bars with quartiles, ours in another colour, the ratio written beside each."""
    times = sorted(found["times"].items(), key=lambda item: -item[1]["median_ms"])
    medians = [t["median_ms"] for _, t in times]
    errors = [
        [t["median_ms"] - t["quartiles_ms"][0] for _, t in times],
        [t["quartiles_ms"][1] - t["median_ms"] for _, t in times],
    ]
    colours = ["tab:red" if who.startswith("ours") else "tab:gray" for who, _ in times]
    axis.barh([who for who, _ in times], medians, xerr=errors, color=colours, height=0.7)
    for k, (who, t) in enumerate(times):
        ratio = found.get("ratios", {}).get(who)
        text = f" {short(t['median_ms'])} ms" + (f", {short(ratio)} ×" if ratio else "")
        axis.text(t["quartiles_ms"][1], k, text, va="center", fontsize=8)
    axis.set(title=title, xlabel="ms", xscale="log", xlim=(min(medians) / 2, max(medians) * 6))
    axis.xaxis.set_minor_formatter("")


def _degrees(rows: Sequence[Mapping[str, Any]], exponents: Sequence[Mapping[str, Any]], plt: Any) -> Any:
    """Time an edge against the degree with fitted exponents, a row of panels for each size, a panel for each pass."""
    fits = {(fit["channels"], fit["neighbors"], fit["pass"]): fit["exponents"] for fit in exponents}
    sizes = list(dict.fromkeys((row["channels"], row["neighbors"]) for row in rows))
    passes = list(dict.fromkeys(name for row in rows for name in row["passes"]))
    contenders = list(dict.fromkeys(who for row in rows for name in passes for who in row["passes"][name]["times"]))
    styles = {who: {"color": f"C{(k + 4) % 10}", "linewidth": 1.2} for k, who in enumerate(contenders)}
    styles["ours"] = {"color": "tab:red", "linewidth": 2.5}
    figure, axes = plt.subplots(
        len(sizes), len(passes), figsize=(3.6 * len(passes) + 1.4, 3.4 * len(sizes)), squeeze=False, sharex=True
    )
    for size, line in zip(sizes, axes, strict=True):
        for name, axis in zip(passes, line, strict=True):
            chosen = [row for row in rows if (row["channels"], row["neighbors"]) == size and name in row["passes"]]
            for who in contenders:
                points = [
                    (row["lmax"], 1e3 * row["passes"][name]["times"][who]["median_ms"] / row["edges"])
                    for row in chosen if who in row["passes"][name]["times"]
                ]  # fmt: skip
                if not points:
                    continue
                axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=who, **styles[who])
                if (fit := fits.get((*size, name), {}).get(who)) is not None:
                    beside = {"xytext": (6, -3), "textcoords": "offset points", "fontsize": 7}
                    axis.annotate(f"$L^{{{fit:.1f}}}$", points[-1], color=styles[who]["color"], **beside)
            axis.set(
                title=f"{EXPLANATIONS[name]}\n{size[0]} channels, {size[1]} neighbours", xscale="log", yscale="log"
            )
            axis.set(xlabel="L", ylabel="µs an edge")
            degrees = sorted({row["lmax"] for row in chosen})
            axis.set_xticks(degrees, [str(lmax) for lmax in degrees])
            axis.minorticks_off()
            axis.margins(x=0.15)
        line[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    return figure


def _products(result: Mapping[str, Any], plt: Any) -> Any:
    """Times of a sample, a line of points for each configuration; rows of panels for weights, a panel for each pass."""
    rows = [row for row in result["rows"] if row["passes"]]
    if not rows:
        raise TDNError("No contender could be timed: there is nothing to draw.")
    settings = list(dict.fromkeys(row["weights"] for row in rows))
    passes = list(dict.fromkeys(name for row in rows for name in row["passes"]))
    contenders = list(dict.fromkeys(who for row in rows for name in passes for who in row["passes"][name]["times"]))
    heights = [1.0 + 0.3 * sum(row["weights"] == weights for row in rows) for weights in settings]
    figure, axes = plt.subplots(
        len(settings), len(passes), figsize=(3.6 * len(passes), sum(heights)), squeeze=False, sharey="row",
        height_ratios=heights,
    )  # fmt: skip
    for weights, line in zip(settings, axes, strict=True):
        chosen = [row for row in rows if row["weights"] == weights]
        for name, axis in zip(passes, line, strict=True):
            for k, who in enumerate(contenders):
                points = [
                    (1e3 * row["passes"][name]["times"][who]["median_ms"] / row["edges"], place)
                    for place, row in enumerate(chosen) if who in row["passes"][name]["times"]
                ]  # fmt: skip
                style = {"color": "tab:red", "s": 60} if who == "ours" else {"color": f"C{(k + 4) % 10}", "s": 25}
                if points:
                    axis.scatter(*zip(*points, strict=True), label=who, marker="os^vDPX*"[k % 8], alpha=0.8, **style)
            title = {"path": "a weight a path", "shared": "shared weights"}[weights]
            axis.set(title=f"{EXPLANATIONS[name]}\n{title}", xlabel="µs a sample", xscale="log")
            axis.set_yticks(range(len(chosen)), [row["product"] for row in chosen])
            axis.set_ylim(len(chosen) - 0.5, -0.5)
            axis.grid(axis="y", linewidth=0.4)
        line[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    return figure


def _scaling(result: Mapping[str, Any], plt: Any) -> Any:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    panels = (("water", "us_per_atom"), ("water", "memory_kib_per_atom"), ("ethanol", "us_per_atom"))
    for axis, (system, quantity) in zip(axes, panels, strict=True):
        rows = [row for row in result["rows"] if row["system"] == system]
        lines = dict.fromkeys((row["threads"], who) for row in rows for who in row[quantity])
        for threads, who in lines:
            points = [
                (row["atoms"], row[quantity][who]) for row in rows if row["threads"] == threads and who in row[quantity]
            ]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=f"{who}, {threads} threads")
        unit = "µs an atom" if quantity == "us_per_atom" else "KiB an atom"
        title = "periodic water" if system == "water" else "batches of ethanol"
        axis.set(title=title, xlabel="atoms", ylabel=unit, xscale="log")
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure
