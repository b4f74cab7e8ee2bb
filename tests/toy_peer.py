"""A network of no package, for the tests of the loop that trains peers: energies of pairs by distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tdn.reproduce.peers.frames import Frame
from tdn.reproduce.peers.loop import Learner, Recipe, Stage

CENTRES = torch.linspace(0.5, 5.0, 12)


def build(frames: Sequence[Frame], device: str, dtype: torch.dtype, lr: float = 0.05) -> Learner:
    """The sum over all pairs of a function of their distance."""
    model = nn.Linear(len(CENTRES), 1).to(device=device, dtype=dtype)

    def prepare(frame: Frame) -> tuple[Tensor, Tensor]:
        i, j = np.triu_indices(len(frame.numbers), 1)
        return torch.as_tensor(frame.positions, dtype=dtype), torch.as_tensor(np.stack([i, j]))

    def predict(batch: Sequence[Any], training: bool) -> tuple[Tensor, Tensor, None]:
        energies, forces = [], []
        for positions, (i, j) in batch:
            positions = positions.clone().requires_grad_(True)
            distances = (positions[i] - positions[j]).norm(dim=1)
            basis = torch.exp(-2.0 * (distances[:, None] - CENTRES.to(dtype)).square())
            energies.append(model(basis).sum())
            forces.append(-torch.autograd.grad(energies[-1], positions, create_graph=training)[0])
        return torch.stack(energies), torch.cat(forces), None

    recipe = Recipe(batch_size=4, lr=lr, stages=(Stage(0.0, 1.0, 1.0, 0.0), Stage(0.5, 10.0, 1.0, 0.0)))
    return Learner(model, prepare, list, predict, recipe, {"centres": len(CENTRES)})
