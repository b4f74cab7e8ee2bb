"""The suites: what is timed for `tdn bench conv`, `product`, `model`, `train-step` and `scaling`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tdn.bench import systems
from tdn.bench.peers import Peer
from tdn.bench.results import exponent, simulation_facts, summarise
from tdn.bench.rounds import Interpreters, Measurement, measure
from tdn.errors import ConfigError
from tdn.structure import Structure

Progress = Callable[[str], None]
CONVOLUTION_PASSES = ("forward", "backward", "training")
EXPLANATIONS = {
    "forward": "forward",
    "backward": "forward and backward",
    "training": "forward, backward and double backward",
    "energy_forces": "energy and forces",
    "training_step": "training step",
}
# From this degree on costs are dominated by what grows with it.
SMALLEST_FITTED_DEGREE = 2


def convolutions(
    grid: Sequence[tuple[int, int, int]],
    nodes: int,
    peers: Mapping[str, Peer],
    task: Measurement,
    interpreters: Interpreters,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """One convolution at every (degree, channels, neighbours) of `grid`, and how its cost grows with the degree."""
    rows = []
    for lmax, channels, neighbors in grid:
        settings = {"lmax": lmax, "channels": channels, "neighbors": neighbors, "nodes": nodes}
        sized = dataclasses.replace(task, passes=CONVOLUTION_PASSES, settings=settings)
        label = f"L={lmax}, {channels} channels, {neighbors} neighbours"
        entries = measure(peers, sized, interpreters, lambda message, label=label: progress(f"{label}: {message}"))
        row = {**settings, "edges": nodes * neighbors, **summarise(entries)}
        rows.append({**row, "bandwidth": bandwidth(row)})
    return {"suite": "conv", "rows": rows, "exponents": exponents(rows, ("channels", "neighbors"))}


def products(
    names: Sequence[str],
    edges: int,
    peers: Mapping[str, Mapping[str, Peer]],
    task: Measurement,
    interpreters: Interpreters,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Tensor products of named configurations with `edges` samples, in each setting of the weights that `peers` has.

    Raises:
        ConfigError: If there is no such configuration.
    """
    from tdn.bench.products import CONFIGURATIONS, make_product

    if unknown := [name for name in names if name not in CONFIGURATIONS]:
        raise ConfigError(f"--config must be of {', '.join(CONFIGURATIONS)}, got {', '.join(unknown)}.")
    rows = []
    for name, weights in itertools.product(names, peers):
        case, built = CONFIGURATIONS[name], make_product(name, weights)
        if weights == "shared" and case.mode != "uvu":
            continue
        sized = dataclasses.replace(
            task, passes=CONVOLUTION_PASSES, settings={"product": name, "weights": weights, "edges": edges}
        )
        label = f"{name}, weights: {weights}"
        entries = measure(
            peers[weights], sized, interpreters, lambda message, label=label: progress(f"{label}: {message}")
        )
        facts = {"in1": case.in1, "in2": case.in2, "out": str(built.out), "mode": case.mode, "paths": len(built.paths)}
        rows.append({**sized.settings, **facts, "lmax": case.lmax, **summarise(entries)})
    growing = [row for row in rows if row["lmax"] is not None]
    return {"suite": "product", "rows": rows, "exponents": exponents(growing, ("weights",))}


def bandwidth(row: Mapping[str, Any]) -> dict[str, float]:
    """What our whole forward pass moves in a second of the bytes that its sum over neighbours must move."""
    facts, times = row["contenders"].get("ours"), row["passes"].get("forward", {}).get("times", {})
    if facts is None or "ours" not in times:
        return {}
    achieved = 1e-6 * facts["bytes_of_sum"] / times["ours"]["median_ms"]
    return {
        "gb_per_s": round(achieved, 3), "copy_gb_per_s": facts["copy_gb_per_s"],
        "of_copy": round(achieved / facts["copy_gb_per_s"], 4),
    }  # fmt: skip


def exponents(rows: Sequence[Mapping[str, Any]], sizes: Sequence[str]) -> list[dict[str, Any]]:
    """`a` in (time an edge) ~ L^a from L=2 on, for every contender and pass that has two degrees or more.

    Args:
        rows: Rows of a suite, with `lmax` and `edges`.
        sizes: Keys of what is held fixed, the columns of the result beside `pass` and `exponents`.
    """
    found = []
    fixed = dict.fromkeys(tuple(row[key] for key in sizes) for row in rows)
    for values, name in itertools.product(fixed, CONVOLUTION_PASSES):
        series: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if tuple(row[key] for key in sizes) != values or row["lmax"] < SMALLEST_FITTED_DEGREE:
                continue
            for who, times in row["passes"].get(name, {"times": {}})["times"].items():
                series.setdefault(who, []).append((row["lmax"], times["median_ms"] / row["edges"]))
        fits = {who: exponent(*zip(*points, strict=True)) for who, points in series.items()}
        if any(fit is not None for fit in fits.values()):
            found.append({**dict(zip(sizes, values, strict=True)), "pass": name, "exponents": fits})
    return found


