"""Learning rate over a run, the optimiser, and the moving average of the weights."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import UnionType

import torch
from torch import nn

from tdn.nn.attention import ComponentLinear
from tdn.nn.linear import DegreeLinear
from tdn.nn.radial import MLP
from tdn.training.config import TrainingConfig
from tdn.training.muon import Muon


def run_fraction(config: TrainingConfig, step: int, epochs: float, elapsed: float) -> float:
    """How much of the run is behind: 0 at the start, 1 or more at its end.

    Args:
        config: Its limits; the one that ends the run first counts.
        step: Steps done.
        epochs: Passes over the data done, with fractions.
        elapsed: Seconds of training done, those before an interruption included.
    """
    limits = ((config.max_steps, step), (config.max_epochs, epochs), (config.max_time, elapsed))
    return max(done / limit for limit, done in limits if limit is not None)


def learning_rate(
    config: TrainingConfig, step: int, fraction: float, epochs: float = 0.0, plateau: float = 1.0
) -> float:
    """Learning rate of a step: linear warm-up, then the schedule.

    The cosine runs from `lr` at the first step to `lr * lr_final` at `fraction` = 1, so that the end does not depend on
    the warm-up. Warm-up by epochs is fairchem's `LambdaLR`, in which the schedule does not act yet.

    Args:
        config: Schedule and warm-up.
        step: Steps done.
        fraction: How much of the run is behind.
        epochs: Passes over the data done, with fractions.
        plateau: What `Plateau` has left of the rate.
    """
    if epochs < config.warmup_epochs:
        grown = epochs / config.warmup_epochs
        return config.lr * (config.warmup_factor + (1.0 - config.warmup_factor) * grown)
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule != "cosine":
        return config.lr * warmup * (plateau if config.schedule == "plateau" else 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(fraction, 0.0), 1.0)))
    return config.lr * warmup * (config.lr_final + (1.0 - config.lr_final) * cosine)


@dataclass
class Plateau:
    """PyTorch's `ReduceLROnPlateau` as plain numbers, which a checkpoint can hold.

    Attributes:
        factor: What is left of the learning rate.
        best: Best validation so far, or None before the first.
        stale: Validations since then.
    """

    factor: float = 1.0
    best: float | None = None
    stale: int = 0

    def update(self, config: TrainingConfig, value: float) -> None:
        """Take note of a validation; smaller is better, by at least one part in 10 000."""
        if self.best is None or value < self.best * (1.0 - 1e-4):
            self.best, self.stale = value, 0
            return
        self.stale += 1
        if self.stale > config.plateau_patience:
            self.factor, self.stale = self.factor * config.plateau_factor, 0


def make_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Of what is not frozen: Muon, AdamW (1711.05101) or Adam (1412.6980). The rate is set before every step."""
    mixing = mixing_matrices(model) if config.weight_decay else set()
    unit = unit_matrices(model) if config.optimizer == "muon" else set()
    groups = [
        {
            "params": [p for p in model.parameters() if p.requires_grad and (id(p) in mixing, id(p) in unit) == kind],
            "weight_decay": config.weight_decay * kind[0],
            "orthogonal": kind[1],
        }
        for kind in itertools.product((True, False), repeat=2)
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "muon":
        return Muon(groups, config.lr, config.betas, config.amsgrad)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=config.betas, amsgrad=config.amsgrad)


def mixing_matrices(model: nn.Module) -> set[int]:
    """`id` of the matrices that mix channels.

    They are the weights that may shrink without harm: embeddings and coefficients tell elements apart, and the binding
    energies of the elements have a size of their own, in eV.
    """
    return _matrices(model, nn.Linear | ComponentLinear | DegreeLinear | MLP)


def unit_matrices(model: nn.Module) -> set[int]:
    """`id` of those of them whose entries are of order one, with more than one row and column: Muon's."""
    chosen = _matrices(model, DegreeLinear | MLP)
    return {id(p) for p in model.parameters() if id(p) in chosen and min(p.shape[-2:]) > 1}


def _matrices(model: nn.Module, layers: UnionType) -> set[int]:
    modules = (module for module in model.modules() if isinstance(module, layers))
    return {id(parameter) for module in modules for parameter in module.parameters() if parameter.ndim > 1}


@torch.no_grad()
def update_average(averaged: nn.Module, current: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the current ones, in place.

    Early on the average must forget the initial weights: the decay grows as `(1 + step) / (10 + step)`.

    Args:
        averaged: Holds the moving average.
        current: Same architecture, after the optimiser's step.
        decay: Final decay; 0 copies the weights.
        step: Steps done.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(current.parameters()), 1.0 - decay)
