"""`tdn eval`: errors of a trained potential on labelled frames."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdn.cli.calibrate import print_calibration
from tdn.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    choose_dtype,
    print_table,
    set_threads,
    write_json_option,
)
from tdn.cli.longrun import DaskOption, counting_bar, interruptible, open_cluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tdn.data.labels import LabelKeys
    from tdn.data.reading import FrameSet
    from tdn.evaluation import Errors, ErrorTable, Evaluation, FramePrediction
    from tdn.evaluation.breakdown import Breakdown
    from tdn.evaluation.sharded import EvaluationJob
    from tdn.evaluation.uncertainty import Calibrated
    from tdn.models.potential import Potential
    from tdn.report import Report
    from tdn.simulation.cluster import Cluster
    from tdn.structure import Structure

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EPILOG = """Examples:

tdn eval model.tdn test.extxyz

tdn eval model.tdn test.extxyz --output evaluation --json errors.json

tdn eval model.tdn 'frames-*.extxyz' --energy-key dft_energy --forces-key dft_forces

tdn eval model.tdn val_id/ --metrics s2ef

tdn eval model.tdn million/ --output evaluation --shard 3/8    # one of eight workers, then --resume

tdn eval model.tdn million/ --output evaluation --dask scheduler.json"""

UNITS = {"energy": "meV", "energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}


@app.command(name="eval", epilog=EPILOG)
def evaluate_files(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    data: Annotated[list[str], typer.Argument(help="Labelled frames: files or glob patterns.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for report, parity plots, predictions and errors.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Also write the frames with TDN_* predictions to this extxyz file."),
    ] = None,
    energy_key: Annotated[str, typer.Option("--energy-key", help="Name of the energies, or none.")] = "auto",
    forces_key: Annotated[str, typer.Option("--forces-key", help="Name of the forces, or none.")] = "auto",
    stress_key: Annotated[str, typer.Option("--stress-key", help="Name of the stress or virials, or none.")] = "auto",
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Also those of an Open Catalyst task: s2ef, is2re or is2rs.")
    ] = None,
    relaxed: Annotated[
        list[str] | None,
        typer.Option("--relaxed", help="is2rs: relaxed structures in the order of DATA; LMDBs bring their own."),
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", help="Also group errors by this key of the frames; may be repeated.")
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", help="Predict part i/n only, as one of n workers; --resume without it collects.")
    ] = "",
    dask: DaskOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is predicted in OUTPUT.journal, and continue from there.")
    ] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    seed: SeedOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Errors of a model on labelled frames: energy, forces, stress; per element and per config_type."""
    import torch

    from tdn.data.labels import LabelKeys
    from tdn.data.reading import read_frames
    from tdn.devices import choose_device
    from tdn.evaluation import write_predictions
    from tdn.evaluation.breakdown import break_down
    from tdn.evaluation.sharded import EvaluationJob
    from tdn.evaluation.tables import check_key
    from tdn.evaluation.uncertainty import measure_calibration
    from tdn.modelfile import load_model

    set_threads(threads)
    torch.manual_seed(seed)
    potential = load_model(model, choose_device(device if dask is None else "cpu"), choose_dtype(dtype))
    keys = LabelKeys(energy_key, forces_key, stress_key)
    frames = read_frames(data, keys, required=(), allow_partial=True)
    if not quiet and str(json) != "-":
        typer.echo(f"{frames.source}: {frames.report}", err=True)
    for key in by or ():
        check_key(frames.sample().structures, key)
    _check_task(metrics)
    kept = shard or resume or dask is not None
    job = EvaluationJob.open(potential, frames, model, output, shard, resume or dask is not None) if kept else None
    if job is not None:
        workers = open_cluster(dask, model, device, dtype, threads) if dask is not None else nullcontext()
        _predict(job, workers, f"the same command {'' if shard else 'with --resume '}continues {output}", quiet)
    if job is not None and shard:
        done = f"shard done; {job.finished} of {len(frames)} frames are predicted. When all are, the same command"
        typer.echo(f"{done} with --resume instead of --shard writes the output.", err=True)
        return
    evaluation, found = _evaluate(potential, frames, metrics, relaxed, data, job)
    breakdown = break_down(evaluation, by or ())
    calibration = measure_calibration(potential, evaluation)
    _print_all(evaluation, breakdown, calibration, quiet or str(json) == "-")
    if found is not None:
        print_table(
            f"\n{metrics}, as published", ["metric", "value"], [(n, f"{v:.6g}") for n, v in found.items()], quiet
        )
    if predictions is not None:
        write_predictions(predictions, evaluation)
        if len(evaluation.structures) < len(frames):
            typer.echo(f"{predictions}: {len(evaluation.structures)} of {len(frames)} frames, evenly spread", err=True)
    if output is not None:
        write_folder(output, _report(evaluation, frames, model, data, keys, tuple(by or ()), calibration))
        if not quiet:
            typer.echo(f"report: {output / 'report.html'}", err=True)
    content = {**evaluation.to_dict(), **breakdown.to_dict()}
    content |= {} if found is None else {"metrics": {metrics: found}}
    content |= {"uncertainty": {part.quantity: part.to_dict() for part in calibration}} if calibration else {}
    write_json_option(json, content)
    if job is not None:
        job.close()


