"""`tdn calibrate`: uncertainties for a trained model, stored in its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdn.cli.common import (
    DeviceOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    print_table,
    set_threads,
    write_json_option,
)

if TYPE_CHECKING:
    from tdn.evaluation.uncertainty import Calibrated
    from tdn.structure import Structure

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

UNITS = {"energy": "meV", "forces": "meV/Å"}


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="Model file, as `tdn train` writes it.")],
    train: Annotated[
        list[str] | None, typer.Option("--train", help="Training frames; those of the model's run folder if left out.")
    ] = None,
    valid: Annotated[
        list[str] | None, typer.Option("--valid", help="Frames that the model was not trained on; likewise.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Model file to write; replaces MODEL if left out.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Fit the uncertainty of a model's last layer to its training data and calibrate it on held-out frames.

    The weights stay as they are. Calculators then give `energy_uncertainty` and, if asked, `forces_uncertainty`.
    """
    from tdn.devices import choose_device
    from tdn.evaluation.evaluate import evaluate
    from tdn.evaluation.uncertainty import fit_posterior, measure_calibration
    from tdn.modelfile import load_model, read_header, save_model

    set_threads(threads)
    metadata = read_header(model)["metadata"]
    frames, held_out = _frames(model, train, valid)
    potential = load_model(model, choose_device(device))
    training = metadata.get("training", {})
    weights = {name: training[name] for name in ("energy_weight", "forces_weight") if name in training}
    if training.get("energy_weight_final") is not None:
        weights["energy_weight"] = training["energy_weight_final"]
    potential.uncertainty = fit_posterior(potential, frames, held_out, **weights)
    save_model(output or model, potential, metadata)
    calibration = measure_calibration(potential, evaluate(potential, held_out))
    print_calibration(calibration, f"{output or model}: held-out frames", quiet)
    write_json_option(json, {part.quantity: part.to_dict() for part in calibration})


def print_calibration(calibration: Sequence[Calibrated], title: str, quiet: bool) -> None:
    """Predicted standard deviations beside errors, as a table; nothing if there are none."""
    rows = []
    for part in calibration:
        found = part.to_dict()
        rows.append(
            [
                f"{part.quantity}, {UNITS[part.quantity]}", f"{1e3 * found['rms_predicted']:.2f}",
                f"{1e3 * found['rms_error']:.2f}", f"{found['z_rms']:.2f}", f"{100 * found['within_1_sigma']:.0f} %",
                f"{100 * found['within_2_sigma']:.0f} %", f"{found['rank_correlation']:.2f}", str(found["count"]),
            ]
        )  # fmt: skip
    columns = ["uncertainty", "predicted", "error", "z", "≤ σ", "≤ 2σ", "rank", "values"]
    if rows:
        print_table(title, columns, rows, quiet)


def _frames(model: Path, train: list[str] | None, valid: list[str] | None) -> tuple[list[Structure], list[Structure]]:
    """Training and held-out frames: the files named, or those of the run that made the model."""
    from tdn.data.reading import read_frames
    from tdn.errors import ConfigError
    from tdn.training.config import RunConfig, read_yaml
    from tdn.training.prepare import prepare
    from tdn.training.run import CONFIG

    if train and valid:
        return [list(read_frames(files, allow_partial=True).structures) for files in (train, valid)]  # type: ignore[return-value]
    if train or valid:
        raise ConfigError("Name both --train and --valid, or neither for those of the model's run folder.")
    config = model.parent / CONFIG
    if not config.is_file():
        raise ConfigError(f"There is no {CONFIG} beside {model}: name the frames with --train and --valid.")
    problem = prepare(RunConfig.parse(read_yaml(config), str(config)), lambda _: None, lambda _: None)
    if "valid" not in problem.frames:
        raise ConfigError("The run held out no frames: name some that it was not trained on, with --train and --valid.")
    return list(problem.frames["train"].structures), list(problem.frames["valid"].structures)
