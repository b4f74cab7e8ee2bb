"""`tdn bench run`: what a user's model costs on a user's structure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tdn.bench.peers import Peer
from tdn.bench.results import NS_PER_DAY_MS, summarise
from tdn.bench.rounds import Interpreters, Measurement, measure
from tdn.bench.suites import free_gib
from tdn.errors import TDNError
from tdn.modelfile import load_model
from tdn.neighbors import neighbor_list
from tdn.structure import Structure

# Memory an atom is measured on copies of the structure with this many atoms, where fixed costs no longer count.
LARGE_ATOMS = 3000


def run_model(
    model: Path,
    structure: Structure,
    task: Measurement,
    compiled: bool,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Time, simulation speed, peak memory and an estimate of the largest system, as JSON types.

    Args:
        model: Model file.
        structure: What to compute.
        task: Rounds, threads, precision (`auto` keeps the model's own) and device.
        compiled: Whether to run compiled code.
        progress: Called with what is being done.

    Raises:
        TDNError: If the model cannot be loaded or cannot compute the structure.
    """
    potential = load_model(model)
    potential.check_elements(structure.numbers)
    neighbor_list(structure, potential.r_max)  # refuses atoms on top of each other
    peer = Peer("tdn", "tdn.bench.models.ours:saved", "", {"path": os.path.abspath(model), "compiled": compiled})
    passes, settings = ("energy_forces", "step", "list", "reuse"), {"large_atoms": LARGE_ATOMS}
    sized = Measurement(
        passes, [structure], settings, task.rounds, task.seconds, task.threads, task.dtype, task.device,
        memory=("energy_forces", "large"),
    )  # fmt: skip
    entry = measure({"ours": peer}, sized, Interpreters(), progress)["ours"]
    if entry.absent is not None:
        raise TDNError(entry.absent)
    times = {name: found["times"]["ours"] for name, found in summarise({"ours": entry})["passes"].items()}
    # The median step reuses its list: the rebuilds are added.
    rebuilds = times["list"]["median_ms"] / entry.facts["steps_per_list"]
    lists = times["reuse"]["median_ms"] + rebuilds
    step, force = times["step"]["median_ms"] + rebuilds, times["energy_forces"]["median_ms"]
    more_atoms = entry.facts["large_atoms"] - entry.facts["atoms"]
    mib_per_atom = max(entry.peak_mib["large"] - entry.peak_mib["energy_forces"], 0.0) / more_atoms
    free = free_gib() if task.device == "cpu" else None
    return {
        "structure": structure.formula, **entry.facts, "mode": entry.mode, "times": times,
        "ms_per_step": round(step, 4), "ns_per_day_1fs": round(NS_PER_DAY_MS / step, 4),
        "us_per_atom": round(1e3 * step / len(structure), 3),
        "neighbor_list_ms": round(lists, 4), "neighbor_list_percent": round(100 * lists / step, 1),
        "other_than_model_percent": round(100 * max(0.0, 1 - force / step), 1),
        "peak_mib": entry.peak_mib["energy_forces"], "kib_per_atom": round(1024 * mib_per_atom, 2),
        "free_gib": None if free is None else round(free, 2),
        "largest_system_atoms": int(1024 * free / mib_per_atom) if free and mib_per_atom else None,
        "atoms_in_24_gib": int(24 * 1024 / mib_per_atom) if mib_per_atom else None,
    }  # fmt: skip
