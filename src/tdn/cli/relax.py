"""`tdn relax`: many structures to their minima, in batches."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from contextlib import nullcontext
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
    set_threads,
    write_json_option,
)
from tdn.cli.longrun import DaskOption, counting_bar, interruptible, open_cluster

if TYPE_CHECKING:
    from tdn.simulation.relaxation import Relaxed
    from tdn.simulation.relaxjob import RelaxJob, RelaxSummary

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

tdn relax model.tdn start.extxyz -o relaxed.extxyz

tdn relax model.tdn 'crystals/*.cif' -o relaxed.extxyz --cell --fmax 0.01 --dtype float64

tdn relax model.tdn many.extxyz -o relaxed.extxyz --shard 3/8    # one of eight workers, then --resume

tdn relax model.tdn many.extxyz -o relaxed.extxyz --dask scheduler.json"""


@app.command(epilog=EPILOG)
def relax(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structures: Annotated[list[str], typer.Argument(help="Structures: files that ASE reads, or glob patterns.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="extxyz file for the relaxed structures.")],
    fmax: Annotated[float, typer.Option("--fmax", help="Largest force left on an atom, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option("--steps", help="Give a structure up after so many steps.")] = 500,
    optimizer: Annotated[str, typer.Option("--optimizer", help="lbfgs, fire or bfgs, as in ASE.")] = "lbfgs",
    cell: Annotated[
        bool, typer.Option("--cell", help="Also relax the cells of structures periodic in all directions.")
    ] = False,
    pressure: Annotated[float, typer.Option("--pressure", help="External pressure, GPa; with --cell.")] = 0.0,
    dispersion: Annotated[
        str | None, typer.Option("--dispersion", help="Add D3(BJ) dispersion of this functional, such as PBE.")
    ] = None,
    trajectory: Annotated[
        Path | None, typer.Option("--trajectory", help="Folder for the path of every structure, an extxyz file each.")
    ] = None,
    max_edges: Annotated[
        int, typer.Option("--max-edges", help="Most neighbour pairs in a batch; 0 takes what fits the device.")
    ] = 0,
    compile: Annotated[
        bool, typer.Option("--compile", help="Run compiled code; worth a minute of compilation in long runs.")
    ] = False,
    shard: Annotated[
        str, typer.Option("--shard", help="Do part i/n only, as one of n workers; --resume without it collects.")
    ] = "",
    dask: DaskOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what was interrupted; finished structures are kept.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Relax structures: thousands at once, in batches, each until its own forces are small.

    A structure that fails is reported and the others go on: exit code 1, and OUTPUT.report.json says why. Those that
    are not converged after --steps are kept and marked. Ctrl-C keeps what is finished for --resume.
    """
    from tdn.data.formats import expand_paths, fingerprint, read_atoms
    from tdn.devices import choose_device
    from tdn.errors import ConfigError
    from tdn.modelfile import load_model
    from tdn.simulation.journal import Shard
    from tdn.simulation.relaxation import RelaxSettings
    from tdn.simulation.relaxjob import RelaxJob, open_output, run_job
    from tdn.units import GPA_PER_EV_PER_ANGSTROM3

    set_threads(threads)
    settings = RelaxSettings(
        fmax,
        steps,
        optimizer,
        cell,
        pressure / GPA_PER_EV_PER_ANGSTROM3,
        trajectory=trajectory is not None,
        dispersion=dispersion,
    )
    part = Shard.parse(shard) if shard else None
    if part is not None and dask is not None:
        raise ConfigError("Choose one of --shard and --dask: both are ways to share the work.")
    open_output(output, overwrite, resume or part is not None)
    potential = load_model(model, choose_device(device if dask is None else "cpu"), choose_dtype(dtype))
    files = expand_paths(structures)
    inputs = {"model": fingerprint([model]), "data": fingerprint(files), "dtype": str(potential.dtype)}
    job = RelaxJob([atoms for file in files for atoms in read_atoms(file)], settings, output, inputs, trajectory)
    if overwrite:
        job.discard()
    elif resume and (code := finished_code(job)) is not None:
        typer.echo(f"{output} is complete already.", err=True)
        raise typer.Exit(code)
    if compile and dask is None:
        potential.compile()
    failed = 0

    def advance(finished: int, results: Sequence[Relaxed]) -> None:
        nonlocal failed
        failed += sum(result.status == "failed" for result in results)
        show(finished, f"{failed} failed" if failed else "")

    workers = open_cluster(dask, model, device, dtype, threads, compile) if dask is not None else nullcontext(potential)
    with (
        interruptible(f"the same command with --resume continues {output}"),
        workers as engine,
        counting_bar("relaxing", len(job.structures), quiet) as show,
    ):
        summary = run_job(
            job, engine, shard=part, resume=resume or part is not None, max_edges=max_edges or None, progress=advance
        )
    write_json_option(json, {"total": summary.total, "finished": summary.finished, "counts": summary.counts})
    report(summary, job, quiet)


def report(summary: RelaxSummary, job: RelaxJob, quiet: bool) -> None:
    """Say how it went; exit code 1 if a structure failed."""
    if summary.output is None:
        if not quiet:
            typer.echo(
                f"shard done; {summary.finished} of {summary.total} structures are finished. When all are, the same "
                "command with --resume instead of --shard writes the output.",
                err=True,
            )
        return
    if not quiet:
        counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items() if count)
        typer.echo(f"{summary.total} structures: {counts}; {summary.output}", err=True)
    for index, message in summary.failures[:20]:
        typer.echo(f"FAILED structure {index}: {message}", err=True)
    if summary.failures:
        typer.echo(f"{len(summary.failures)} failed: see {job.report}", err=True)
        raise typer.Exit(1)


def finished_code(job: RelaxJob) -> int | None:
    """Exit code of the same job if it has been done before, so that repeating it does nothing; else None."""
    if not (job.output.is_file() and job.report.is_file()):
        return None
    done = json_module.loads(job.report.read_text(encoding="utf-8"))
    return int(done["counts"]["failed"] > 0) if done["job"] == job.description else None
