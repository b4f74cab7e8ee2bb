"""`train`: one run from its configuration to its folder. Reads top to bottom like the run itself."""

from __future__ import annotations

import datetime
import os
import platform
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tdn.errors import ConfigError
from tdn.evaluation.evaluate import Evaluation, evaluate
from tdn.evaluation.metrics import ErrorTable
from tdn.files import atomic_write, write_json
from tdn.modelfile import save_model
from tdn.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from tdn.training.config import CHANGEABLE, DataConfig, RunConfig, differences, read_yaml, write_config
from tdn.training.distributed import Processes, join_processes
from tdn.training.logs import LogFile, MetricsLog, Reporter, clock
from tdn.training.loop import Outputs, fit
from tdn.training.loss import ErrorSums
from tdn.training.optimisation import make_optimizer
from tdn.training.prepare import Problem, prepare
from tdn.training.start import freeze, with_model_of_start
from tdn.version import __version__

MODEL, CONFIG, METRICS, SUMMARY = "model.tdn", "config.yaml", "metrics.csv", "summary.json"
LOG, CHECKPOINT, REPORT = "train.log", "checkpoint.safetensors", "report.html"
RUN_FILES = (MODEL, CONFIG, METRICS, SUMMARY, LOG, CHECKPOINT, REPORT)


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run.

    Attributes:
        model_path: The best model, ready to load.
        steps: Optimiser steps done.
        elapsed: Seconds of training.
        evaluations: Of the best model on the `valid` and `test` frames, as far as there are any; empty if interrupted.
        signal: What interrupted the run; None if it is complete.
        origins: Name of each frame of `evaluations`, by part.
    """

    model_path: Path
    steps: int
    elapsed: float
    evaluations: Mapping[str, Evaluation]
    signal: int | None = None
    origins: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, ErrorTable]:
        """The errors of `evaluations`."""
        return {name: evaluation.overall for name, evaluation in self.evaluations.items()}


def train(
    config: RunConfig, progress: Reporter | None = None, *, resume: bool = False, overwrite: bool = False
) -> TrainingResult:
    """Train a potential.

    Everything goes to the folder `config.output`: `model.tdn` (best weights), `config.yaml` (every key),
    `metrics.csv`, `summary.json`, `train.log` and `checkpoint.safetensors`.

    Args:
        config: The run.
        progress: Hears what happens; silent if None.
        resume: Continue the run in that folder if there is one. On a CPU, with a limit of steps or epochs, the final
            weights have the same bits as those of a run that was never interrupted.
        overwrite: Remove the run in that folder first.

    Raises:
        TDNError: If configuration or data cannot be used, the folder holds another run, or training diverges.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    config = with_model_of_start(config.model_copy(update={"data": _absolute(config.data)}))
    with join_processes(config.device) as (processes, device):
        folder = Path(config.output)
        if processes.is_first:
            open_folder(folder, config, resume, overwrite)
        processes.barrier()
        reporter = LogFile(folder / LOG, progress or Reporter()) if processes.is_first else Reporter()
        try:
            return _run(config, folder, processes, device, reporter)
        finally:
            reporter.close()