def _check_task(task: str | None) -> None:
    """Refuse a task of Open Catalyst that there is not, before anything is predicted.

    Raises:
        ConfigError: Naming those that there are.
    """
    from tdn.errors import ConfigError
    from tdn.evaluation.catalysis import PRIMARY_METRICS

    if task is not None and task not in PRIMARY_METRICS:
        raise ConfigError(f"--metrics must be one of {', '.join(PRIMARY_METRICS)}, got {task!r}.")


def _predict(job: EvaluationJob, workers: AbstractContextManager[Cluster | None], advice: str, quiet: bool) -> None:
    """This worker's predictions, noted as they come; `advice` is how to go on after an interruption."""
    with (
        interruptible(advice),
        workers as cluster,
        counting_bar("predicting", len(job.frames), quiet) as show,
    ):
        job.run(cluster, lambda finished: show(finished, ""))


def _print_all(evaluation: Evaluation, breakdown: Breakdown, calibration: Sequence[Calibrated], quiet: bool) -> None:
    print_errors(evaluation, quiet)
    print_breakdown(breakdown, quiet)
    print_calibration(calibration, "\nUncertainties beside errors", quiet)


def _evaluate(
    potential: Potential,
    frames: FrameSet,
    task: str | None,
    relaxed: list[str] | None,
    data: list[str],
    job: EvaluationJob | None,
) -> tuple[Evaluation, dict[str, float] | None]:
    """Errors, and metrics of an Open Catalyst task, in eV, eV/Å, Å and fractions, if one is asked for."""
    from tdn.evaluation import evaluate
    from tdn.evaluation.catalysis import TaskMetrics

    references = _relaxed(relaxed, data) if task == "is2rs" else None
    whole = partial(evaluate, potential, frames.structures, origins=frames.origins)
    measure = whole if job is None else job.collect
    if task is None or references is not None:
        return measure(), None if references is None else _relax(potential, frames, references)
    sums = TaskMetrics(task)

    def observe(structures: Sequence[Structure], predictions: Sequence[FramePrediction]) -> None:
        sums.add(structures, [p.energy for p in predictions], [p.forces for p in predictions])

    return measure(observe=observe), sums.result()


def _relaxed(named: list[str] | None, data: list[str]) -> FrameSet:
    """Structures relaxed by DFT: those that are named, or those in the LMDBs of the initial ones.

    Raises:
        DataError: If they have to be named, or those that are named are not relaxed.
    """
    from tdn.data.formats import expand_paths
    from tdn.data.ocp import OCPOptions
    from tdn.data.reading import read_frames
    from tdn.data.store import FrameStore, is_store
    from tdn.errors import DataError

    stores = [FrameStore(path.partition("::")[0]) for path in named or data if is_store(path)]
    wrong = next((store for store in stores if store.index["source"].get("geometry") == "initial"), None)
    if wrong is not None or not (named or all(path.suffix == ".lmdb" for path in expand_paths(data))):
        raise DataError(
            f"{wrong.path if wrong else data[0]} has no relaxed structures: name these with --relaxed, as LMDBs, as a "
            "frame store made by tdn data convert --option geometry=relaxed, or as other files."
        )
    return read_frames(named or data, required=(), allow_partial=True, ocp=OCPOptions(geometry="relaxed"))


def _relax(potential: Potential, frames: FrameSet, references: FrameSet) -> dict[str, float]:
    from tdn.evaluation.is2rs import measure_relaxations, relax_structures

    return measure_relaxations(relax_structures(potential, frames.structures), references.structures)


