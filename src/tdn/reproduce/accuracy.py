"""A run of the accuracy suite: our network or a peer's, trained to a wall-clock time, tested, and written down.

Everybody gets the same frames, time, threads and precision, and errors are measured by the same code. Test frames are
looked at once, after training.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tdn.bench.results import setting
from tdn.bench.rounds import Worker, WorkerError
from tdn.bench.worker import time_pass
from tdn.data.reference import resolve_reference_energies
from tdn.devices import choose_device
from tdn.errors import TDNError
from tdn.evaluation.evaluate import evaluate
from tdn.evaluation.metrics import ErrorTable, FramePrediction
from tdn.evaluation.tables import tabulate
from tdn.files import write_json
from tdn.graph import AtomGraph
from tdn.modelfile import load_model
from tdn.models.potential import Potential
from tdn.reproduce.contenders import Conditions, Contender, interpreter, run_config
from tdn.reproduce.entries import EntryData, write_frames
from tdn.reproduce.peers import frames as exchange
from tdn.reproduce.suites import Entry
from tdn.structure import Structure
from tdn.training.logs import Reporter
from tdn.training.prepare import binding_shifts
from tdn.training.run import METRICS, SUMMARY, train

RESULT = "result.json"
SECONDS_OF_INFERENCE = 2.0
MOST_POINTS = 100
# Reading, building and testing take time too, whose length is not known before.
SPARE_SECONDS = 3600.0


def run_contender(
    suite: str, entry: Entry, data: EntryData, output: Path, who: Contender, how: Conditions, reporter: Reporter
) -> dict[str, Any]:
    """Train and test one contender on one entry; a result that is there already is not made again.

    Args:
        suite: Name of the suite.
        entry: What to learn and test.
        data: Its frames.
        output: Folder of the suite's results; this one is in `ENTRY/CONTENDER/CONDITIONS/result.json` there.
        who: Whom to train.
        how: Time, seed, threads and the like.
        reporter: Hears what happens.

    Raises:
        TDNError: If training was interrupted or failed; a `WorkerError` if that of a peer did.
    """
    folder = output / entry.name / re.sub(r"[^\w.=,+-]", "_", who.name) / how.label
    if (folder / RESULT).is_file():
        reporter.line(f"{folder / RESULT} is there already")
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))
    reporter.line(f"--- {suite}, {entry.name}: {who.name} for {how.seconds:g} s: {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    found, errors = (_train_ours if who.peer is None else _train_peer)(data, folder, who, how, reporter)
    steps, elapsed = found["steps"], found["elapsed_s"]
    result = {
        "suite": suite, "entry": entry.name, "contender": who.name, "changes": list(who.changes),
        "budget_s": how.seconds, "seed": how.seed, "dtype": how.dtype, "device": str(choose_device(how.device)),
        "frames": data.counts(), "ms_per_step": 1e3 * elapsed / max(steps, 1), **found,
        "blocks": {
            name: {"like_training": entry.blocks[name].like_training, "errors": table.to_dict()}
            for name, table in errors.items()
        },
    }  # fmt: skip
    write_json(folder / RESULT, {**setting(command_of(suite, entry, who, how), how.threads or None), **result})
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def command_of(suite: str, entry: Entry, who: Contender, how: Conditions) -> str:
    """What makes the result again, without the names of folders."""
    chosen = f"--preset {who.preset}"
    if who.peer is not None:
        chosen = f"--peer {who.name} --peer-python {who.peer.package}=PYTHON"
    words = [f"tdn reproduce {suite} --data FOLDER --output FOLDER --entry {entry.name} {chosen} --max-time {how.time}"]
    words += [f"--seed {how.seed} --threads {how.threads} --device {how.device} --dtype {how.dtype}", *who.changes]
    return " ".join(words)


def _train_ours(
    data: EntryData, folder: Path, who: Contender, how: Conditions, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, ErrorTable]]:
    for name in ("train", "valid"):
        write_frames(folder / f"{name}.extxyz", getattr(data, name))
    result = train(run_config(folder, who, how), reporter, resume=True)
    if result.signal is not None:
        raise TDNError(f"Interrupted at step {result.steps}: the same command continues.")
    summary = json.loads((folder / "run" / SUMMARY).read_text(encoding="utf-8"))
    potential = load_model(result.model_path, choose_device(how.device)).eval()
    errors = {name: evaluate(potential, block.structures).overall for name, block in data.blocks.items()}
    first = next(iter(data.blocks.values())).structures[0]
    found = {
        "parameters": summary["num_parameters"], "steps": result.steps, "epochs": summary["epochs"],
        "elapsed_s": result.elapsed, "inference_ms": inference_ms(potential, first), "inference_atoms": len(first),
        "curve": _curve(folder / "run" / METRICS),
        "settings": {"model": summary["network"], "training": summary["training"]},
    }  # fmt: skip
    return found, errors


def inference_ms(potential: Potential, structure: Structure) -> float:
    """Energy and forces of one structure, neighbours made before, not compiled, milliseconds, median."""
    graph = AtomGraph.from_structure(structure, potential.r_max).to(potential.device)
    for _ in range(3):
        potential(graph)
    times = time_pass(lambda: potential(graph).forces, str(potential.device), SECONDS_OF_INFERENCE)
    return float(np.median(times))


def _curve(path: Path) -> list[dict[str, float]]:
    """Validation errors in time, from `metrics.csv`; not every one of a long run."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_POINTS)).round().astype(int))
    return [{name.removeprefix("valid_"): float(value) for name, value in _kept(rows[k])} for k in chosen]


