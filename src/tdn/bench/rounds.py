"""Contenders in processes of their own, timed in turns."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tdn
from tdn.bench.peers import Peer
from tdn.errors import TDNError
from tdn.structure import Structure

# Makes `tdn.bench` importable in a stranger's interpreter without putting our site-packages on its path.
BOOTSTRAP = (
    "import importlib, sys, types; tdn = types.ModuleType('tdn'); tdn.__path__ = [sys.argv[1]]; "
    "sys.modules['tdn'] = tdn; importlib.import_module(sys.argv[2]).main()"
)
PROBE = "import importlib.util, sys; importlib.util.find_spec(sys.argv[1]) or sys.exit('none')"
RUN_SECONDS = 600.0


class WorkerError(TDNError):
    """A contender that could not be built or run; the rest goes on."""


class WorkerTimeout(WorkerError):
    """A contender that did not answer in time; its process is gone."""


class Worker:
    """Handle of a process that holds one contender.

    Args:
        python: Interpreter.
        threads: Of the numerical libraries in it; 0 leaves their default.
        module: What runs there; its `main` calls `tdn.bench.worker.serve`.
    """

    def __init__(self, python: str, threads: int, module: str = "tdn.bench.worker") -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **({name: str(threads) for name in names} if threads else {})}
        environment.pop("PYTHONPATH", None)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python, "-c", BOOTSTRAP, str(Path(tdn.__file__).parent), module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, text=True, bufsize=1,
            start_new_session=True,
        )  # fmt: skip

    def ask(self, timeout: float, **message: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            WorkerTimeout: If the contender does not answer in time.
            WorkerError: If it fails or dies.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
            ready, _, _ = select.select([stdout], [], [], timeout)
            line = stdout.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if line is None:
            self.close()
            raise WorkerTimeout(f"no answer within {timeout:.0f} s")
        if not line:
            raise WorkerError(f"its process ended: {self._last_error()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_error(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "out of memory or killed" if code == -9 else (lines[-1][:300] if lines else f"exit code {code}")

    def close(self) -> None:
        """End the process, and the compilers that it may have started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()


@dataclass(frozen=True)
class Interpreters:
    """Where packages are looked for.

    Attributes:
        named: Interpreter by top-level package, as `mace=/path/to/python` on the command line.
        others: Further interpreters to look in.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    others: Sequence[str] = ()

    @classmethod
    def parse(cls, options: Iterable[str]) -> Interpreters:
        """From `PACKAGE=PYTHON` and `PYTHON`.

        Raises:
            TDNError: If an interpreter does not exist.
        """
        pairs = [option.rpartition("=") for option in options]
        for _, _, path in pairs:
            if not os.access(path, os.X_OK):
                raise TDNError(f"--peer-python names {path!r}, which is not an interpreter that can be run.")
        named = {name: path for name, _, path in pairs if name}
        return cls(named, [path for name, _, path in pairs if not name])

    def find(self, package: str) -> str | None:
        """The first interpreter that has `package`."""
        if package == "tdn":
            return sys.executable
        top = package.partition(".")[0]
        for python in (self.named[top],) if top in self.named else (sys.executable, *self.others):
            if subprocess.run([python, "-c", PROBE, top], capture_output=True, timeout=60).returncode == 0:
                return python
        return None


@dataclass
class Entry:
    """What was found of one contender.

    Attributes:
        peer: Who it is.
        absent: Why there are no times, or None.
        mode: How it ran.
        facts: What its builder says of it.
        rounds: Milliseconds by pass, one a round.
        peak_mib: Peak memory above the idle process by pass, MiB.
    """

    peer: Peer
    absent: str | None = None
    mode: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What to time and how.

    Attributes:
        passes: Names of the passes.
        structures: What the contenders compute.
        settings: Sizes, for the builders.
        rounds: How often all contenders take a turn.
        seconds: Least time of a turn; quick contenders run several times in it and give their median.
        threads: CPU threads of every contender; 0 leaves the default.
        dtype: `float32` or `float64`.
        device: PyTorch device.
        memory: Passes whose peak memory is measured; they need not be timed.
        build_seconds: A contender that takes longer to build, its first calls and what they compile included, is left
            out.
    """

    passes: tuple[str, ...]
    structures: Sequence[Structure] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 7
    seconds: float = 0.1
    threads: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    memory: tuple[str, ...] = ()
    build_seconds: float = 900.0


def measure(
    peers: Mapping[str, Peer],
    task: Measurement,
    interpreters: Interpreters,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Entry]:
    """Build every contender, then time them round by round, in turns; one that fails is left out with the reason."""
    entries = {name: Entry(peer) for name, peer in peers.items()}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder:
        request = _request(task, Path(folder))
        try:
            for name, entry in entries.items():
                progress(f"{name}: building")
                _start(name, entry, workers, task, request, interpreters)
            for k in range(task.rounds):
                progress(f"round {k + 1} of {task.rounds}")
                _round(entries, workers, task)
            if task.memory:
                progress("peak memory")
                _each(entries, workers, lambda entry, worker: _memory(entry, worker, task))
        finally:
            for worker in workers.values():
                worker.close()
    return entries


def _request(task: Measurement, folder: Path) -> dict[str, Any]:
    path = folder / "structures.npz"
    if task.structures:
        fields = ("numbers", "positions", "cell", "pbc")
        np.savez(path, **{f"{f}_{k}": getattr(s, f) for k, s in enumerate(task.structures) for f in fields})
    return {
        "passes": list(dict.fromkeys(task.passes + task.memory)),
        "structures": str(path) if task.structures else None,
        "settings": dict(task.settings),
        "dtype": task.dtype,
        "device": task.device,
    }


def _start(
    name: str, entry: Entry, workers: dict[str, Worker], task: Measurement, request: Any, interpreters: Interpreters
) -> None:
    python = interpreters.find(entry.peer.package)
    if python is None:
        entry.absent = f"{entry.peer.package} is not installed; --peer-python names an interpreter that has it"
        return
    workers[name] = worker = Worker(python, task.threads)

    def build(entry: Entry, worker: Worker) -> None:
        message = {"builder": entry.peer.builder, "task": request, "options": dict(entry.peer.options)}
        try:
            answer = worker.ask(task.build_seconds, **message, threads=task.threads)
        except WorkerTimeout as error:
            raise WorkerTimeout(f"not built within {task.build_seconds:g} s, the limit") from error
        entry.mode, entry.facts = answer["mode"], answer["facts"]

    _each({name: entry}, {name: worker}, build)
    if entry.absent:
        workers.pop(name).close()


def _round(entries: Mapping[str, Entry], workers: dict[str, Worker], task: Measurement) -> None:
    def run(entry: Entry, worker: Worker) -> None:
        for name in task.passes:
            times = worker.ask(RUN_SECONDS, run=name, seconds=task.seconds)["ms"]
            entry.rounds.setdefault(name, []).append(float(np.median(times)))

    _each(entries, workers, run)


def _memory(entry: Entry, worker: Worker, task: Measurement) -> None:
    for name in task.memory:
        entry.peak_mib[name] = round(worker.ask(RUN_SECONDS, memory=name)["peak_mib"], 1)


def _each(
    entries: Mapping[str, Entry], workers: Mapping[str, Worker], function: Callable[[Entry, Worker], None]
) -> None:
    """Apply `function` to every contender that is still in; what fails drops out."""
    for name, entry in entries.items():
        if entry.absent is not None or name not in workers:
            continue
        try:
            function(entry, workers[name])
        except WorkerError as error:
            entry.absent = str(error)
            entry.rounds.clear()
