"""`tdn vibrations`: normal modes of a molecule or an adsorbate."""

from __future__ import annotations

from pathlib import Path

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
def vibrations(
    model: minimum.ModelArgument,
    structure: minimum.StructureArgument,
    output: minimum.OutputOption = Path("vibrations"),
    relax: minimum.RelaxOption = True,
    fmax: minimum.FmaxOption = 1e-4,
    steps: minimum.StepsOption = 1000,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float64",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Vibrations of a molecule or an adsorbate: frequencies, zero-point energy, a picture. Fixed atoms do not move."""
    from tdn.simulation.vibrations import RIGID, spectrum
    from tdn.simulation.vibrations import vibrations as compute

    potential = minimum.load(model, device, dtype, threads)
    atoms = minimum.read_structure(structure)
    minimum.make_folder(output)
    if relax:
        atoms = minimum.minimum(potential, atoms, cell=False, fmax=fmax, steps=steps)
    result = compute(potential, atoms)
    minimum.write_results(output, "vibrations", result.to_dict(), spectrum(result), atoms)
    write_json_option(json, result.to_dict())
    silent = quiet or str(json) == "-"
    shown = [value for value in result.frequencies if abs(value) > RIGID]
    rows = [[str(k + 1), f"{value:.1f}" if value > 0 else f"{-value:.1f} i"] for k, value in enumerate(shown)]
    print_table(f"Vibrations of {atoms.get_chemical_formula()}", ["mode", "1/cm"], rows, silent)
    if not silent:
        typer.echo(f"zero-point energy {result.zero_point_energy:.4f} eV; {output}", err=True)
    if result.imaginary:
        typer.echo(f"{result.imaginary} imaginary frequencies: this is no minimum.", err=True)