def _run(
    config: RunConfig, folder: Path, processes: Processes, device: torch.device, reporter: Reporter
) -> TrainingResult:
    problem = prepare(config, reporter.line, reporter.warning)
    potential, averaged = problem.fresh_potential(device).train(), problem.fresh_potential(device).eval()
    frozen = freeze(potential, config.start.freeze) if config.start is not None else 0
    state = TrainingState(potential, averaged, make_optimizer(config.training, potential))
    size = sum(p.numel() for p in potential.parameters())
    where = f"{device}, {config.dtype}, {torch.get_num_threads()} threads, {processes.world_size} processes"
    reporter.line(f"network of {size} parameters" + (f", {frozen} of them frozen," if frozen else "") + f" on {where}")

    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        load_checkpoint(checkpoint, state, problem.fingerprint)
        reporter.line(f"resumed at step {state.step}, after {clock(state.elapsed)} of training")
    processes.broadcast([*potential.parameters(), *averaged.parameters()])
    # Validation is a small part of the time: compiling the averaged weights' evaluation would not pay.
    if config.training.compiles:
        reporter.line("compiling, which may take some minutes the first time (training.compile=false does without)")
        potential.compile()

    metrics = MetricsLog(folder, state.history, config.training, reporter) if processes.is_first else None
    outputs = Outputs(
        reporter=reporter,
        add_row=metrics.add if metrics else _ignore,
        save=lambda: save_checkpoint(checkpoint, state, problem.fingerprint),
        improved=lambda: save_averaged(folder / MODEL, state, problem, config, {}) if processes.is_first else None,
    )
    try:
        number = fit(state, problem, config.training, processes, outputs)
    finally:
        if metrics:
            metrics.close()
    result = TrainingResult(folder / MODEL, state.step, state.elapsed, {}, number)
    if not processes.is_first:
        return result
    if number is not None:
        reporter.warning(
            f"interrupted by {signal.Signals(number).name} at step {state.step}; continue with: "
            f"tdn train --resume --output {folder}"
        )
        return result
    return _finish(result, state, problem, config, reporter)


def _finish(
    result: TrainingResult, state: TrainingState, problem: Problem, config: RunConfig, reporter: Reporter
) -> TrainingResult:
    """Best model, test errors and summary; doing it twice gives the same."""
    why = "stopped early" if state.stopped_early else "done"
    pace = f"{1e3 * state.elapsed / max(state.step, 1):.0f} ms a step, validation included"
    reporter.line(f"{why}: {state.step} steps in {clock(state.elapsed)} ({pace}); best at step {state.best_step}")
    state.averaged.load_state_dict(state.best or state.averaged.state_dict())
    evaluations = {}
    for name, part in problem.frames.items():
        if name != "train":
            evaluations[name] = evaluate(state.averaged, part.structures, origins=part.origins)
            reporter.line(f"{name}: {_describe(evaluations[name].overall)}")
    result = replace(
        result, evaluations=evaluations, origins={name: problem.frames[name].origins for name in evaluations}
    )
    save_averaged(result.model_path, state, problem, config, result.errors)
    write_json(
        Path(config.output) / SUMMARY,
        {
            "model": MODEL,
            "steps": state.step,
            "epochs": state.epoch,
            "elapsed_s": state.elapsed,
            "seconds_per_step": state.elapsed / max(state.step, 1),
            "best_step": state.best_step,
            "stopped_early": state.stopped_early,
            "errors": {name: table.to_dict() for name, table in result.errors.items()},
            "network": problem.model.model_dump(mode="json"),
            "num_parameters": sum(p.numel() for p in state.potential.parameters()),
            **describe_run(problem, config),
        },
    )
    reporter.line(f"model: {result.model_path}")
    return result