def _kept(row: Mapping[str, str]) -> list[tuple[str, str]]:
    names = ("step", "epoch", "elapsed_s")
    return [(name, value) for name, value in row.items() if value and (name in names or name.startswith("valid_"))]


def _train_peer(
    data: EntryData, folder: Path, who: Contender, how: Conditions, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, ErrorTable]]:
    assert who.peer is not None
    python = interpreter(who.peer, how)
    # In float32 a total of 10^4 eV has no meV left: peers learn what is above the sum of constants of the elements.
    references = resolve_reference_energies("auto", data.train)
    shifts = binding_shifts(data.train, references)
    constants = {z: energy + shifts.get(z, 0.0) for z, energy in references.energies.items()}
    blocks = list(data.blocks.values())
    named = {"train": data.train, "valid": data.valid, **{f"block_{k}": block for k, block in enumerate(blocks)}}
    for name, part in named.items():
        exchange.write(folder / f"{name}.npz", [_frame(structure, constants) for structure in part.structures])
    reporter.line(f"training in {python}; how it goes: {folder / 'train.log'}")
    worker = Worker(python, how.threads, "tdn.reproduce.peers.worker")
    try:
        answer = worker.ask(
            how.seconds + SPARE_SECONDS, builder=who.peer.builder, options=dict(who.peer.options), folder=str(folder),
            blocks=len(blocks), seconds=how.seconds, seed=how.seed, threads=how.threads, dtype=how.dtype,
            device=str(choose_device(how.device)),
        )  # fmt: skip
    except WorkerError as error:
        raise WorkerError(f"{who.name}: {error}") from error
    finally:
        worker.close()
    errors = {
        name: tabulate(block.structures, _predictions(folder / f"predicted_{k}.npz", constants))
        for k, (name, block) in enumerate(data.blocks.items())
    }
    recipe = answer["settings"] | {
        "work": who.peer.work,
        "energies": "above reference energies and a least-squares constant of each element, taken off in float64",
        "schedule": "cosine to the end of the time",
    }
    return {**answer, "settings": recipe, "inference_atoms": len(blocks[0].structures[0])}, errors


def _frame(structure: Structure, constants: Mapping[int, float]) -> exchange.Frame:
    absent = sorted({int(z) for z in structure.numbers} - set(constants))
    if absent:
        raise TDNError(f"No training frame has the elements {absent} (atomic numbers) of {structure.formula}.")
    energy = np.nan if structure.energy is None else structure.energy
    return exchange.Frame(
        structure.numbers,
        structure.positions,
        structure.cell,
        structure.pbc,
        energy - sum(constants[int(z)] for z in structure.numbers),
        np.full((len(structure), 3), np.nan) if structure.forces is None else structure.forces,
        np.full((3, 3), np.nan) if structure.stress is None else structure.stress,
    )


def _predictions(path: Path, constants: Mapping[int, float]) -> list[FramePrediction]:
    return [
        FramePrediction(
            frame.energy + sum(constants[int(z)] for z in frame.numbers),
            frame.forces,
            frame.stress if np.isfinite(frame.stress).all() else None,
        )
        for frame in exchange.read(path)
    ]
