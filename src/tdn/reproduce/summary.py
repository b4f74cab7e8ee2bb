"""Results of the accuracy suite side by side: tables with the published numbers, means over seeds, JSON, Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from tdn.bench.results import short
from tdn.files import atomic_write, write_json
from tdn.reproduce.accuracy import RESULT
from tdn.reproduce.figure import clock, draw
from tdn.reproduce.suites import SUITES, Entry

UNITS = {"energy": "meV", "energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
# What runs must share, besides contender, time and machine, to differ in their seeds only.
OTHERS = ("threads", "dtype", "device")
# ms: energy and forces of one structure.
COLUMNS = ("model", "weights", "time", "machine", "seeds", "energy", "forces", "stress", "ms")


class Table(NamedTuple):
    """Errors on one test.

    Attributes:
        entry: Name.
        block: Name of the test.
        is_first: Whether it is the first test of the entry.
        unit: Of the energies.
        title: With frames, measures and units.
        columns: Of `COLUMNS`, those that are not empty; the machine where there are several.
        rows: Published ones, then ours and those of peers.
    """

    entry: str
    block: str
    is_first: bool
    unit: str
    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only.

    Attributes:
        contender: Who.
        seconds: Time of the training.
        machine: Processor, and accelerator if there is one: what the same time is worth depends on it.
        results: Contents of their `result.json`.
    """

    contender: str
    seconds: float
    machine: str
    results: tuple[Mapping[str, Any], ...]

    def mean(self, name: str) -> float:
        """Mean of a number of the results."""
        return fmean(result[name] for result in self.results)

    def errors(self, block: str, quantity: str, measure: str) -> list[float]:
        """An error of every run that has it."""
        tables = [result["blocks"].get(block, {}).get("errors", {}) for result in self.results]
        return [table[quantity][measure] for table in tables if table.get(quantity)]


def gather(folder: Path) -> dict[str, list[Group]]:
    """Results below the folder of a suite, by entry."""
    paths = sorted(folder.glob(f"*/*/*/{RESULT}"))
    return group([json.loads(path.read_text(encoding="utf-8")) for path in paths])


def group(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Group]]:
    """Groups of every entry, shortest training first."""
    found: dict[str, dict[tuple[Any, ...], list[Mapping[str, Any]]]] = {}
    for result in results:
        key = result["contender"], result["budget_s"], short_machine(result["machine"]), *map(result.get, OTHERS)
        found.setdefault(result["entry"], {}).setdefault(key, []).append(result)
    return {
        entry: sorted(
            (Group(who, seconds, machine, tuple(own)) for (who, seconds, machine, *_), own in groups.items()),
            key=lambda group: (group.seconds, group.machine),
        )
        for entry, groups in found.items()
    }


def short_machine(description: str) -> str:
    """Processor and accelerator of what `tdn.report.model.describe_machine` says."""
    system, _, *parts = description.split(", ")
    kept = [part for part in parts if not part.endswith("PyTorch threads")]
    return ", ".join(re.sub(r"\((R|TM)\)| Processor| CPU", "", part) for part in kept) or system


def tables(suite: str, groups: Mapping[str, Sequence[Group]]) -> list[Table]:
    """One for every test of every entry that has results."""
    known = SUITES[suite].entries
    return [
        _table(known[entry], block, own)
        for entry, own in groups.items()
        for block in known[entry].blocks
        if any(block in result["blocks"] for group in own for result in group.results)
    ]


def _table(entry: Entry, name: str, groups: Sequence[Group]) -> Table:
    block = entry.blocks[name]
    frames = next(r["frames"][name] for group in groups for r in group.results if name in r["frames"])
    kind = "like those of the training" if block.like_training else "unlike those of the training"
    title = f"{entry.name}, {name}: {frames} frames, {kind}; MAE / RMSE, {UNITS[entry.energy]} and meV/Å"
    rows = []
    for row in block.published:
        errors = [_published(value, entry.measure) for value in (row.energy, row.forces)]
        rows.append([f"{row.model} ({row.note or 'paper'})", "", "", "", "", *errors, "", ""])
    several = len({group.machine for group in groups}) > 1
    for group in groups:
        machine = group.machine if several else ""
        numbers = [f"{group.mean('parameters') / 1000:.0f}k", clock(group.seconds), machine, str(len(group.results))]
        errors = [_cell(group, name, quantity) for quantity in (entry.energy, "forces", "stress")]
        rows.append([group.contender, *numbers, *errors, short(group.mean("inference_ms"), 2)])
    kept = [k for k in range(len(COLUMNS)) if any(row[k] for row in rows)]
    first, unit = name == next(iter(entry.blocks)), UNITS[entry.energy]
    return Table(
        entry.name, name, first, unit, title, [COLUMNS[k] for k in kept], [[row[k] for k in kept] for row in rows]
    )


def _published(value: float | None, measure: str) -> str:
    text = "-" if value is None else f"{value:g}"
    return f"{text} / -" if measure == "mae" else f"- / {text}"


def _cell(group: Group, block: str, quantity: str) -> str:
    """`1.14 / 1.80`, with the standard deviation over seeds if there are several."""
    parts = []
    for measure in ("mae", "rmse"):
        values = group.errors(block, quantity, measure)
        if not values:
            return ""
        parts.append(short(fmean(values)) + (f"±{short(stdev(values), 2)}" if len(values) > 1 else ""))
    return " / ".join(parts)


def describe(suite: str, groups: Mapping[str, Sequence[Group]]) -> dict[str, Any]:
    """All results and published numbers as JSON types."""
    entries = SUITES[suite].entries
    published = {
        entry: {name: [asdict(row) for row in block.published] for name, block in entries[entry].blocks.items()}
        for entry in groups
    }
    return {
        "suite": suite,
        "title": SUITES[suite].title,
        "notes": list(SUITES[suite].notes),
        "published": published,
        "results": [result for own in groups.values() for group in own for result in group.results],
    }


def markdown(suite: str, groups: Mapping[str, Sequence[Group]]) -> str:
    """The tables as Markdown."""
    lines = [f"# {SUITES[suite].title}", ""]
    for table in tables(suite, groups):
        lines += [table.title, "", f"| {' | '.join(table.columns)} |", "|" + "---|" * len(table.columns)]
        lines += [f"| {' | '.join(row)} |" for row in table.rows] + [""]
    return "\n".join([*lines, *(f"- {note}" for note in SUITES[suite].notes)]) + "\n"


def write_summary(suite: str, folder: Path, groups: Mapping[str, Sequence[Group]]) -> Path:
    """Write `results.json`, `results.md` and `errors.png` into the folder of a suite; the picture's path."""
    write_json(folder / "results.json", describe(suite, groups))
    with atomic_write(folder / "results.md") as temporary:
        temporary.write_text(markdown(suite, groups), encoding="utf-8")
    draw(suite, groups, folder / "errors.png")
    return folder / "errors.png"
