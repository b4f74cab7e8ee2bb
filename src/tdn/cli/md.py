"""`tdn md`: molecular dynamics of one structure."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdn.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    choose_dtype,
    print_table,
    set_threads,
    write_json_option,
)

if TYPE_CHECKING:
    from tdn.simulation.analysis import MDSummary
    from tdn.simulation.guards import Guard
    from tdn.simulation.md import MDRun

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

tdn md model.tdn relaxed.extxyz -o run --time 10

tdn md model.tdn crystal.cif -o run --ensemble npt --temperature 600 --pressure 1 --timestep 1 --steps 50000

tdn md model.tdn relaxed.extxyz -o run --time 20 --resume"""


@app.command(epilog=EPILOG)
def md(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structure: Annotated[str, typer.Argument(help="File with the starting geometry; its last frame counts.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for log, trajectory, state and pictures.")],
    ensemble: Annotated[str, typer.Option("--ensemble", help="nve, langevin, nose-hoover, npt or npt-cell.")] = "nve",
    temperature: Annotated[
        float, typer.Option("--temperature", help="Of the initial velocities and the thermostat, K.")
    ] = 300.0,
    pressure: Annotated[float, typer.Option("--pressure", help="Of npt and npt-cell, GPa.")] = 0.0,
    timestep: Annotated[float, typer.Option("--timestep", help="fs.")] = 0.5,
    steps: Annotated[int, typer.Option("--steps", help="Length of the whole run in steps; or give --time.")] = 0,
    time_ps: Annotated[float, typer.Option("--time", help="Length of the whole run, ps.")] = 0.0,
    friction: Annotated[float, typer.Option("--friction", help="Of langevin, 1/ps.")] = 10.0,
    tdamp: Annotated[float, typer.Option("--tdamp", help="Period of the thermostat, fs.")] = 100.0,
    pdamp: Annotated[float, typer.Option("--pdamp", help="Period of the barostat, fs.")] = 1000.0,
    log_interval: Annotated[int, typer.Option("--log-interval", help="Steps between lines of the log.")] = 10,
    trajectory_interval: Annotated[
        int, typer.Option("--trajectory-interval", help="Steps between frames; 0 for none.")
    ] = 100,
    state_interval: Annotated[int, typer.Option("--state-interval", help="Steps between saved states.")] = 1000,
    keep_velocities: Annotated[
        bool, typer.Option("--keep-velocities", help="Start with the velocities in the file.")
    ] = False,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Go on where atoms come closer than in the training data.")
    ] = False,
    max_uncertainty: Annotated[
        float, typer.Option("--max-uncertainty", help="Stop where the energy is more uncertain, meV/atom; 0 for never.")
    ] = 0.0,
    dispersion: Annotated[
        str | None, typer.Option("--dispersion", help="Add D3(BJ) dispersion of this functional, such as PBE.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Run compiled code; worth a minute of compilation in long runs.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Molecular dynamics of one structure; Ctrl-C saves the state, and --resume goes on as if nothing had happened.

    The run stops, exit code 2, where the structure explodes or leaves what the model was trained on.
    """
    from tdn.data.formats import expand_paths, fingerprint, read_atoms
    from tdn.errors import ConfigError, DataError
    from tdn.simulation.analysis import summarise, write_pictures
    from tdn.simulation.ensembles import Ensemble
    from tdn.simulation.md import MDRun, MDSettings
    from tdn.units import GPA_PER_EV_PER_ANGSTROM3

    set_threads(threads)
    if (steps > 0) == (time_ps > 0):
        raise ConfigError("Give the length of the run: --steps, or --time in ps, one of them.")
    physics = Ensemble(
        ensemble, temperature, timestep, pressure / GPA_PER_EV_PER_ANGSTROM3, friction, tdamp, pdamp, seed
    )
    files = expand_paths([structure])
    frames = read_atoms(files[0])
    if not frames:
        raise DataError(f"{structure} holds no structure.")
    calculator = make_calculator(model, device, choose_dtype(dtype), compile, dispersion)
    inputs = {
        "model": fingerprint([model]), "structure": fingerprint(files), "dtype": str(calculator.potentials[0].dtype)
    }  # fmt: skip
    inputs |= {"dispersion": dispersion} if dispersion is not None else {}
    settings = MDSettings(physics, log_interval, trajectory_interval, state_interval, inputs)
    guard = make_guard(model, temperature, extrapolate, max_uncertainty)
    if max_uncertainty > 0 and calculator.potentials[0].uncertainty is None:
        raise ConfigError(f"--max-uncertainty needs a model with uncertainties: run tdn calibrate {model} first.")
    run = MDRun(
        output, frames[-1], calculator, settings, guard, resume=resume, overwrite=overwrite,
        keep_velocities=keep_velocities,
    )  # fmt: skip
    target, start, first = steps or round(1000 * time_ps / timestep), time.perf_counter(), run.step
    finished = drive(run, target, quiet)
    speed = (time.perf_counter() - start) / max(run.step - first, 1)
    summary = summarise(output, len(run.atoms))
    write_pictures(output, len(run.atoms))
    content = {**summary.to_dict(), "steps": run.step, "finished": finished, "ms_per_step": 1e3 * speed}
    write_json_option(json, content)
    show(summary, speed, timestep, quiet or str(json) == "-")
    if not finished:
        typer.echo(f"interrupted at step {run.step}; the same command with --resume continues {output}", err=True)
        raise typer.Exit(130)


def make_calculator(model: Path, device: str, dtype: Any, compile: bool, dispersion: str | None = None) -> Any:
    """The ASE calculator of a model file."""
    from tdn.calculator import TDNCalculator

    return TDNCalculator(model, device=device, dtype=dtype, compile=compile, dispersion=dispersion)


def make_guard(model: Path, temperature: float, extrapolate: bool, max_uncertainty: float = 0.0) -> Guard:
    """Limits from the temperature and from what the model file says of its training data."""
    from tdn.modelfile import read_header
    from tdn.simulation.guards import Guard
    from tdn.units import MEV_PER_EV

    known = read_header(model)["metadata"].get("shortest_distances", {})
    uncertain = max_uncertainty / MEV_PER_EV if max_uncertainty > 0 else math.inf
    return Guard(max(10 * temperature, 3000.0), shortest={} if extrapolate else known, max_uncertainty=uncertain)


def drive(run: MDRun, target: int, quiet: bool) -> bool:
    """Run to the target with a progress bar; False if a signal stopped it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        signals() as stopped,
        Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar,
    ):
        task = bar.add_task("steps", total=target, completed=run.step)
        return run.run(target, stopped, lambda step: bar.update(task, completed=step))


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or a scheduler's SIGTERM asked to stop; the second one stops at once."""
    asked = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(summary: MDSummary, seconds_per_step: float, timestep: float, quiet: bool) -> None:
    """The run in a few lines."""
    rows = [[name, f"{value:.4g} {unit}"] for name, value, unit in summary.rows()]
    rows.append(
        ["speed", f"{1e3 * seconds_per_step:.3g} ms a step, {0.0864 * timestep / seconds_per_step:.3g} ns a day"]
    )
    print_table("Whole run", ["", ""], rows, quiet)
