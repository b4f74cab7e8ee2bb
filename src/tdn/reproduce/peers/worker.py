"""One training of a peer in a process of its own; asked and answered in JSON, frames and predictions in files.

    {"builder": "tdn.reproduce.peers.mace:build", "options": {...}, "folder": "...", "blocks": ["test", ...],
     "seconds": 900, "seed": 0, "threads": 1, "dtype": "float32", "device": "cpu"}

The folder holds `train.npz`, `valid.npz` and `block_<k>.npz`; `predicted_<k>.npz` and `train.log` are written there.
"""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tdn.bench.worker import serve, time_pass
from tdn.reproduce.peers import frames
from tdn.reproduce.peers.loop import Items, Learner, fit, predict_all

SECONDS_OF_INFERENCE = 2.0


def train(message: Mapping[str, Any]) -> dict[str, Any]:
    """Build, train and predict; the facts of the run."""
    folder, device = Path(message["folder"]), message["device"]
    dtype = getattr(torch, message["dtype"])
    if message["threads"]:
        torch.set_num_threads(message["threads"])
    torch.manual_seed(message["seed"])
    parts = {name: frames.read(folder / f"{name}.npz") for name in ("train", "valid")}
    module, _, function = message["builder"].partition(":")
    build = getattr(importlib.import_module(module), function)
    learner: Learner = build(parts["train"], device, dtype, **message["options"])
    items = {name: Items(learner, part, device, dtype) for name, part in parts.items()}
    with (folder / "train.log").open("a", encoding="utf-8") as log:

        def say(text: str) -> None:
            log.write(f"{datetime.datetime.now().isoformat(timespec='seconds')} {text}\n")
            log.flush()

        outcome = fit(learner, items["train"], items["valid"], message["seconds"], message["seed"], say)
    first = None
    for k in range(message["blocks"]):
        block = Items(learner, frames.read(folder / f"block_{k}.npz"), device, dtype)
        first = first or block
        found = [
            frame._replace(energy=energy, forces=forces, stress=np.full((3, 3), np.nan) if stress is None else stress)
            for frame, (energy, forces, stress) in zip(block.frames, predict_all(learner, block), strict=True)
        ]
        frames.write(folder / f"predicted_{k}.npz", found)
    return {
        **outcome,
        "parameters": sum(parameter.numel() for parameter in learner.model.parameters()),
        "inference_ms": inference_ms(learner, first, device) if first else None,
        "settings": {**learner.facts, **learner.recipe._asdict()},
        "torch": torch.__version__,
    }


def inference_ms(learner: Learner, items: Items, device: str) -> float:
    """Energy and forces of one frame, neighbours made before, milliseconds, median."""
    batch, _ = items.batch([0])
    for _ in range(3):
        learner.predict(batch, False)
    return float(np.median(time_pass(lambda: learner.predict(batch, False), device, SECONDS_OF_INFERENCE)))


def main() -> None:
    """Answer requests until the input ends."""
    serve(train)
