"""Training of a network of n bodies, and what is measured of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tdn.cp.couplings import Array
from tdn.reproduce.nbody_system import NBodySet

Progress = Callable[[float, float, float], None]


class Systems(NamedTuple):
    """Inputs of the network, and the displacements that it should predict.

    Attributes:
        charges: `[S, B]`.
        positions: `[S, B, 3]`.
        velocities: `[S, B, 3]`.
        displacements: `[S, B, 3]`.
    """

    charges: Tensor
    positions: Tensor
    velocities: Tensor
    displacements: Tensor

    def take(self, indices: Tensor) -> Systems:
        """Some of the systems."""
        return Systems(*(values[indices] for values in self))

    def turned(self, rotation: Tensor) -> Systems:
        """All systems under `[3, 3]`."""
        return Systems(self.charges, *(values @ rotation.T for values in self[1:]))


def as_tensors(systems: NBodySet, device: torch.device) -> Systems:
    """In PyTorch's default precision."""
    inputs = systems.inputs
    arrays = (inputs.charges, inputs.positions, inputs.velocities, systems.targets - inputs.positions)
    return Systems(*(torch.as_tensor(array, dtype=torch.get_default_dtype(), device=device) for array in arrays))


def train(
    network: nn.Module, systems: Systems, epochs: int, batch_size: int, lr: float, seed: int, progress: Progress
) -> None:
    """Adam on the mean squared error of a coordinate, its rate falling to zero as a cosine."""
    generator = torch.Generator().manual_seed(seed)
    count = systems.charges.shape[0]
    steps = epochs * -(-count // batch_size)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start, done = time.perf_counter(), 0
    network.train()
    for _ in range(epochs):
        for indices in torch.randperm(count, generator=generator).split(batch_size):
            batch = systems.take(indices.to(systems.charges.device))
            loss = (network(*batch[:3]) - batch.displacements).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            progress(done / steps, time.perf_counter() - start, float(loss.detach()))


def predict(network: nn.Module, systems: Systems, batch_size: int) -> Tensor:
    """Displacements `[S, B, 3]`."""
    network.eval()
    with torch.no_grad():
        parts = zip(*(values.split(batch_size) for values in systems[:3]), strict=True)
        return torch.cat([network(*part) for part in parts])


def mean_squared_error(network: nn.Module, systems: Systems, batch_size: int) -> float:
    """Of a coordinate."""
    return float((predict(network, systems, batch_size) - systems.displacements).square().mean())


def symmetry_error(network: nn.Module, systems: Systems, batch_size: int, rotations: Array) -> float:
    """Mean over systems and orthogonal matrices of `|f(R x) - R f(x)| / |f(x)|`, norms over all bodies of a system."""
    straight = predict(network, systems, batch_size)
    errors = []
    for rotation in torch.as_tensor(rotations, dtype=straight.dtype, device=straight.device):
        turned = predict(network, systems.turned(rotation), batch_size)
        difference = (turned - straight @ rotation.T).square().sum((1, 2)).sqrt()
        errors.append(float((difference / straight.square().sum((1, 2)).sqrt()).mean()))
    return float(np.mean(errors))
