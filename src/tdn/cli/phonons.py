"""`tdn phonons`: phonons of a crystal through phonopy."""

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
def phonons(
    model: minimum.ModelArgument,
    structure: minimum.StructureArgument,
    output: minimum.OutputOption = Path("phonons"),
    supercell: Annotated[
        tuple[int, int, int],
        typer.Option("--supercell", help="Repetitions, such as 3 3 3; zeros make it twice the cutoff high."),
    ] = (0, 0, 0),
    displacement: Annotated[float, typer.Option("--displacement", help="Å.")] = 0.01,
    mesh: Annotated[float, typer.Option("--mesh", help="Density of the mesh for states, a length in Å.")] = 60.0,
    relax: minimum.RelaxOption = True,
    fmax: minimum.FmaxOption = 1e-4,
    steps: minimum.StepsOption = 1000,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float64",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Phonons of a crystal: bands, density of states, heat capacity; phonopy's own file is written too."""
    from tdn.errors import ConfigError
    from tdn.simulation.phonons import bands_figure
    from tdn.simulation.phonons import phonons as compute

    if min(supercell) < 0 or (any(supercell) and not all(supercell)):
        raise ConfigError(f"--supercell takes three positive numbers, got {supercell}.")
    potential = minimum.load(model, device, dtype, threads)
    atoms = minimum.read_structure(structure)
    minimum.make_folder(output)
    if relax and atoms.pbc.all():
        atoms = minimum.minimum(potential, atoms, cell=True, fmax=fmax, steps=steps)
    result = compute(
        potential, atoms, supercell=supercell if any(supercell) else None, displacement=displacement, mesh=mesh
    )
    minimum.write_results(output, "phonons", result.to_dict(), bands_figure(result), atoms)
    result.phonopy.save(output / "phonopy.yaml", settings={"force_constants": True})
    write_json_option(json, result.to_dict())
    silent = quiet or str(json) == "-"
    room = int(abs(result.temperatures - 300).argmin())
    rows = [
        ["highest frequency", f"{max(float(b.max()) for b in result.bands):.2f} THz"],
        ["lowest frequency", f"{min(result.lowest, *(float(b.min()) for b in result.bands)):.2f} THz"],
        ["heat capacity at 300 K", f"{result.heat_capacity[room]:.2f} J/K/mol"],
    ]
    print_table(f"Phonons of {atoms.get_chemical_formula()}", ["", ""], rows, silent)
    if not result.stable:
        typer.echo("Imaginary frequencies: the crystal is not stable in this model.", err=True)
    elif not silent:
        typer.echo(f"{output}", err=True)
