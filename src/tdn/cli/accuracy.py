"""`tdn reproduce SUITE`: the accuracy suite, our network and those of other packages beside the published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tdn.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    print_table,
    write_json_option,
)
from tdn.reproduce.suites import SUITES

EPILOG = """Examples:

tdn reproduce rmd17 --data data/ --output acc --entry ethanol --max-time 15m --threads 1

tdn reproduce rmd17 --data data/ --output acc --entry ethanol --preset tiny --preset medium --seed 1

tdn reproduce 3bpa --data data/ --output acc --peer mace --peer-python mace=/opt/mace/bin/python

tdn reproduce acac --data data/ --output acc --max-time 15m --preset small lr=0.01 batch_size=10

tdn reproduce rmd17 --output acc --tables"""


def suite(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of all results; more can be added to it.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the presets, as for tdn train.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", envvar="TDN_DATA", help="Folder of the data set, or the one that holds it.")
    ] = None,
    entry: Annotated[
        list[str] | None, typer.Option("--entry", help="Part of the suite, such as ethanol; repeatable (default: all).")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option("--preset", help="tiny, small, medium or large; repeatable (default: small).")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", help="mace, mace-128, torchmdnet, nequip, in place of ours; repeatable."),
    ] = None,
    peer_python: Annotated[
        list[str] | None, typer.Option("--peer-python", help="PACKAGE=PYTHON: an interpreter that has it; repeatable.")
    ] = None,
    max_time: Annotated[str, typer.Option("--max-time", help="Time of each training: 90s, 15m, 1h.")] = "15m",
    only_tables: Annotated[bool, typer.Option("--tables", help="Train nothing: show what is in the folder.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = 0,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train our network or others to a wall-clock time, test, and show the errors beside the published ones."""
    from tdn.errors import ConfigError, TDNError
    from tdn.reproduce.campaign import reproduce_suite, summarise_suite
    from tdn.reproduce.contenders import Conditions, choose_contenders
    from tdn.reproduce.summary import describe, tables
    from tdn.training.logs import ConsoleReporter

    name, failures = str(context.command.name), []
    if only_tables:
        groups = summarise_suite(name, output)
        if not groups:
            raise ConfigError(f"There are no results of {name} in {output}.")
    else:
        conditions = Conditions.parse(
            max_time, seed=seed, device=device, dtype=dtype.replace("auto", "float32"), threads=threads,
            peer_pythons=peer_python or (),
        )  # fmt: skip
        groups, failures = reproduce_suite(
            name, data, output, choose_contenders(preset or (), changes or (), peer or ()), conditions,
            entries=entry or (), reporter=None if quiet else ConsoleReporter(),
        )  # fmt: skip
    for table in tables(name, groups):
        print_table(table.title, table.columns, table.rows, quiet)
    if groups and not quiet:
        typer.echo(f"picture: {output / name / 'errors.png'}")
    write_json_option(json_file, describe(name, groups))
    if failures:
        raise TDNError("; ".join(failures))


def add_suites(app: typer.Typer) -> None:
    """Give `app` a command for each suite."""
    for name, each in SUITES.items():
        app.command(name, epilog=EPILOG, help=f"{each.title}.")(suite)
