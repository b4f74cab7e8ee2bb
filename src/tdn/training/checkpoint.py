"""Everything a run needs to go on as if nothing had happened, in one file without pickle, replaced in one step."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tdn.errors import ModelFileError
from tdn.files import atomic_write
from tdn.models.potential import Potential
from tdn.training.optimisation import Plateau

FORMAT = "tdn-checkpoint"
FORMAT_VERSION = 4

_SCALARS = (
    *("step", "epoch", "batch", "elapsed", "lr"),
    *("best_loss", "best_step", "stale_validations", "stopped_early", "history"),
)


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes:
        potential: What is optimised.
        averaged: Moving average of its weights.
        optimizer: With its moments.
        best: Averaged weights of the best validation, or None before the first.
        step: Steps done.
        epoch: Passes over the data done.
        batch: Batches done of the current pass.
        elapsed: Seconds of training done.
        lr: Learning rate of the last step.
        best_loss: Of the best validation.
        best_step: Its step.
        stale_validations: Validations since then.
        stopped_early: Whether `patience` ended the run.
        history: Rows of `metrics.csv`.
        recent: Errors of the training batches since the last row, as `ErrorSums.values`; None at the start.
        plateau: What a schedule of this name knows.
    """

    potential: Potential
    averaged: Potential
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor] | None = None
    step: int = 0
    epoch: int = 0
    batch: int = 0
    elapsed: float = 0.0
    lr: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    stale_validations: int = 0
    stopped_early: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    recent: Tensor | None = None
    plateau: Plateau = field(default_factory=Plateau)


def save_checkpoint(path: str | os.PathLike[str], state: TrainingState, fingerprint: str) -> None:
    """Write `state` atomically: a kill at any moment leaves this checkpoint or the one before.

    Args:
        path: Destination.
        state: What to save.
        fingerprint: Of the training data; `load_checkpoint` refuses others.

    Raises:
        OSError: If the file cannot be written; the older one is then untouched.
    """
    from safetensors.torch import save

    groups = {
        "weights": state.potential.state_dict(),
        "averaged": state.averaged.state_dict(),
        "best": state.best or {},
    }
    tensors = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    tensors["rng"] = torch.get_rng_state()
    if state.recent is not None:
        tensors["recent"] = state.recent
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "fingerprint": fingerprint}
    header |= {name: getattr(state, name) for name in _SCALARS}
    header["plateau"] = asdict(state.plateau)
    with atomic_write(path) as temporary:
        # Clones, since safetensors refuses tensors that share memory.
        tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        # Not `save_file`, whose error for a full disk is no OSError.
        temporary.write_bytes(save(tensors, metadata={"tdn": json.dumps(header, allow_nan=False)}))


def load_checkpoint(path: str | os.PathLike[str], state: TrainingState, fingerprint: str) -> None:
    """Bring `state`, freshly built from the same configuration, to where the checkpoint was written.

    Raises:
        ModelFileError: If the file is damaged, of a newer format, or of other data or another network.
    """
    header, tensors = _read(path)
    if header["fingerprint"] != fingerprint:
        raise ModelFileError(
            f"{path} was written while training on other data: the files have changed since. Restore them, or start a "
            "new run in another folder."
        )
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "averaged": {}, "best": {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        if group == "optimizer":
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value
        elif group in groups:
            groups[group][name] = value
    try:
        state.potential.load_state_dict(groups["weights"])
        state.averaged.load_state_dict(groups["averaged"])
    except RuntimeError as error:
        raise ModelFileError(f"{path} is of another network than the configuration asks for: {error}") from error
    state.best = groups["best"] or None
    state.recent = tensors.get("recent")
    settings = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": settings})
    # Moments are numbered in the order of the optimiser's groups, which has changed once.
    if any(own["exp_avg"].shape != parameter.shape for parameter, own in state.optimizer.state.items()):
        raise ModelFileError(
            f"{path} was written by an older tdn: finish the run with that one, or start again with --overwrite."
        )
    torch.set_rng_state(tensors["rng"])
    for name in _SCALARS:
        setattr(state, name, header[name])
    state.plateau = Plateau(**header["plateau"])


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("tdn", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged ({error}): start again with --overwrite.") from error
    if header.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a checkpoint of tdn.")
    if header["format_version"] > FORMAT_VERSION:
        raise ModelFileError(f"{path} was written by a newer tdn (format {header['format_version']}): upgrade tdn.")
    if header["format_version"] < FORMAT_VERSION:
        raise ModelFileError(
            f"{path} was written by an older tdn (format {header['format_version']}): finish the run with that one, or "
            "start again with --overwrite."
        )
    return header, tensors
