"""`tdn import-airs`: a checkpoint of the paper's public code as a model file."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdn.cli.common import JsonOption, QuietOption, ThreadsOption, print_table, set_threads, write_json_option

if TYPE_CHECKING:
    from tdn.checks import CheckResult
    from tdn.models.paper_potential import PaperPotential

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

tdn import-airs TDN_best_model_subset.pth -o published.tdn

tdn import-airs TDN_checkpoint.pth -o repaired.tdn --ema --repair rotation --repair mirror"""


class Repair(enum.StrEnum):
    """What `--repair` takes."""

    rotation = "rotation"
    mirror = "mirror"
    truncation = "truncation"
    fragments = "fragments"
    forces = "forces"
    all = "all"


class Forces(enum.StrEnum):
    """What `--forces` takes."""

    direct = "direct"
    gradient = "gradient"


class Averages(enum.StrEnum):
    """What `--averages` takes."""

    subset = "subset"
    full = "full"


# Repair -> options of the network, and what it does.
REPAIRS: dict[Repair, tuple[dict[str, Any], str]] = {
    Repair.rotation: ({"products": "exact"}, "equivariant part of the file's products: exact under rotations"),
    Repair.mirror: ({"mirror_average": True}, "average over mirror images: twice the cost"),
    Repair.truncation: ({"max_neighbors": None}, "every neighbour within the cutoff counts"),
    Repair.fragments: ({"energy": "per_fragment"}, "energies of fragments that are no neighbours add up"),
    Repair.forces: ({"forces": "conservative"}, "forces are the gradient of the energy; a force head is not used"),
}
# Mean atoms of a structure and neighbours of an atom, constants of the public code.
AVERAGES = {Averages.subset: (36.6, 18.6), Averages.full: (30.0, 16.7)}


@app.command(name="import-airs", epilog=EPILOG)
def import_airs(
    checkpoint: Annotated[Path, typer.Argument(help="State dict or training checkpoint of divelab/AIRS, OpenMol/TDN.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    ema: Annotated[bool, typer.Option("--ema", help="Take the moving average of a training checkpoint.")] = False,
    forces: Annotated[
        Forces, typer.Option("--forces", help="direct: force head; gradient: trained with --gradient_force.")
    ] = Forces.direct,
    cutoff: Annotated[float, typer.Option("--cutoff", help="Å.")] = 4.5,
    max_neighbors: Annotated[int, typer.Option("--max-neighbors", help="Neighbours that an atom sees.")] = 100,
    averages: Annotated[
        Averages, typer.Option("--averages", help="Constants of the source: for PubChemQCR-S or the full set.")
    ] = Averages.subset,
    avg_num_nodes: Annotated[float | None, typer.Option("--avg-num-nodes", help="Instead of --averages.")] = None,
    avg_degree: Annotated[float | None, typer.Option("--avg-degree", help="Instead of --averages.")] = None,
    repair: Annotated[
        list[Repair] | None, typer.Option("--repair", help="Repair without training anew; may be repeated.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Measure the physics contract of the result.")] = True,
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Turn a checkpoint of the public TDN code into a model file that computes the same, or repairs of it.

    What the file does not hold must be as in training: cutoff, neighbours, averages. Weights alone are read; no code in
    the file runs.
    """
    from tdn.interfaces.airs import describe_source, read_airs
    from tdn.modelfile import save_model

    set_threads(threads)
    nodes, degree = AVERAGES[averages]
    options: dict[str, Any] = {
        "forces": forces.value,
        "r_max": cutoff,
        "max_neighbors": max_neighbors,
        "avg_num_nodes": avg_num_nodes or nodes,
        "avg_degree": avg_degree or degree,
    }
    chosen = set(REPAIRS) if Repair.all in (repair or ()) else set(repair or ())
    published = read_airs(checkpoint, averaged=ema, **options)
    for name in chosen:
        options |= REPAIRS[name][0]
    potential = read_airs(checkpoint, averaged=ema, **options) if chosen else published
    repaired = sorted(name.value for name in chosen)
    save_model(output, potential, {**describe_source(checkpoint), "averaged": ema, "repaired": repaired})
    content: dict[str, Any] = {"path": str(output), "repaired": repaired}
    if not quiet:
        typer.echo(
            f"{output}: {sum(p.numel() for p in potential.parameters())} parameters, {len(potential.elements)} elements"
        )
    if check:
        content["checks"] = _check(potential, quiet)
    if chosen:
        content["changes"] = _changes(published, potential, quiet)
    _offer(chosen, quiet)
    write_json_option(json, content)


def _check(potential: PaperPotential, quiet: bool) -> list[dict[str, Any]]:
    """The physics contract, on molecules of light elements."""
    from tdn.checks import run_checks

    results = run_checks(potential, _molecules(potential), quick=True)
    rows = [(r.name, f"{r.measured:.2g}", f"{r.limit:.2g}", r.unit, _verdict(r)) for r in results]
    print_table("\nWhat it fulfils of the physics", ("check", "measured", "limit", "unit", "verdict"), rows, quiet)
    for reason in dict.fromkeys(potential.config.not_claimed.values()):
        if not quiet:
            typer.echo(f"broken: {reason}")
    return [result.to_dict() for result in results]


def _verdict(result: CheckResult) -> str:
    held = "ok" if result.within_limit else "FAILS"
    return held if result.claimed else f"{held}, as expected" if not result.within_limit else held


def _changes(published: PaperPotential, repaired: PaperPotential, quiet: bool) -> dict[str, float]:
    """How far the repaired model is from the published one on the molecules that ship with the package."""
    import numpy as np

    from tdn.evaluation import evaluate

    structures = _molecules(published)
    pairs = zip(*(evaluate(p, structures).predictions for p in (published, repaired)), structures, strict=True)
    energies, forces = [], []
    for before, after, structure in pairs:
        energies.append((after.energy - before.energy) / len(structure))
        forces.append(after.forces - before.forces)
    change = {
        "energy_per_atom_rms_mev": 1e3 * float(np.sqrt(np.mean(np.square(energies)))),
        "forces_rms_mev_per_angstrom": 1e3 * float(np.sqrt(np.mean(np.square(np.concatenate(forces))))),
    }
    rows = [(name.replace("_", " "), f"{value:.3g}") for name, value in change.items()]
    print_table(f"\nChange by the repairs, {len(structures)} molecules", ("quantity", "change"), rows, quiet)
    return change


def _molecules(potential: PaperPotential) -> list[Any]:
    """Four frames of the shipped molecules whose elements the model knows."""
    from tdn.data.reading import read_frames
    from tdn.datasets import organics_path

    frames = [s for s in read_frames(organics_path("test")).structures if set(s.numbers) <= set(potential.elements)]
    return frames[:: max(1, len(frames) // 4)][:4]


def _offer(chosen: set[Repair], quiet: bool) -> None:
    """What could be repaired besides, without training and with it."""
    rows = [(f"--repair {name.value}", text) for name, (_, text) in REPAIRS.items() if name not in chosen]
    if rows:
        print_table("\nRepairs without training", ("option", "what it does"), rows, quiet)
    if not quiet:
        typer.echo("A smooth cutoff and size-extensive energies need training: model.envelope, model.energy=extensive.")
