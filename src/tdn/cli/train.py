"""`tdn train`: from data to a trained potential."""

from __future__ import annotations

from collections.abc import Mapping
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from tdn.evaluation.metrics import Errors, ErrorTable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

tdn train --data train.extxyz --output run --max-time 15m

tdn train --data train.extxyz --output run --preset medium

tdn train config.yaml lr=0.01 num_channels=32

tdn train --from model.tdn --data new.extxyz --output tuned --max-time 5m

tdn train --resume --output run

torchrun --nproc-per-node 4 -m tdn.cli.main train config.yaml"""


@app.command(epilog=EPILOG)
def train(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG.yaml] [KEY=VALUE]...", help="Configuration and changes to it."),
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Training file; may be repeated.")] = None,
    valid: Annotated[
        str | None, typer.Option("--valid", help="Validation file, or fraction or number to hold out.")
    ] = None,
    test: Annotated[str | None, typer.Option("--test", help="Test file, or fraction or number of frames.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
    max_time: Annotated[str | None, typer.Option("--max-time", help="Train this long: 90s, 15m, 1h30m.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="Size: tiny, small, medium or large.")] = None,
    start: Annotated[Path | None, typer.Option("--from", help="Model to start from: fine-tuning.")] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option("--freeze", help="With --from: parameters that stay, such as network.layers.0; may be repeated."),
    ] = None,
    replay: Annotated[
        list[str] | None,
        typer.Option("--replay", help="With --from: file of old training frames to train on too; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the run in the output folder first.")] = False,
    report: Annotated[bool, typer.Option(help="Write a page about the run to look at, report.html.")] = True,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a potential on energies and forces (and stress), and write it to a folder with everything about the run."""
    from tdn.training.config import RunConfig
    from tdn.training.logs import ConsoleReporter
    from tdn.training.run import SUMMARY
    from tdn.training.run import train as run

    given = {"preset": preset, "seed": seed, "device": device, "dtype": dtype, "threads": threads, "output": output}
    top = {
        name: value for name, value in given.items() if _is_given(context, name) and (name, value) != ("dtype", "auto")
    }
    files = {
        "train": data if data and len(data) > 1 else (data or [None])[0],
        "valid": _share(valid),
        "test": _share(test),
    }
    content = _content(arguments or [], top, resume)
    for name, value in files.items():
        if value is not None:
            content.setdefault("data", {})[name] = value
    if max_time is not None:
        content.setdefault("training", {})["max_time"] = max_time
    _add_start(content, start, freeze, replay)
    _require(content)
    config = RunConfig.parse(content, "The configuration")
    result = run(config, None if quiet else ConsoleReporter(), resume=resume, overwrite=overwrite)
    if result.signal is not None:
        raise typer.Exit(128 + result.signal)
    _print_errors(result.errors, quiet)
    if result.evaluations and report:
        from tdn.report.training import write_training_report

        part = "test" if "test" in result.evaluations else "valid"
        structures = result.evaluations[part].structures
        title = {"test": "test", "valid": "validation"}[part]
        page = write_training_report(config.output, structures, title, origins=result.origins[part])
        if not quiet:
            typer.echo(f"report: {page}", err=True)
    if json is not None:
        write_json_option(json, loads((Path(config.output) / SUMMARY).read_text(encoding="utf-8")))


def _content(arguments: list[str], top: dict[str, Any], resume: bool) -> dict[str, Any]:
    """Plain values from the file, the `key=value`s and the options, later ones first; a resumed run brings its own."""
    from tdn.errors import ConfigError
    from tdn.training.config import apply_override, read_yaml
    from tdn.training.run import CONFIG

    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise ConfigError(f"Expected one configuration file, got {', '.join(files)}; changes are key=value.")
    content: dict[str, Any] = read_yaml(files[0]) if files else {}
    stored = Path(str(top.get("output", "."))) / CONFIG
    if not files and resume and "output" in top and stored.is_file():
        content = read_yaml(stored)
    for argument in arguments:
        if "=" in argument:
            apply_override(content, argument)
    return {**content, **top}


def _add_start(content: dict[str, Any], path: Path | None, freeze: list[str] | None, replay: list[str] | None) -> None:
    from tdn.errors import ConfigError

    given: dict[str, Any] = {"path": path and str(path), "freeze": freeze, "replay": replay}
    given = {name: value for name, value in given.items() if value}
    if given:
        content["start"] = {**(content.get("start") or {}), **given}
        if not content["start"].get("path"):
            raise ConfigError("--freeze and --replay belong to a run that starts from a model: name it with --from.")


def _require(content: dict[str, Any]) -> None:
    from tdn.errors import ConfigError

    if not content.get("output"):
        raise ConfigError("Name the folder of the run: --output FOLDER (and the data: --data FILE).")
    if not isinstance(content.get("data"), dict) or not content["data"].get("train"):
        raise ConfigError("Name the training data: --data FILE, or `data: {train: FILE}` in the configuration.")


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was on the command line; if not, the configuration file decides."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _share(text: str | None) -> Any:
    """A number if it is one, else a file's name."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _print_errors(tables: Mapping[str, ErrorTable], quiet: bool) -> None:
    """MAE / RMSE of every part, for the quantities that have labels."""
    titles = {
        "energy": "energy meV",
        "energy_per_atom": "energy meV/atom",
        "forces": "forces meV/Å",
        "stress": "stress meV/Å³",
    }
    shown = {name: title for name, title in titles.items() if any(getattr(table, name) for table in tables.values())}
    rows = [[part, *(_cell(getattr(table, name)) for name in shown)] for part, table in tables.items()]
    if rows:
        print_table("Errors of the best model, MAE / RMSE", ["frames", *shown.values()], rows, quiet)


def _cell(errors: Errors | None) -> str:
    return "-" if errors is None else f"{errors.mae:.2f} / {errors.rmse:.2f}"
