"""`tdn reproduce`: results of 2507.01131 and the accuracy suite, from the data that users have to rows of tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdn.cli.accuracy import add_suites
from tdn.cli.common import (
    DeviceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    print_table,
    set_threads,
    write_json_option,
)

if TYPE_CHECKING:
    from tdn.reproduce.is2re import Dataset, Reproduction
    from tdn.training.logs import Reporter

EPILOG = """Examples:

tdn reproduce oc20-is2re --root oc20/ --output run

torchrun --nproc-per-node 4 -m tdn reproduce oc20-is2re --root oc20/ --output run --resume

tdn reproduce oc22-is2re --root oc22/ --output run --linear-reference oc22_linfit_coeffs.npz

tdn reproduce oc20-is2re --root oc20/ --output small num_channels=64 num_layers=2 max_epochs=3

tdn reproduce pubchemqcr --root pubchemqcr/ --output run --subset --variant tdn --variant exact --workers 8

tdn reproduce nbody --output run epochs=100 num_channels=24"""

HELP = "Results of 2507.01131, and an accuracy suite beside other packages, from the data to the rows of tables."

app = typer.Typer(no_args_is_help=True, help=HELP, epilog=EPILOG)

RootOption = Annotated[Path, typer.Option("--root", help="Folder of the unpacked download.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
ChangesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the paper's set-up.")
]
WorkersOption = Annotated[int, typer.Option("--workers", help="Processes that convert the data, once.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Remove the run in the output folder first.")]


@app.callback(help=HELP)
def _reproduce() -> None:
    """See `HELP`."""


@app.command("oc20-is2re", epilog=EPILOG)
def oc20_is2re(
    root: RootOption,
    output: OutputOption,
    changes: ChangesArgument = None,
    workers: WorkersOption = 1,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Table 2: relaxed adsorption energies of OC20 from initial structures; needs train and the four val splits."""
    from tdn.reproduce.is2re import reproduce_is2re

    options = {"seed": seed, "device": device, "threads": threads}
    found = reproduce_is2re(
        "oc20", root, output, overrides=changes or [], options=options, resume=resume, overwrite=overwrite,
        workers=workers, reporter=_reporter(quiet),
    )  # fmt: skip
    _show("oc20", found, json_file, quiet)


@app.command("oc22-is2re", epilog=EPILOG)
def oc22_is2re(
    root: RootOption,
    output: OutputOption,
    changes: ChangesArgument = None,
    linear_reference: Annotated[
        str | None, typer.Option("--linear-reference", help="The published npz; fitted to the training set without.")
    ] = None,
    workers: WorkersOption = 1,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Table 3: relaxed total energies of OC22 from initial structures; needs train and the two val splits."""
    from tdn.reproduce.is2re import reproduce_is2re

    options = {"seed": seed, "device": device, "threads": threads}
    found = reproduce_is2re(
        "oc22", root, output, linear_reference=linear_reference, overrides=changes or [], options=options,
        resume=resume, overwrite=overwrite, workers=workers, reporter=_reporter(quiet),
    )  # fmt: skip
    _show("oc22", found, json_file, quiet)


@app.command("pubchemqcr", epilog=EPILOG)
def pubchemqcr(
    root: RootOption,
    output: OutputOption,
    changes: ChangesArgument = None,
    subset: Annotated[bool, typer.Option("--subset", help="PubChemQCR-S: Data06.lmdb only.")] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant", help="tdn, exact, cg, cg_paths, cg_paths_linear or flagship; repeatable. [default: tdn]"
        ),
    ] = None,
    stage: Annotated[str, typer.Option("--stage", help="pm3, hf, 1st, 1st_smash, 2nd or mixing.")] = "1st",
    split: Annotated[
        str | None, typer.Option("--split", help="Another split than the paper's, as for tdn data convert.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes of the conversion.")] = 1,
    convert_only: Annotated[bool, typer.Option("--convert-only", help="Make the frame store and stop.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Table 1: energies and forces along relaxations, from PubChemQCR's LMDB files; resumes what is in the folder."""
    from tdn.cli.convert import progress_bar
    from tdn.reproduce.pubchemqcr import describe, reproduce_pubchemqcr, table

    with progress_bar(quiet) as progress:
        found = reproduce_pubchemqcr(
            root,
            output,
            subset=subset,
            variants=variant or ["tdn"],
            overrides=changes or [],
            options={"seed": seed, "device": device, "threads": threads},
            data={"stage": stage, "split": split, "workers": workers, "convert_only": convert_only},
            reporter=_reporter(quiet),
            progress=progress,
        )
    if found is not None:
        print_table(*table(found), quiet)
        write_json_option(json_file, describe(found))


@app.command("nbody", epilog=EPILOG)
def nbody(
    output: OutputOption,
    changes: ChangesArgument = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small network and few epochs: a few minutes on one core.")
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", help="10, 15, 20, 28, 81, exact, exact-o3 or cg_paths; repeatable. [default: all]"),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Table 8: rank against error and equivariance error on five charged bodies, which are simulated; with a picture.

    Variants that are in the output folder already are not run again.
    """
    from tdn.reproduce.nbody import FIGURE, VARIANTS, describe, read_config, reproduce_nbody, table

    config = read_config(changes or [], quick, seed)
    set_threads(threads)
    names = variant or list(VARIANTS)
    found = reproduce_nbody(output, config, variants=names, device=device, reporter=_reporter(quiet))
    print_table(*table(found), quiet)
    if not quiet:
        typer.echo(f"picture: {output / FIGURE}")
    write_json_option(json_file, describe(found))


add_suites(app)


def _reporter(quiet: bool) -> Reporter | None:
    from tdn.training.logs import ConsoleReporter

    return None if quiet else ConsoleReporter()


def _show(dataset: Dataset, found: Reproduction | None, json_file: Path | None, quiet: bool) -> None:
    """The table, with the published numbers; nothing on processes other than the first."""
    from tdn.reproduce.is2re import describe, tables

    if found is None:
        return
    for table in tables(dataset, found):
        print_table(*table, quiet)
    if found.submission is not None and not quiet:
        typer.echo(f"predictions for the test splits: {found.submission}")
    write_json_option(json_file, describe(dataset, found))