def models(
    names: Sequence[str],
    peers: Mapping[str, Peer],
    task: Measurement,
    interpreters: Interpreters,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Energy and forces of every named system."""
    rows = []
    for name, structure in {name: systems.make_system(name) for name in names}.items():
        sized = dataclasses.replace(
            task, passes=("energy_forces",), structures=[structure], memory=("energy_forces",)
        )  # fmt: skip
        entries = measure(peers, sized, interpreters, lambda message, name=name: progress(f"{name}: {message}"))
        row = {"system": name, "atoms": len(structure), **summarise(entries)}
        for who, times in row["passes"].get("energy_forces", {"times": {}})["times"].items():
            peak = row["contenders"][who]["peak_mib"].get("energy_forces")
            row["contenders"][who] |= simulation_facts(times["median_ms"], len(structure), peak)
        rows.append(row)
    return {"suite": "model", "rows": rows}


def training_steps(
    names: Sequence[str],
    batch_size: int,
    peers: Mapping[str, Peer],
    task: Measurement,
    interpreters: Interpreters,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Loss, its gradient and the optimiser's step for every named system: `ethanol`, a batch of so many, or one box."""
    rows = []
    for title, frames in dict(_batch(name, batch_size) for name in names).items():
        sized = dataclasses.replace(task, passes=("training_step",), structures=frames, memory=("training_step",))
        entries = measure(peers, sized, interpreters, lambda message, title=title: progress(f"{title}: {message}"))
        rows.append({"system": title, "atoms": sum(map(len, frames)), **summarise(entries)})
    return {"suite": "train-step", "rows": rows}


def _batch(name: str, batch_size: int) -> tuple[str, list[Structure]]:
    if name == "ethanol":
        return f"ethanol, batch {batch_size}", systems.ethanol(batch_size)
    return name, [systems.make_system(name)]


def scaling(
    sizes: Sequence[int],
    batches: Sequence[int],
    peers: Mapping[str, Peer],
    task: Measurement,
    threads: Sequence[int],
    interpreters: Interpreters,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Time and memory an atom for boxes of water of growing size, and a molecule for growing batches of ethanol.

    Sizes that would not fit into the free memory, judged by the one before, are left out with the reason.
    """
    rows, left_out = [], []
    for count in threads:
        need_per_atom = 0.0
        for size in sorted(sizes):
            structure = systems.water_of_size(size)
            needed, free = need_per_atom * len(structure) / 1024, free_gib()
            if free is not None and needed > 0.8 * free:
                reason = f"needs {needed:.1f} GiB, of {free:.1f} that are free"
                left_out.append({"threads": count, "atoms": len(structure), "reason": reason})
                continue
            row = _scaled([structure], "water", count, peers, task, interpreters, progress)
            need_per_atom = max((row["memory_kib_per_atom"].values()), default=0.0) / 1024
            rows.append(row)
        for batch in batches:
            rows.append(_scaled(systems.ethanol(batch), "ethanol", count, peers, task, interpreters, progress))
    return {"suite": "scaling", "rows": rows, "left_out": left_out, "saturated": saturation(rows)}


def _scaled(
    structures: Sequence[Structure],
    name: str,
    threads: int,
    peers: Mapping[str, Peer],
    task: Measurement,
    interpreters: Interpreters,
    progress: Progress,
) -> dict[str, Any]:
    atoms = sum(map(len, structures))
    label = f"{name}, {atoms} atoms, {threads} threads"
    sized = dataclasses.replace(
        task, passes=("energy_forces",), structures=structures, threads=threads, memory=("energy_forces",)
    )  # fmt: skip
    summary = summarise(measure(peers, sized, interpreters, lambda message: progress(f"{label}: {message}")))
    times = summary["passes"].get("energy_forces", {"times": {}})["times"]
    return {
        "system": name, "atoms": atoms, "structures": len(structures), "threads": threads,
        "us_per_atom": {who: round(1e3 * t["median_ms"] / atoms, 3) for who, t in times.items()},
        "memory_kib_per_atom": {
            who: round(1024 * summary["contenders"][who]["peak_mib"]["energy_forces"] / atoms, 2) for who in times
        },
        **summary,
    }  # fmt: skip


def saturation(rows: Sequence[Mapping[str, Any]], atoms: int = 3000) -> list[dict[str, Any]]:
    """How far our time and memory an atom spread over the boxes of at least `atoms` atoms: largest over smallest."""
    found = []
    for threads in dict.fromkeys(row["threads"] for row in rows):
        chosen = [
            row for row in rows
            if row["system"] == "water" and row["threads"] == threads and row["atoms"] >= atoms
            and "ours" in row["us_per_atom"]
        ]  # fmt: skip
        if len(chosen) > 1:
            spreads = {}
            for key in ("us_per_atom", "memory_kib_per_atom"):
                values = [row[key]["ours"] for row in chosen]
                spreads[key] = round(max(values) / max(min(values), 1e-9), 3)
            largest = chosen[-1]
            fits = int(24 * 2**20 / max(largest["memory_kib_per_atom"]["ours"], 1e-9))
            found.append({"threads": threads, "from_atoms": chosen[0]["atoms"], **spreads, "atoms_in_24_gib": fits})
    return found


def free_gib() -> float | None:
    """Memory that is free for new processes, where Linux tells it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) / 2**20
    except OSError:
        return None
