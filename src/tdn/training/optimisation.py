"""Learning rate over a run, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from tdn.training.config import TrainingConfig


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


def learning_rate(config: TrainingConfig, step: int, fraction: float) -> float:
    """Linear warm-up, then half a cosine from `lr` to `lr * lr_final` at `fraction` = 1.

    The cosine runs from the first step on, so that the end does not depend on the warm-up.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(fraction, 0.0), 1.0)))
    return config.lr * warmup * (config.lr_final + (1.0 - config.lr_final) * cosine)


def make_optimizer(config: TrainingConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW (1711.05101); its learning rate is set before every step."""
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, amsgrad=config.amsgrad
    )


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
