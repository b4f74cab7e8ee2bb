"""From times to what is reported: medians with quartiles, ratios within a round, fitted exponents, JSON."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tdn.bench.rounds import Entry
from tdn.files import write_json
from tdn.version import __version__

HEADINGS = {
    "forward": "forward",
    "backward": "+ backward",
    "training": "+ double b.",
    "energy_forces": "energy, forces",
    "training_step": "training step",
}
# A step of 1 fs that takes 1 ms simulates this many ns in a day.
NS_PER_DAY_MS = 86.4
GIB = 1024.0
# Below, memory is that of the code and the weights, and says nothing of larger systems.
FEWEST_ATOMS = 192


def setting(command: str, threads: int | None = None) -> dict[str, Any]:
    """Date, machine, versions and the command that measures it again."""
    import torch

    from tdn.report.model import describe_machine

    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "threads": threads or torch.get_num_threads(),
        "versions": {"tdn": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def write_result(path: Path, command: str, content: Mapping[str, Any], threads: int | None = None) -> None:
    """Write `content` with its `setting`."""
    write_json(path, {**setting(command, threads), **content})


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, median, high = (round(float(q), 4) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return {"median_ms": median, "quartiles_ms": [low, high]}


def summarise(entries: Mapping[str, Entry], ours: str = "ours") -> dict[str, Any]:
    """Times of all contenders, and how many times as long as ours they take: the median of the rounds' ratios."""
    timed = {name: entry for name, entry in entries.items() if entry.absent is None}
    passes: dict[str, Any] = {}
    for name in dict.fromkeys(name for entry in timed.values() for name in entry.rounds):
        rounds = {who: entry.rounds[name] for who, entry in timed.items() if name in entry.rounds}
        found: dict[str, Any] = {"times": {who: spread(values) for who, values in rounds.items()}}
        if ours in rounds:
            ratios = {who: np.divide(v, rounds[ours]) for who, v in rounds.items() if who != ours}
            found["ours_ms"] = found["times"][ours]["median_ms"]
            found["ratios"] = {who: round(float(np.median(r)), 3) for who, r in ratios.items()}
            found["ratio_quartiles"] = {
                who: [round(float(q), 3) for q in np.quantile(r, [0.25, 0.75])] for who, r in ratios.items()
            }
        passes[name] = found
    contenders = {
        name: {"work": e.peer.work, "mode": e.mode, "peak_mib": e.peak_mib, **e.facts} for name, e in timed.items()
    }
    absent = {name: entry.absent for name, entry in entries.items() if entry.absent is not None}
    return {"passes": passes, "contenders": contenders, "absent": absent}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Slope of `values` against `sizes`, both on logarithmic axes; None with fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)


def simulation_facts(ms: float, num_atoms: int, peak_mib: float | None) -> dict[str, float]:
    """What a step's time and memory mean for a simulation."""
    facts = {"ns_per_day_1fs": round(NS_PER_DAY_MS / ms, 4), "us_per_atom": round(1e3 * ms / num_atoms, 3)}
    if peak_mib and num_atoms >= FEWEST_ATOMS:
        facts["kib_per_atom"] = round(1024 * peak_mib / num_atoms, 2)
        facts["atoms_in_24_gib"] = int(24 * GIB / peak_mib * num_atoms)
    return facts


def table_columns(passes: Sequence[str]) -> tuple[str, ...]:
    """Headings of `table_rows`."""
    pairs = [(HEADINGS[name], "ours ×") for name in passes]
    facts = ("ns/day", "MiB") if "energy_forces" in passes else ()
    return ("contender", *(heading for pair in pairs for heading in pair), *facts)


def table_rows(summary: Mapping[str, Any], passes: Sequence[str]) -> list[tuple[str, ...]]:
    """A row for each contender, fastest in the last pass first.

    Of each pass the median and half the distance of its quartiles, ms, and how many times as long as ours it takes.
    """
    found = [summary["passes"][name] for name in passes]
    if not found:
        return []
    rows = []
    for who, _ in sorted(found[-1]["times"].items(), key=lambda item: item[1]["median_ms"]):
        cells = []
        for each in found:
            times, ratio = each["times"][who], each.get("ratios", {}).get(who)
            low, high = times["quartiles_ms"]
            cells += [f"{short(times['median_ms'])} ± {short((high - low) / 2, 1)}", f"{ratio:.2f}" if ratio else ""]
        facts = summary["contenders"][who]
        if "energy_forces" in passes:
            speed = NS_PER_DAY_MS / found[-1]["times"][who]["median_ms"]
            cells += [short(speed), short(facts["peak_mib"].get("energy_forces", 0.0))]
        rows.append((who, *cells))
    return rows


def short(value: float, digits: int = 3) -> str:
    """`digits` significant digits, never an exponent."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if rounded >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def row_title(row: Mapping[str, Any]) -> str:
    """What was timed in a row of a suite."""
    if "product" in row:
        weights = {"path": "a weight a path", "shared": "shared weights"}[row["weights"]]
        return f"{row['product']}, {weights}, {row['edges']} edges"
    if "lmax" in row:
        rank = row["contenders"].get("ours", {}).get("rank")
        return f"L={row['lmax']}, R={rank}, {row['channels']} channels, {row['neighbors']} neighbours"
    threads = f", {row['threads']} threads" if "threads" in row else ""
    return f"{row['system']}, {row['atoms']} atoms{threads}"


def explanations(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What every contender computes and how it runs, and why those without times have none; each said once.

    Of a contender that is absent from some of the rows these are named.
    """
    said: dict[tuple[str, str], None] = {}
    for row in rows:
        said |= dict.fromkeys((who, f"{facts['work']}; {facts['mode']}") for who, facts in row["contenders"].items())
        for who, reason in row["absent"].items():
            everywhere = all(who in other["absent"] for other in rows)
            said[who, f"absent{'' if everywhere else f' at {row_title(row)}'}: {reason}"] = None
    return list(said)
