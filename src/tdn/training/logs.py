"""What a run says while it goes: lines and a progress bar for people, rows for programs."""

from __future__ import annotations

import csv
import datetime
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdn.files import atomic_write
from tdn.training.config import TrainingConfig
from tdn.training.loss import ErrorSums

COLUMNS = (
    *("step", "epoch", "elapsed_s", "lr", "loss", "valid_loss"),
    *(f"{part}_{name}" for part in ("valid", "train") for name in ErrorSums.NAMES),
)
"""Columns of `metrics.csv`: energies in meV and meV/atom, forces in meV/Å, stress in meV/Å³, the loss without
unit, or in eV and eV/Å if it is `l1`. `forces_vector_rmse` is the mean over structures of the root of the mean squared
length of their force errors.

`loss` and `train_*` are means over the batches since the row before, with the weights of that moment; `valid_*` are of
the averaged weights.
"""


class Reporter:
    """Receives what a run says; this one keeps silent."""

    def line(self, text: str) -> None:
        """One thing worth knowing."""

    def warning(self, text: str) -> None:
        """One thing that is odd."""

    def progress(self, fraction: float, elapsed: float, text: str) -> None:
        """After every step: share of the run that is done, its seconds, and the live errors."""

    def close(self) -> None:
        """The run has ended."""


class ConsoleReporter(Reporter):
    """Prints lines to standard error, with a progress bar at the bottom if that is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._bar = None
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=8), TextColumn("{task.percentage:.0f}% {task.description}"))
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=1.0)

    def line(self, text: str) -> None:
        """Print."""
        self._console.print(text, markup=False)

    def warning(self, text: str) -> None:
        """Print in yellow."""
        self._console.print(text, style="yellow", markup=False)

    def progress(self, fraction: float, elapsed: float, text: str) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        left = elapsed * (1.0 / fraction - 1.0) if fraction > 0 else float("nan")
        self._bar.start()
        self._bar.update(self._task, completed=min(fraction, 1.0), description=f"{clock(left)} left, {text}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


class LogFile(Reporter):
    """Keeps every line, with its time, in `train.log`, and hands all on to another reporter.

    Args:
        path: The file; appended to.
        other: Where lines go besides.
    """

    def __init__(self, path: Path, other: Reporter) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._other = other

    def line(self, text: str) -> None:
        """Write and hand on."""
        self._write(text)
        self._other.line(text)

    def warning(self, text: str) -> None:
        """Write and hand on."""
        self._write(text)
        self._other.warning(text)

    def progress(self, fraction: float, elapsed: float, text: str) -> None:
        """Hand on."""
        self._other.progress(fraction, elapsed, text)

    def close(self) -> None:
        """Close both."""
        self._file.close()
        self._other.close()

    def _write(self, text: str) -> None:
        now = datetime.datetime.now().isoformat(timespec="seconds")
        self._file.write(f"{now} {text}\n")
        self._file.flush()


class MetricsLog:
    """Rows of a run in `metrics.csv`, and in TensorBoard and Weights & Biases if wanted.

    The file is first brought to what the checkpoint knows, so that steps which a kill made undone leave no rows.

    Args:
        folder: Run folder.
        history: Rows so far.
        config: Which loggers.
        reporter: Told which loggers are on.
    """

    def __init__(
        self, folder: Path, history: Sequence[Mapping[str, Any]], config: TrainingConfig, reporter: Reporter
    ) -> None:
        with atomic_write(folder / "metrics.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(history)
        self._file = (folder / "metrics.csv").open("a", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        last_step = history[-1]["step"] if history else 0
        self._tensorboard = _tensorboard(folder, last_step, reporter) if config.tensorboard else None
        self._wandb = _wandb(folder, config.wandb_project, reporter) if config.wandb_project else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row everywhere."""
        self._writer.writerow(row)
        self._file.flush()
        values = {name: value for name, value in row.items() if value is not None and name != "step"}
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, row["step"])
        if self._wandb is not None:
            self._wandb.log(values, step=row["step"])

    def close(self) -> None:
        """Close all files."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    if seconds != seconds:
        return "?:??"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe_errors(errors: Mapping[str, float | None], prefix: str = "") -> str:
    """`E 2.11 meV (0.23 meV/atom), F 12.0 meV/Å` from the columns of a row, mean absolute errors."""
    total, atom = errors.get(f"{prefix}energy_mae_mev"), errors.get(f"{prefix}energy_mae_mev_per_atom")
    forces, stress = errors.get(f"{prefix}forces_mae"), errors.get(f"{prefix}stress_mae")
    parts = [f"E {total:.2f} meV ({atom:.2f} meV/atom)"] if total is not None and atom is not None else []
    parts += [f"F {forces:.1f} meV/Å"] if forces is not None else []
    parts += [f"S {stress:.2f} meV/Å³"] if stress is not None else []
    return ", ".join(parts)


def describe_briefly(errors: Mapping[str, float | None], prefix: str = "") -> str:
    """`0.23 meV/atom 12.0 meV/Å`: mean absolute errors of energy and forces."""
    atom, forces = errors.get(f"{prefix}energy_mae_mev_per_atom"), errors.get(f"{prefix}forces_mae")
    parts = [f"{atom:.3g} meV/atom"] if atom is not None else []
    return " ".join([*parts, f"{forces:.3g} meV/Å"] if forces is not None else parts)


def _tensorboard(folder: Path, last_step: int, reporter: Reporter) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        reporter.line("TensorBoard is not installed: logging to metrics.csv only (pip install tensorboard).")
        return None
    reporter.line(f"TensorBoard: tensorboard --logdir {folder}")
    return SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)


def _wandb(folder: Path, project: str | None, reporter: Reporter) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        from tdn.errors import ConfigError

        raise ConfigError('wandb_project is set, but wandb is not installed: pip install "tdn[wandb]".') from error
    reporter.line(f"Weights & Biases: project {project}")
    # The same folder is the same run, so that a resumed one goes on in its plots.
    identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return wandb.init(project=project, name=folder.name, id=identity, dir=str(folder), resume="allow")
