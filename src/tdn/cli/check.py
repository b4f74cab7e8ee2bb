"""`tdn check`: the physics contract of a model, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdn.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    choose_dtype,
    print_table,
    read_few_structures,
    set_threads,
    write_json_option,
)

if TYPE_CHECKING:
    from tdn.checks import CheckResult

# Checks displace, rotate and strain every structure dozens of times.
MAX_STRUCTURES = 4

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structures: Annotated[
        list[str] | None,
        typer.Argument(help="Files with small structures to check it on; structures made of its elements if none."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer random copies, a shorter trajectory, nothing compiled.")
    ] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure what any potential must fulfil: invariances, derivatives, smoothness, limits, energy conservation.

    With --dtype the invariances are measured in that precision only, in both otherwise. Exit code 1 if a check fails.
    """
    import torch

    from tdn.checks import run_checks
    from tdn.devices import choose_device
    from tdn.modelfile import load_model
    from tdn.models.compiled import compiler_available

    set_threads(threads)
    chosen = choose_dtype(dtype)
    potential = load_model(model, choose_device(device))
    results = run_checks(
        potential,
        read_few_structures(structures, MAX_STRUCTURES) if structures else None,
        quick=quick,
        dtypes=(torch.float32, torch.float64) if chosen is None else (chosen,),
        compiled=not quick and compiler_available(),
    )
    print_table(
        f"Physics contract of {model}",
        ("check", "measured", "limit", "unit", "verdict"),
        [(r.name, f"{r.measured:.2g}", f"{r.limit:.2g}", r.unit, _verdict(r)) for r in results],
        quiet,
    )
    failed = [result for result in results if not result.passed]
    for result in failed:
        typer.echo(f"FAILED {result.name}: {result.detail}", err=True)
    for reason in dict.fromkeys(potential.config.not_claimed.values()):
        if not quiet:
            typer.echo(f"not claimed: {reason}", err=True)
    write_json_option(json, {"passed": not failed, "checks": [result.to_dict() for result in results]})
    if failed:
        raise typer.Exit(1)


def _verdict(result: CheckResult) -> str:
    if not result.claimed:
        return "ok, not claimed" if result.within_limit else "fails, not claimed"
    return "ok" if result.passed else "FAILED"