def open_folder(folder: Path, config: RunConfig, resume: bool, overwrite: bool) -> None:
    """Make the run folder, or check that the run in it may be continued or removed; then write `config.yaml`.

    Raises:
        ConfigError: If there is another run, or the configuration differs in what a continuation may not change.
    """
    if resume and overwrite:
        raise ConfigError("Choose one of --resume and --overwrite.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"The output {folder} is a file: name a folder.")
    # A run that stopped at a wrong file name has left no more than its configuration and its log.
    occupied = folder.is_dir() and any(path.name not in (CONFIG, LOG) for path in folder.iterdir())
    if occupied and not resume and not overwrite:
        raise ConfigError(
            f"The output folder {folder} is not empty: --resume continues the run in it, --overwrite removes that run, "
            "or name another --output."
        )
    for name in () if resume else RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    if resume and (folder / CHECKPOINT).is_file():
        old = RunConfig.parse(read_yaml(folder / CONFIG), str(folder / CONFIG))
        changed = [key for key in differences(old, config) if key not in CHANGEABLE]
        if changed:
            raise ConfigError(
                f"The run in {folder} was started with other values of {', '.join(changed)}: --resume continues it as "
                "it was. Leave them out, or start a new run in another folder."
            )
    # Left behind by kills while a file was being written.
    for name in RUN_FILES if folder.is_dir() else ():
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)
    try:
        with atomic_write(folder / CONFIG) as temporary:
            temporary.write_text(write_config(config), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The output folder {folder} cannot be written ({error.strerror}): name another.") from error


def save_averaged(
    path: Path, state: TrainingState, problem: Problem, config: RunConfig, errors: Mapping[str, ErrorTable]
) -> None:
    """Write the averaged weights, which are the best ones when this is called, as a model file.

    Args:
        path: Destination.
        state: Where the run stands.
        problem: What was learnt.
        config: How.
        errors: On `valid` and `test` frames; while training goes on, those of the last validation stand in.
    """
    found = {name: _columns(table) for name, table in errors.items()} or {"valid": _validation(state.history[-1])}
    progress = {"step": state.best_step, "wall_time_s": state.elapsed}
    save_model(path, state.averaged, {**describe_run(problem, config), **progress, **found})


def describe_run(problem: Problem, config: RunConfig) -> dict[str, Any]:
    """Where a model comes from: data with fingerprints and label choices, versions, seed."""
    from ase.data import chemical_symbols

    data = {
        name: {
            "files": [os.path.basename(file) for file in part.source.split(", ")],
            "sha256": part.fingerprint,
            "num_frames": len(part),
            "labels": str(part.report),
        }
        for name, part in problem.frames.items()
    }
    return {
        "data": data,
        "elements": [chemical_symbols[z] for z in problem.references.energies],
        "reference_energies": str(problem.references),
        "num_frames": len(problem.train),
        "shortest_distances": problem.train.shortest_distances,
        "training": config.training.model_dump(mode="json"),
        "seed": config.seed,
        "dtype": config.dtype,
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"tdn": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _describe(table: ErrorTable) -> str:
    """MAE / RMSE of what has labels, on one line."""
    units = {"energy": "meV", "energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
    found = {name: getattr(table, name) for name in units}
    parts = [f"{name} {e.mae:.2f} / {e.rmse:.2f} {units[name]}" for name, e in found.items() if e is not None]
    return "MAE / RMSE " + ", ".join(parts).replace("_", " ")


def _columns(table: ErrorTable) -> dict[str, float]:
    """MAE and RMSE under the names that `metrics.csv` has for them."""
    names = zip(ErrorSums.QUANTITIES, ErrorSums.COLUMNS, strict=True)
    found = [(column, getattr(table, quantity)) for quantity, column in names]
    columns = {
        column.format(measure): getattr(errors, measure)
        for column, errors in found
        if errors is not None
        for measure in ("mae", "rmse")
    }
    if table.force_vector_rmse is not None:
        columns[ErrorSums.VECTOR_RMSE] = table.force_vector_rmse
    return columns


def _validation(row: Mapping[str, Any]) -> dict[str, Any]:
    """Validation errors in a row of `metrics.csv`, names without `valid_`."""
    return {name.removeprefix("valid_"): value for name, value in row.items() if name.startswith("valid_")}


def _absolute(data: DataConfig) -> DataConfig:
    """The same files from any working directory, so that a run can be resumed from another one."""

    def absolute(value: Any) -> Any:
        if isinstance(value, str):
            return os.path.abspath(value)
        return [os.path.abspath(name) for name in value] if isinstance(value, list) else value

    content: dict[str, Any] = {name: absolute(getattr(data, name)) for name in ("train", "valid", "test")}
    if isinstance(data.reference_energies, str) and data.reference_energies.endswith(".npz"):
        content["reference_energies"] = absolute(data.reference_energies)
    content["ocp"] = data.ocp.model_copy(update={"oc20_ref": absolute(data.ocp.oc20_ref)})
    return data.model_copy(update=content)


def _ignore(_: Any) -> None:
    """Take a row on a process that writes nothing."""
