"""`tdn elastic`: elastic constants of a crystal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tdn.cli import minimum
from tdn.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    print_table,
    write_json_option,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def elastic(
    model: minimum.ModelArgument,
    structure: minimum.StructureArgument,
    output: minimum.OutputOption = Path("elastic"),
    strain: Annotated[float, typer.Option("--strain", help="Size of the strains.")] = 0.005,
    relax: minimum.RelaxOption = True,
    fmax: minimum.FmaxOption = 1e-3,
    steps: minimum.StepsOption = 1000,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float64",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Elastic constants and moduli of a crystal, from the stress of strained copies whose atoms are relaxed."""
    from tdn.simulation.elastic import VOIGT, elastic_constants, matrix_figure

    potential = minimum.load(model, device, dtype, threads)
    atoms = minimum.read_structure(structure)
    minimum.make_folder(output)
    if relax and atoms.pbc.all():
        atoms = minimum.minimum(potential, atoms, cell=True, fmax=fmax, steps=steps)
    result = elastic_constants(potential, atoms, strain=strain, fmax=fmax, steps=steps)
    minimum.write_results(output, "elastic", result.to_dict(), matrix_figure(result), atoms)
    write_json_option(json, result.to_dict())
    silent = quiet or str(json) == "-"
    rows = [[name, *(f"{value:.1f}" for value in row)] for name, row in zip(VOIGT, result.constants, strict=True)]
    print_table(f"Elastic constants of {atoms.get_chemical_formula()}, GPa", ["", *VOIGT], rows, silent)
    if not result.stable:
        typer.echo("The crystal is not stable: some strain lowers its energy.", err=True)
    elif not silent:
        typer.echo(
            f"bulk modulus {result.bulk_modulus:.1f} GPa, shear modulus {result.shear_modulus:.1f} GPa; {output}",
            err=True,
        )
