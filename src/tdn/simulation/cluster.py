"""`Cluster`: pieces of work spread over the workers of a Dask cluster, each of them done, whatever becomes of a worker.

Workers hold no state: a piece goes out with its structures and comes back with its results, so that Dask gives the
pieces of a lost worker to another. Results are noted by the process that asks, once a piece, in the journal that also
survives that process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from tdn.data.formats import fingerprint
from tdn.devices import choose_device
from tdn.errors import ConfigError, TDNError
from tdn.modelfile import load_model
from tdn.models.potential import Potential
from tdn.version import __version__

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# Structures that go to a worker together: enough for full batches, few enough to be done again if the worker is lost.
MOST = 256
# Pieces that each worker gets of a small job at least, so that all finish at about the same time.
ROUNDS = 8
# Pieces at a worker or on their way to it: it finds the next one there when it has done one.
AHEAD = 2
# How long a scheduler may take to write its file, s.
PATIENCE = 60.0

# Workers on this machine. Without a limit, as Dask would stop handing out work while PyTorch holds memory for later;
# Ctrl-C is for the process that started them.
LOCAL: dict[str, Any] = {
    "threads_per_worker": 1,
    "memory_limit": 0,
    "dashboard_address": "127.0.0.1:0",
    "silence_logs": logging.CRITICAL,
    "preload": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
}

# A worker may have several threads, but a potential and a device serve one of them at a time.
_BUSY = threading.Lock()


@dataclass(frozen=True)
class WorkerModel:
    """A model as workers load it, once a process.

    Attributes:
        path: The file, which all workers must see under this name.
        fingerprint: Its SHA-256.
        device: As in `choose_device`, on the worker; workers of a local cluster take the GPUs in turn.
        dtype: Precision, or None for the model's own.
        compile: Whether to run compiled code.
        threads: CPU threads of PyTorch; 0 leaves the default.
        version: That of tdn, which must be the same everywhere.
    """

    path: Path
    fingerprint: str
    device: str = "auto"
    dtype: torch.dtype | None = None
    compile: bool = False
    threads: int = 0
    version: str = __version__


@functools.lru_cache(maxsize=1)
def load_on_worker(model: WorkerModel) -> Potential:
    """The model, on the device of this worker.

    Raises:
        ConfigError: If the worker has another version of tdn, or does not see the file that the job was started with.
    """
    from distributed import get_worker

    worker = get_worker()
    if model.version != __version__:
        raise ConfigError(
            f"The worker at {worker.address} has tdn {__version__}, this is tdn {model.version}: install one version."
        )
    if not model.path.is_file() or fingerprint([model.path]) != model.fingerprint:
        raise ConfigError(
            f"The worker at {worker.address} does not see this model at {model.path}: put it into a folder that all "
            "machines share."
        )
    if model.threads:
        torch.set_num_threads(model.threads)
    # Workers of a local cluster are named 0, 1, ...; others have the GPUs that whoever started them gave them.
    rank = worker.name % max(1, torch.cuda.device_count()) if isinstance(worker.name, int) else None
    potential = load_model(model.path, choose_device(model.device, rank), model.dtype)
    if model.compile:
        potential.compile()
    return potential


def _work(model: WorkerModel, function: Callable[[Potential, Piece], Result], piece: Piece) -> Result:
    with _BUSY:
        return function(load_on_worker(model), piece)


def _wait_for(file: str) -> str:
    """A file that a scheduler started at the same time will write."""
    end = time.monotonic() + PATIENCE
    while not Path(file).is_file():
        if time.monotonic() > end:
            raise ConfigError(
                f"There is no {file} after {PATIENCE:g} s: start Dask's scheduler with --scheduler-file {file}."
            )
        time.sleep(0.1)
    return file


@dataclass(frozen=True)
class Cluster:
    """Workers that share a model.

    Attributes:
        client: Of Dask, connected.
        model: What the workers compute with.
    """

    client: Any
    model: WorkerModel

    @classmethod
    @contextlib.contextmanager
    def open(cls, where: str, model: WorkerModel) -> Iterator[Self]:
        """The cluster at `where`, left when the context ends; one that was started here is stopped then.

        Args:
            where: Address of a scheduler, its scheduler file, or a number of workers to start on this machine.
            model: What the workers compute with.

        Raises:
            ConfigError: If Dask is not installed, or no scheduler answers.
        """
        try:
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise ConfigError("--dask needs Dask: pip install 'tdn[dask]'.") from error
        if not where or (where.isdecimal() and int(where) < 1):
            raise ConfigError(f"--dask takes an address, a scheduler file or a number of workers, got {where!r}.")
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # of this process; what matters is raised
        with contextlib.ExitStack() as stack:
            if where.isdecimal():
                local = LocalCluster(n_workers=int(where), **LOCAL)
                named: dict[str, Any] = {"address": stack.enter_context(local)}
            else:
                named = {"scheduler_file": _wait_for(where)} if where.endswith(".json") else {"address": where}
            try:
                client = stack.enter_context(Client(**named))
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"No Dask scheduler answers at {where}: start one with `dask scheduler`, or give a number to start "
                    "that many workers on this machine."
                ) from error
            yield cls(client, model)

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self.client.nthreads())

    def pieces(self, items: Iterable[Piece], total: int) -> Iterator[list[Piece]]:
        """`items`, of which there are `total`, in lists for one worker each."""
        size = max(1, min(MOST, total // (ROUNDS * max(1, self.workers))))
        rest = iter(items)
        return iter(lambda: list(itertools.islice(rest, size)), [])

    def map(self, function: Callable[[Potential, Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
        """`function(potential, piece)` of every piece once, in the order in which they are done.

        Pieces are read as workers get to them. Without any worker it waits for one.

        Raises:
            TDNError: If the scheduler is lost, or one piece has taken several workers down with it.
        """
        from distributed import CancelledError, KilledWorker, as_completed
        from distributed.comm import CommClosedError

        waiting, running = iter(pieces), as_completed()

        def send() -> None:
            room = AHEAD * max(1, self.workers) - running.count()
            for piece in itertools.islice(waiting, max(0, room)):
                running.add(self.client.submit(_work, self.model, function, piece, pure=False))

        try:
            send()
            for future in running:
                result = future.result()
                future.release()
                send()  # before the result is looked at, which takes time
                yield result
        except KilledWorker as error:
            raise TDNError(
                "The same structures have taken several workers down, probably for want of memory: give "
                "workers more, or relax fewer at once (--max-edges). What is finished is kept for --resume."
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise TDNError(
                "The connection to Dask's scheduler is lost. What is finished is kept for --resume."
            ) from error
