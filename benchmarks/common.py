"""What every benchmark writes beside its numbers, and how it takes times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tdn.bench.results import write_result
from tdn.training.run import TrainingResult

__all__ = ["interleaved_times", "mean_over_seeds", "summarise", "train_on_organics", "write_result"]


def interleaved_times(
    functions: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, np.ndarray]:
    """Milliseconds of each function in each round, the functions taking turns so that a slow spell hits all of them."""
    for function in functions.values():
        function()
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            function()
            times[name].append(1e3 * (clock() - start))
    return {name: np.array(values) for name, values in times.items()}


def summarise(times: Mapping[str, np.ndarray], ours: str) -> dict[str, dict[str, float]]:
    """Median, quartiles, and how many times longer each takes than ours, as the median over rounds."""
    return {
        name: {
            "median_ms": round(float(np.median(values)), 4),
            "quartiles_ms": [round(float(q), 4) for q in np.quantile(values, [0.25, 0.75])],
            "ratio_to_ours": round(float(np.median(values / times[ours])), 3),
        }
        for name, values in times.items()
    }


def train_on_organics(folder: Path, max_time: str) -> TrainingResult:
    """A model trained with the default settings on one thread on the molecules that ship with the package."""
    from tdn import load_config, train
    from tdn.datasets import organics_path
    from tdn.training.logs import ConsoleReporter

    files = f"[{organics_path('train')}, {organics_path('isolated_atoms')}]"
    settings = [f"train={files}", f"valid={organics_path('valid')}", f"output={folder}/run", "threads=1"]
    return train(load_config(None, [*settings, f"max_time={max_time}"]), ConsoleReporter())


def mean_over_seeds(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over the seeds, by variant."""
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run["variant"] for run in runs.values()):
        own = [run for run in runs.values() if run["variant"] == name]
        numbers = [key for key, value in own[0].items() if isinstance(value, float)]
        table[name] = {"seeds": len(own)}
        for key in numbers:
            values = [run[key] for run in own]
            table[name][key] = [statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None]
    return table
