"""One contender in a process of its own: builds it, runs it when asked, and answers in JSON, a line a request.

    {"builder": "tdn.bench.models.mace:build", "task": {...}, "options": {...}, "threads": 1}
    {"run": "energy_forces", "seconds": 0.1}            -> {"ms": [...]}
    {"memory": "energy_forces"}                          -> {"peak_mib": ...}

The interpreter may be any that has PyTorch and the contender's package; tdn itself need not be installed there, so this
module and the builders of peers import nothing but PyTorch, NumPy and the peer.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Contender(NamedTuple):
    """What a builder returns.

    Attributes:
        passes: What can be timed, by name; each call does it once and returns the arrays that it made.
        mode: How it runs: eager, compiled, which kernels.
        facts: Whatever else should stand in the result: parameters, edges, rank.
    """

    passes: Mapping[str, Callable[[], Any]]
    mode: str
    facts: Mapping[str, Any]


class Task(NamedTuple):
    """What every contender is given.

    Attributes:
        passes: Names of what will be timed.
        structures: `(numbers, positions, cell, pbc)` of each structure, as NumPy arrays in Å.
        settings: Sizes: channels, degree, cutoff and the like.
        dtype: `float32` or `float64`.
        device: PyTorch device.
    """

    passes: tuple[str, ...]
    structures: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    settings: dict[str, Any]
    dtype: str
    device: str


def read_task(message: Mapping[str, Any]) -> Task:
    """The task of a request; structures are read from the `.npz` file that it names."""
    structures = []
    if message["structures"]:
        with np.load(message["structures"], allow_pickle=False) as arrays:
            keys = ("numbers", "positions", "cell", "pbc")
            count = len(arrays.files) // len(keys)
            structures = [tuple(arrays[f"{key}_{k}"] for key in keys) for k in range(count)]
    return Task(tuple(message["passes"]), structures, message["settings"], message["dtype"], message["device"])


def build(message: Mapping[str, Any]) -> Contender:
    """Import the builder and call it, on the asked number of threads, from a fixed seed."""
    import torch

    if message["threads"]:
        torch.set_num_threads(message["threads"])
    torch.manual_seed(0)
    module, _, function = message["builder"].partition(":")
    return getattr(importlib.import_module(module), function)(read_task(message["task"]), **message["options"])


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def time_pass(function: Callable[[], Any], device: str, seconds: float) -> list[float]:
    """Milliseconds of each call, as many calls as fit into `seconds`, at least one."""
    times: list[float] = []
    while not times or sum(times) < 1e3 * seconds:
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def is_finite(result: Any) -> bool:
    """Whether no array in a pass's result holds NaN or infinity."""
    import torch

    if isinstance(result, torch.Tensor):
        return bool(torch.isfinite(result.detach()).all())
    return all(is_finite(part) for part in result or ())


def resident_mib() -> float:
    """Memory of this process that is in use now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return peak_mib()


def peak_mib() -> float:
    """Most memory that this process has had in use since `forget_peak`, or since its start."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak() -> None:
    """Start measuring the peak anew, without what was freed and is still held, where Linux and its allocator let us."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


class Session:
    """The state between requests of one worker."""

    def __init__(self) -> None:
        self.contender = Contender({}, "", {})
        self.device = "cpu"

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request asks."""
        if "builder" in message:
            return self._build(message)
        if "memory" in message:
            return {"peak_mib": self._peak(self.contender.passes[message["memory"]])}
        return {"ms": time_pass(self.contender.passes[message["run"]], self.device, message["seconds"])}

    def _build(self, message: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        self.device = message["task"]["device"]
        self.contender = build(message)
        first = {}
        for name, function in self.contender.passes.items():
            start = time.perf_counter()
            result = function()
            synchronise(self.device)
            first[name] = round(time.perf_counter() - start, 3)
            if not is_finite(result):
                raise ValueError(f"{name} gave NaN or infinity")
            del result
            function()
        facts = {"first_call_s": first, "torch": torch.__version__, **self.contender.facts}
        return {"mode": self.contender.mode, "facts": facts}

    def _peak(self, function: Callable[[], Any]) -> float:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()
            function()
            synchronise(self.device)
            return torch.cuda.max_memory_allocated() / 2**20
        forget_peak()
        idle = resident_mib()
        function()
        return max(0.0, peak_mib() - idle)


def describe(error: Exception) -> str:
    """An error in one line, with the place that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({os.path.basename(frame.filename)}, line {frame.lineno})"


def serve(answer: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Answer requests until the input ends; whatever packages print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:  # whatever a package raises is the answer
            found = {"error": describe(error)}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


def main() -> None:
    """Time contenders."""
    serve(Session().answer)
