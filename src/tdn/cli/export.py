"""`tdn export`: a model as a file of another engine."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdn.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    choose_dtype,
    print_table,
    read_few_structures,
    write_json_option,
)

if TYPE_CHECKING:
    from tdn.interfaces.agreement import Agreement

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Target(enum.StrEnum):
    """What `--to` takes."""

    aoti = "aoti"
    metatomic = "metatomic"
    lammps = "lammps"


# Files may have thousands; sizes matter, not numbers.
MAX_STRUCTURES = 8
SUFFIXES = {Target.aoti: ".pt2", Target.metatomic: ".pt", Target.lammps: ".mliap.pt"}


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    to: Annotated[
        Target,
        typer.Option(
            "--to",
            help="aoti: compiled package for PyTorch; metatomic: TorchScript file for many engines; lammps: file of "
            "pair_style mliap unified.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; beside the model if left out.")
    ] = None,
    structures: Annotated[
        list[str] | None,
        typer.Option(
            "--check", help="Compare near the frames of this file; on structures of its elements if left out."
        ),
    ] = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write a model as a file that other programs run, after comparing it with the model itself.

    Energy, forces and stress must agree to 1e-5 (float32) or 1e-11 (float64); otherwise nothing is written.
    """
    from tdn.devices import choose_device
    from tdn.modelfile import load_model

    started = time.perf_counter()
    potential = load_model(model, choose_device(device), choose_dtype(dtype))
    frames = read_few_structures(structures, MAX_STRUCTURES) if structures else None
    path = output or model.with_suffix(SUFFIXES[to])
    agreement = _exporter(to)(potential, path, frames)
    seconds = time.perf_counter() - started
    differences = {name: value for name, value in asdict(agreement).items() if name != "limit"}
    print_table(
        f"{path}, written in {seconds:.0f} s",
        ("compared with the model", "relative difference", "limit"),
        [(name, f"{value:.1e}", f"{agreement.limit:.0e}") for name, value in differences.items()],
        quiet,
    )
    write_json_option(json, {"path": str(path), "target": to.value, "seconds": seconds} | asdict(agreement))


def _exporter(target: Target) -> Callable[..., Agreement]:
    if target is Target.aoti:
        from tdn.interfaces.aoti import export_aoti

        return export_aoti
    if target is Target.lammps:
        from tdn.interfaces.mliap import export_lammps

        return export_lammps
    from tdn.interfaces.metatomic import export_metatomic

    return export_metatomic
