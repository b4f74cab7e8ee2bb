"""What matters: the network and its training with one thing changed at a time, on a few frames of one molecule.

    TDN_DATA=FOLDER python benchmarks/ablation.py --molecule ethanol --steps 8000 --seeds 0 1
    python benchmarks/ablation.py --variants base,lmax-3 --override "lr=0.02 batch_size=2" --json mine.json

Every variant of `VARIANTS` takes the same number of steps, on one thread, on the same frames of a *training* file of
rMD17; other frames of that file judge, never those of the test file. The JSON is written after every run, and the same
command goes on where it ends. So few frames and steps compare variants; none is trained to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import forms
import numpy as np
import torch
from common import mean_over_seeds, write_result

from tdn import load_config, load_model, train
from tdn.data.reading import FrameSet, read_frames
from tdn.errors import TDNError
from tdn.evaluation.evaluate import evaluate
from tdn.evaluation.metrics import ErrorTable
from tdn.report.model import describe_machine
from tdn.reproduce.entries import data_folder, write_frames
from tdn.training.logs import Reporter

RESULTS = Path(__file__).parent / "results"
SHUFFLE_SEED = 7  # never that of a run: all runs see the same frames

VARIANTS = {
    "base": "",
    # the network
    "lmax-1": "lmax=1",
    "lmax-3": "lmax=3",
    "lmax-4": "lmax=4",
    "channels-32": "num_channels=32",
    "channels-128": "num_channels=128",
    "layers-1": "num_layers=1",
    "layers-3": "num_layers=3",
    "order-1": "product_order=1",
    "order-2": "product_order=2",
    "order-4": "product_order=4",
    "one-radial-weight": "weight_per_degree=false",
    "shared-linear": "shared_linear=true",
    "all-paths": "parity=all",
    **{name: f"form={name}" for name in forms.FORMS if name not in ("fitted-factors", "hidden-vectors")},
    "hidden-vectors": "lmax=3 form=hidden-vectors",
    "fitted-factors": "form=fitted-factors parity=all",
    "zbl": "zbl=true",
    "cutoff-4": "r_max=4",
    "cutoff-6": "r_max=6",
    "bessel-4": "num_radial_basis=4",
    "bessel-16": "num_radial_basis=16",
    "radial-linear": "radial_hidden=[]",
    "radial-16": "radial_hidden=[16]",
    "radial-128": "radial_hidden=[128,128]",
    "no-knots": "radial_knots=null",
    "knots-32": "radial_knots=32",
    # sizes, each with a learning rate of its own
    "channels-128-lr-0.015": "num_channels=128 lr=0.015",
    "medium": "preset=medium",
    "large": "preset=large",
    # the loss
    "mse": "loss=mse",
    "norms": "loss=l1",
    "huber-0.01": "huber_delta=0.01",
    "huber-1": "huber_delta=1",
    "energy-1": "energy_weight=1",
    "energy-10": "energy_weight=10",
    "energy-100": "energy_weight=100",
    "stage-two-100": "energy_weight_final=100",
    "stage-two-1000": "energy_weight_final=1000",
    # the optimiser
    "adamw": "optimizer=adamw",
    "adamw-lr-0.03": "optimizer=adamw lr=0.03",
    "medium-adamw-lr-0.015": "preset=medium optimizer=adamw lr=0.015",
    "lr-0.003": "lr=0.003",
    "lr-0.01": "lr=0.01",
    "lr-0.04": "lr=0.04",
    "batch-1": "batch_size=1",
    "batch-2": "batch_size=2",
    "batch-10": "batch_size=10",
    "decay-0.01": "weight_decay=0.01",
    "decay-0.1": "weight_decay=0.1",
    "average-0": "ema_decay=0",
    "average-0.999": "ema_decay=0.999",
    "amsgrad": "amsgrad=true",
    "betas-0.999": "betas=[0.9,0.999]",
    "clip-1": "clip_grad=1",
    "constant-lr": "schedule=constant",
    "float64": "dtype=float64",
}
"""Name -> overrides of the default configuration, as for `tdn train`; `form=` names one of `forms.py`."""


class CPUClock(Reporter):
    """Notes the processor time of this process over a run, so that the pace does not depend on other jobs."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []

    def progress(self, fraction: float, elapsed: float, text: str) -> None:
        """Note the share of the run that is done, and the time."""
        self._marks.append((fraction, time.process_time()))

    def ms_per_step(self, steps: int) -> float | None:
        """Validation included, compiling not: over the last nine tenths of the run."""
        marks = [mark for mark in self._marks if mark[0] >= 0.1]
        if len(marks) < 2:
            return None
        (start, first), (end, last) = marks[0], marks[-1]
        return round(1e3 * (last - first) / ((end - start) * steps), 2)


def choose_frames(file: Path, num_train: int, num_valid: int) -> dict[str, FrameSet]:
    """Training and validation frames: the beginning and the end of one shuffled order."""
    frames = read_frames(file)
    if num_train + num_valid > len(frames):
        raise SystemExit(f"{file.name} has {len(frames)} frames: too few for {num_train} + {num_valid}.")
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(frames)).tolist()
    return {"train": frames.select(order[:num_train]), "valid": frames.select(order[len(order) - num_valid :])}