def print_errors(evaluation: Evaluation, quiet: bool = False) -> None:
    """The tables for people: all frames, forces per element, and per `config_type`."""
    overall = evaluation.overall
    quantities = {name: getattr(overall, name) for name in UNITS}
    rows = [
        [name.replace("_", " "), *_cells(errors), f"{errors.max:.2f}", str(errors.count), UNITS[name]]
        for name, errors in quantities.items()
        if errors is not None
    ]
    if overall.force_vector_rmse is not None:
        labelled = str(sum(s.forces is not None for s in evaluation.structures))
        frames = labelled if len(evaluation.structures) == overall.frames else "-"
        rows.append(["force vectors of a frame", "-", f"{overall.force_vector_rmse:.2f}", "-", frames, "meV/Å"])
    title = f"{overall.frames} frames, {overall.atoms} atoms"
    print_table(title, ["quantity", "MAE", "RMSE", "largest", "values", "unit"], rows, quiet)
    if not rows and not quiet:
        typer.echo("The frames have no labels: nothing to compare with.", err=True)
    elements = [
        [symbol, *_cells(errors), f"{errors.relative_rmse_percent or 0.0:.1f}", str(errors.count)]
        for symbol, errors in evaluation.per_element.items()
    ]
    if elements:
        columns = ["element", "MAE", "RMSE", "relative RMSE %", "components"]
        print_table("\nForces per element, meV/Å", columns, elements, quiet)
    print_groups("config_type", evaluation.per_config_type, quiet)


def print_groups(key: str, tables: Mapping[str, ErrorTable], quiet: bool) -> None:
    """Errors by the values of a key, if there are any."""
    rows = [
        [name, str(table.frames), *_cells(table.energy_per_atom), *_cells(table.forces), *_cells(table.stress)]
        for name, table in tables.items()
    ]
    if rows:
        columns = [key, "frames", *(f"{q} {m}" for q in ("E/atom", "F", "stress") for m in ("MAE", "RMSE"))]
        width = len(columns) if any(table.stress is not None for table in tables.values()) else len(columns) - 2
        print_table(f"\nPer {key}, meV/atom and meV/Å", columns[:width], [row[:width] for row in rows], quiet)


def print_breakdown(breakdown: Breakdown, quiet: bool) -> None:
    """Force errors by magnitude, and errors by the keys that were asked for."""
    rows = [
        [c.label, *_cells(c.forces), str(c.atoms), f"{100 * c.share_of_atoms:.1f}", f"{100 * c.share_of_error:.1f}"]
        for c in breakdown.force_classes
    ]
    if rows:
        columns = ["|F|, eV/Å", "MAE", "RMSE", "atoms", "of atoms %", "of squared error %"]
        print_table("\nForces by magnitude of the reference, meV/Å", columns, rows, quiet)
    for key, tables in breakdown.groups.items():
        print_groups(key, tables, quiet)


def _report(
    evaluation: Evaluation,
    frames: FrameSet,
    model: Path,
    data: list[str],
    keys: LabelKeys,
    by: tuple[str, ...],
    calibration: tuple[Calibrated, ...],
) -> Report:
    """Content of the page about an evaluation."""
    from tdn.modelfile import load_model, read_header
    from tdn.report import Report
    from tdn.report.model import data_rows, factor_tables, model_rows, provenance_rows
    from tdn.report.training import evaluation_times

    potential, metadata = load_model(model), read_header(model)["metadata"]
    names = " ".join(Path(name).name for name in data)
    chosen = [f" --{q}-key {k}" for q, k in vars(keys).items() if k != "auto"]
    return Report(
        title=f"{model.name} on {names}",
        lead="Errors of a trained potential on labelled frames.",
        model=model_rows(potential),
        data=data_rows(metadata),
        evaluation=evaluation,
        evaluated_on="given",
        origins=frames.origins if len(frames) == len(evaluation.structures) else None,
        group_by=by,
        calibration=calibration,
        tables=factor_tables(potential),
        timing=evaluation_times(evaluation.to_dict()["timing"]),
        provenance=provenance_rows(metadata),
        commands=(f"tdn eval {model.name} {names}{''.join(chosen)}{''.join(f' --by {key}' for key in by)}",),
    )


def write_folder(output: Path, report: Report) -> None:
    """Everything about an evaluation: report, parity plots, predictions and errors."""
    from tdn.evaluation import write_predictions
    from tdn.files import write_json
    from tdn.report import figures, write_report

    evaluation = report.evaluation
    if evaluation is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    if evaluation.overall.energy is not None:
        figures.save_png(figures.parity_energy(evaluation), output / "parity_energy.png")
    if evaluation.overall.forces is not None:
        figures.save_png(figures.parity_forces(evaluation), output / "parity_forces.png")
    write_predictions(output / "predictions.extxyz", evaluation)
    write_json(output / "errors.json", evaluation.to_dict())
    write_report(output / "report.html", report)


def _cells(errors: Errors | None) -> list[str]:
    return ["-", "-"] if errors is None else [f"{errors.mae:.2f}", f"{errors.rmse:.2f}"]
