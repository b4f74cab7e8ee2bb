"""`tdn submission`: files of predictions for the leaderboards of OC20 and OC22."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdn.cli.common import DeviceOption, DtypeOption, JsonOption, QuietOption, choose_dtype, write_json_option

if TYPE_CHECKING:
    from tdn.structure import Structure

EPILOG = """Examples:

tdn submission write model.tdn test_id/ --task s2ef -o id.npz

tdn submission join id=id.npz ood_ads=ads.npz ood_cat=cat.npz ood_both=both.npz -o submission.npz

tdn submission check submission.npz --task s2ef --data id=test_id/"""

app = typer.Typer(
    no_args_is_help=True, help="Predictions for the leaderboards of OC20 and OC22: write, join, check.", epilog=EPILOG
)


class Task(StrEnum):
    """Tasks of the leaderboards."""

    S2EF = "s2ef"
    IS2RE = "is2re"
    IS2RS = "is2rs"


class Layout(StrEnum):
    """Layouts of the files."""

    LEADERBOARD = "leaderboard"
    LEGACY = "legacy"


class Dataset(StrEnum):
    """Data sets, which differ in splits and precision."""

    OC20 = "oc20"
    OC22 = "oc22"


TaskOption = Annotated[Task, typer.Option("--task", help="What is predicted.")]
LayoutOption = Annotated[
    Layout, typer.Option("--layout", help="leaderboard: all atoms, <sid>; legacy (EvalAI): free atoms, <sid>_<fid>.")
]
DatasetOption = Annotated[Dataset, typer.Option("--dataset", help="Whose splits and precision.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="npz file to write.")]


@app.callback()
def _submission() -> None:
    """Predictions for the leaderboards of OC20 and OC22: write, join, check."""


@app.command()
def write(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    data: Annotated[list[str], typer.Argument(help="Structures of one split: files, folders or patterns.")],
    task: TaskOption,
    output: OutputOption,
    layout: LayoutOption = Layout.LEADERBOARD,
    dataset: DatasetOption = Dataset.OC20,
    fmax: Annotated[float, typer.Option("--fmax", help="is2rs: largest force of a relaxed structure, eV/Å.")] = 0.02,
    steps: Annotated[int, typer.Option("--steps", help="is2rs: most steps of a relaxation.")] = 300,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Predict one split and write it, without prefix."""
    from tdn.devices import choose_device
    from tdn.evaluation.evaluate import evaluate
    from tdn.evaluation.is2rs import relax_structures
    from tdn.evaluation.submission import split_arrays, write_npz
    from tdn.modelfile import load_model

    structures = _read(data)
    potential = load_model(model, choose_device(device), choose_dtype(dtype))
    if task is Task.IS2RS:
        relaxed = relax_structures(potential, structures, fmax=fmax, steps=steps)
        predictions = [structure.positions for structure in relaxed]
    else:
        predictions = evaluate(potential, structures).predictions
    arrays = split_arrays(task.value, structures, predictions, layout=layout.value, dataset=dataset.value)
    write_npz(output, arrays)
    if not quiet:
        typer.echo(f"{output}: {len(arrays['ids'])} systems", err=True)


@app.command()
def join(
    parts: Annotated[list[str], typer.Argument(metavar="SPLIT=FILE...", help="Files of all splits.")],
    output: OutputOption,
    dataset: DatasetOption = Dataset.OC20,
    quiet: QuietOption = False,
) -> None:
    """Join the files of all splits to one submission."""
    from tdn.evaluation.submission import join_splits, read_npz, write_npz

    arrays = {split: read_npz(file) for split, file in map(_pair, parts)}
    write_npz(output, join_splits(arrays, dataset.value))
    if not quiet:
        typer.echo(f"{output}: splits {', '.join(arrays)}", err=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Submission: npz with all splits.")],
    task: TaskOption,
    layout: LayoutOption = Layout.LEADERBOARD,
    dataset: DatasetOption = Dataset.OC20,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="SPLIT=FILE", help="Structures of a split, to compare with.")
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Check keys, shapes, names and numbers of a submission; exit code 1 if something is wrong."""
    from tdn.evaluation.submission import check_submission, read_npz

    structures = {split: _read([files]) for split, files in map(_pair, data or [])}
    problems = check_submission(
        read_npz(file), task.value, layout=layout.value, dataset=dataset.value, structures=structures
    )
    for problem in problems:
        typer.echo(problem, err=True)
    if not problems and not quiet:
        typer.echo(f"{file} is a {layout.value} submission to {task.value} of {dataset.value}.")
    write_json_option(json_file, {"problems": problems})
    if problems:
        raise typer.Exit(1)


def _read(data: Sequence[str]) -> Sequence[Structure]:
    from tdn.data.reading import read_frames

    return read_frames(data, required=(), allow_partial=True).structures


def _pair(text: str) -> tuple[str, str]:
    """`id=file` in two."""
    from tdn.errors import ConfigError

    name, separator, file = text.partition("=")
    if not (name and separator and file):
        raise ConfigError(f"Expected SPLIT=FILE, such as id=test_id.npz, got {text!r}.")
    return name, file
