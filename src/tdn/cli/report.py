"""`tdn report`: the page about a training run, made anew, with more in it than training writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdn.cli.common import DeviceOption, JsonOption, QuietOption, ThreadsOption, set_threads, write_json_option

if TYPE_CHECKING:
    from tdn.data.reading import FrameSet

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

tdn report run

tdn report run --compare older-run --compare another/model.tdn

tdn report run --data liquid.extxyz --by temperature --output liquid.html"""


@app.command(epilog=EPILOG)
def report(
    run: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of a training run, finished or not.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Labelled frames; the run's test frames, else validation frames, if left out."),
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option("--compare", help="Another run folder or model file; may be repeated.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", help="Also group errors by this key of the frames; may be repeated.")
    ] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="Frames with the largest errors that are drawn.")] = 6,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file to write; report.html in RUN if left out.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write a page about a run: errors and where they are, advice, worst frames, learning curves, comparison."""
    import dataclasses

    from tdn.devices import choose_device
    from tdn.evaluation.tables import check_key
    from tdn.report import write_report
    from tdn.report.advice import advise
    from tdn.report.comparison import model_path
    from tdn.report.training import REPORT, training_report

    set_threads(threads)
    for path in (run, *(compare or ())):
        model_path(path)
    part, frames = _frames(run, data)
    for key in by or ():
        check_key(frames.sample().structures, key)
    content = training_report(
        run, frames.structures, part, origins=frames.origins, group_by=by or (), others=compare or (),
        device=choose_device(device),
    )  # fmt: skip
    content = dataclasses.replace(content, num_worst=worst)
    path = output or run / REPORT
    write_report(path, content)
    advice = advise(content)
    if not quiet and str(json) != "-":
        for sentence in advice:
            typer.echo(f"- {sentence}")
        typer.echo(f"report: {path}", err=True)
    assert content.evaluation is not None
    assert content.breakdown is not None
    write_json_option(
        json,
        {
            **content.evaluation.to_dict(),
            **content.breakdown.to_dict(),
            "advice": advice,
            "comparison": [model.to_dict() for model in content.comparison],
        },
    )


def _frames(run: Path, data: list[str] | None) -> tuple[str, FrameSet]:
    """What the frames are, and the frames: those that are named, or those that the run held out."""
    from tdn.data.reading import read_frames
    from tdn.errors import ConfigError
    from tdn.training.config import RunConfig, read_yaml
    from tdn.training.prepare import label_keys, read_parts
    from tdn.training.run import CONFIG

    file = run / CONFIG
    config = RunConfig.parse(read_yaml(file), str(file)) if file.is_file() else None
    if data:
        keys = label_keys(config.data) if config is not None else None
        return "given", read_frames(data, keys, required=(), allow_partial=True)
    if config is None:
        raise ConfigError(f"{run} is not the folder of a training run, it has no {CONFIG}: name frames with --data.")
    parts = read_parts(config, lambda _: None)
    for name, title in (("test", "test"), ("valid", "validation")):
        if name in parts:
            return title, parts[name]
    raise ConfigError("The run held out no frames: name labelled ones that it was not trained on with --data.")
