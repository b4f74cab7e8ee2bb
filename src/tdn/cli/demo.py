"""`tdn demo`: the whole of the package on the data that ship with it."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdn.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    print_table,
    set_threads,
    write_json_option,
)

if TYPE_CHECKING:
    from tdn.report.demo import DemoResult

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything; replaced.")] = Path(
        "demo-output"
    ),
    max_time: Annotated[str, typer.Option("--max-time", help="Time of the training: 90s, 4m.")] = "4m",
    picoseconds: Annotated[float, typer.Option("--picoseconds", help="Length of the molecular dynamics.")] = 2.0,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train on the shipped molecules, test, relax, run dynamics, check, and write a report: about six minutes."""
    from tdn.devices import choose_device
    from tdn.report.demo import DemoSettings, run_demo
    from tdn.training.logs import ConsoleReporter

    set_threads(threads)
    start = time.perf_counter()
    settings = DemoSettings(
        max_time=max_time, picoseconds=picoseconds, seed=seed, device=str(choose_device(device)), dtype=dtype,
        threads=threads,
    )  # fmt: skip
    result = run_demo(output, settings, None if quiet else ConsoleReporter())
    write_json_option(json, result.to_dict())
    if not quiet and str(json) != "-":
        print_summary(result, time.perf_counter() - start)


def print_summary(result: DemoResult, seconds: float) -> None:
    """The headline numbers, where the report is, and what to try next."""
    from tdn.datasets import organics_path
    from tdn.report.training import duration

    overall, run = result.evaluation.overall, result.trajectory
    rows = []
    if overall.energy_per_atom is not None and overall.forces is not None:
        rows += [
            ("energy MAE, test", f"{overall.energy_per_atom.mae:.1f} meV/atom"),
            ("force MAE, test", f"{overall.forces.mae:.0f} meV/Å ({overall.forces.relative_rmse_percent:.0f} % RMSE)"),
        ]
    for start in ("displaced", "conformer"):
        distances = [float(r.rmsds[-1]) for r in result.relaxations if r.rmsds is not None and r.name.endswith(start)]
        rows.append((f"relaxed from {start}: median distance to DFT", f"{statistics.median(distances):.3f} Å"))
    rows += [
        ("NVE drift", f"{run.drift:.2g} meV/atom/ps"),
        ("speed", f"{run.ms_per_step:.1f} ms a step"),
        ("physics checks passed", f"{sum(c.passed for c in result.checks)} of {len(result.checks)}"),
    ]
    print_table(f"\nDone in {duration(seconds)}", ["result", ""], rows)
    typer.echo(f"\nReport: {result.report.resolve()}\n\nNext, try:")
    typer.echo(f"  tdn check {result.model}                       # equivariance, smoothness, conservation")
    typer.echo(f"  tdn eval {result.model} {organics_path('test')}")
    typer.echo("  tdn train --data YOUR.extxyz --output run --max-time 15m")