def run(parts: Mapping[str, FrameSet], settings: Sequence[str], steps: int) -> dict[str, Any]:
    """Train on the frames and measure the best weights on both parts."""
    clock = CPUClock()
    settings, form = split_form(settings)
    with forms.use(form), tempfile.TemporaryDirectory() as folder:
        for name, frames in parts.items():
            write_frames(Path(folder) / f"{name}.extxyz", frames)
        files = [f"{name}={folder}/{name}.extxyz" for name in parts]
        plain = [f"output={folder}/run", f"max_steps={steps}", "threads=1", "device=cpu", "tensorboard=false"]
        try:
            result = train(load_config(None, [*files, *plain, *settings]), clock)
        except TDNError as error:
            return {"failed": str(error).splitlines()[0]}
        if result.signal is not None:
            raise SystemExit("interrupted: the same command goes on")
        potential = load_model(result.model_path)
        trained = evaluate(potential, parts["train"].structures).overall
    return {
        "parameters": sum(p.numel() for p in potential.parameters()),
        "steps": result.steps,
        "cpu_ms_per_step": clock.ms_per_step(result.steps),
        **errors_of(result.errors["valid"], "valid_"),
        **errors_of(trained, "train_"),
    }


def split_form(settings: Sequence[str]) -> tuple[list[str], str | None]:
    """Overrides of the configuration, and the form of the network, if one is named."""
    named = [text.removeprefix("form=") for text in settings if text.startswith("form=")]
    if unknown := set(named) - set(forms.FORMS):
        raise SystemExit(f"No form {', '.join(unknown)}; there are {', '.join(forms.FORMS)}.")
    return [text for text in settings if not text.startswith("form=")], named[-1] if named else None


def errors_of(table: ErrorTable, prefix: str) -> dict[str, float]:
    """MAE and RMSE of energies, meV, and force components, meV/Å."""
    return {
        f"{prefix}{name}_{measure}": round(getattr(getattr(table, name), measure), 4)
        for name in ("energy", "forces")
        for measure in ("mae", "rmse")
    }


def load_runs(path: Path, conditions: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the file holds already."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in conditions.items():
        if content[name] != value:
            raise SystemExit(f"{path} was measured with {name} {content[name]!r}, not {value!r}: name another --json.")
    return content["runs"]


def run_all(
    jobs: Sequence[tuple[str, str, int]], parts: Mapping[str, FrameSet], conditions: Mapping[str, Any], path: Path
) -> None:
    """Train every (name, overrides, seed) that the file does not hold yet, and write the file after each."""
    own_file = Path(conditions["file"]).stem == conditions["molecule"]
    frames = f"--file {conditions['file']}" if own_file else f"--molecule {conditions['molecule']}"
    command = (
        "python benchmarks/ablation.py {} --frames {train_frames} --valid {valid_frames} --steps {steps} "
        '--base "{base}" --seeds SEED'
    ).format(frames, **conditions)
    for name, overrides, seed in jobs:
        key = f"{name} seed {seed}"
        found = load_runs(path, conditions).get(key)
        if found is not None:
            if found["overrides"] != overrides:
                raise SystemExit(f"{path} has {name} as {found['overrides']!r}: name another --json.")
            continue
        settings = [f"seed={seed}", *conditions["base"].split(), *overrides.split()]
        measured = {"variant": name, "overrides": overrides, "seed": seed, "machine": describe_machine()}
        measured |= run(parts, settings, conditions["steps"])
        # Read again: another process may have added its own in the meantime.
        runs = {**load_runs(path, conditions), key: measured}
        good = {k: v for k, v in runs.items() if "failed" not in v}
        write_result(path, command, {**conditions, "runs": runs, "summary": mean_over_seeds(good)}, 1)
        shown = ("cpu_ms_per_step", "train_forces_mae", "valid_forces_mae", "valid_energy_mae", "failed")
        print(key, {k: measured[k] for k in shown if k in measured}, flush=True)


def choose_variants(names: str | None, overrides: Sequence[str]) -> dict[str, str]:
    """Variants by name, and those of the command line under their own text; all of the table if nothing is named."""
    chosen = VARIANTS if names is None and not overrides else {}
    if names:
        unknown = [name for name in names.split(",") if name not in VARIANTS]
        if unknown:
            raise SystemExit(f"No variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}.")
        chosen = {name: VARIANTS[name] for name in names.split(",")}
    added = {text: text for text in overrides}
    return chosen | added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecule", default="ethanol", help="of rMD17, in the folder TDN_DATA")
    parser.add_argument("--file", type=Path, help="frames to use instead")
    parser.add_argument("--frames", type=int, default=200, help="to train on")
    parser.add_argument("--valid", type=int, default=400, help="frames to judge by")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", help="names separated by commas; all by default")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="one more variant")
    parser.add_argument("--base", default="", metavar="KEY=VALUE", help="overrides of every variant")
    parser.add_argument("--json", type=Path, help="benchmarks/results/ablation_MOLECULE.json by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        chosen = choose_variants(arguments.variants, [" ".join(text.split()) for text in arguments.override])
        name = f"rmd17_{arguments.molecule}_train_01.npz"
        file = arguments.file or data_folder("rmd17", os.environ.get("TDN_DATA")) / name
        parts = choose_frames(file, arguments.frames, arguments.valid)
        for text in chosen.values():
            settings, _ = split_form([*arguments.base.split(), *text.split()])
            load_config(None, ["train=a.xyz", "output=run", *settings])
    except TDNError as error:
        raise SystemExit(str(error)) from error
    molecule = arguments.file.stem if arguments.file else arguments.molecule
    conditions = {
        "molecule": molecule, "file": file.name, "train_frames": arguments.frames, "valid_frames": arguments.valid,
        "steps": arguments.steps, "base": arguments.base,
    }  # fmt: skip
    jobs = [(name, text, seed) for seed in arguments.seeds for name, text in chosen.items()]
    run_all(jobs, parts, conditions, arguments.json or RESULTS / f"ablation_{molecule}.json")


if __name__ == "__main__":
    main()
