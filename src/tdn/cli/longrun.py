"""What commands over many structures share: a progress bar, a word on how to go on after Ctrl-C, and clusters."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tdn.simulation.cluster import Cluster

DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask", help="Spread over Dask workers: a scheduler's address or file, or a number of workers to start here."
    ),
]


@contextmanager
def counting_bar(label: str, total: int, quiet: bool) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error that takes (structures done, note); nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Ctrl-C and a scheduler's SIGTERM end the run with a word on how to continue, exit code 130."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {advice}", err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def open_cluster(
    where: str, model: Path, device: str, dtype: str, threads: int, compile: bool = False
) -> Iterator[Cluster]:
    """Dask workers with a model, once there is at least one.

    Raises:
        ConfigError: If Dask is not installed, or no scheduler answers.
    """
    from tdn.cli.common import choose_dtype
    from tdn.data.formats import fingerprint
    from tdn.simulation.cluster import Cluster, WorkerModel

    path = model.resolve()
    shared = WorkerModel(path, fingerprint([path]), device, choose_dtype(dtype), compile, threads)
    with Cluster.open(where, shared) as cluster:
        if not cluster.workers:
            typer.echo(f"{where} has no workers yet: waiting for the first one.", err=True)
            cluster.client.wait_for_workers(1)
        yield cluster
