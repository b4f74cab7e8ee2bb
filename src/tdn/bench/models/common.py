"""What the models of all packages have in common here: two passes, energies with forces, and a training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tdn.bench.worker import Contender, Task


def atoms_of(task: Task) -> list[Any]:
    """The structures as `ase.Atoms`."""
    from ase import Atoms

    return [Atoms(numbers=n, positions=p, cell=c, pbc=pbc) for n, p, c, pbc in task.structures]


def species_of(task: Task) -> list[int]:
    """Atomic numbers that occur, ascending."""
    return sorted({int(number) for numbers, *_ in task.structures for number in numbers})


def mean_neighbors(num_edges: int, task: Task) -> float:
    """Neighbours of an atom on average."""
    return num_edges / sum(len(numbers) for numbers, *_ in task.structures)


def contender(
    model: nn.Module,
    predict: Callable[[bool], tuple[Tensor, Tensor]],
    task: Task,
    mode: str,
    **facts: Any,
) -> Contender:
    """Both passes of a model.

    The training step is what its package's trainer does: energies and forces with their graph, mean squared errors
    against random labels, the gradient in the weights, and Adam's update.

    Args:
        model: Owner of the weights.
        predict: Energies `[G]` and forces `[N, 3]`; its argument says whether they must be differentiable.
        task: What is timed.
        mode: How the model runs.
        facts: What else to report.
    """
    passes: dict[str, Callable[[], Sequence[Tensor]]] = {"energy_forces": lambda: predict(False)}
    if "training_step" in task.passes:
        passes["training_step"] = _training_step(model, predict, task)
    else:
        model.requires_grad_(False)
    count = sum(parameter.numel() for parameter in model.parameters())
    return Contender({name: passes[name] for name in task.passes}, mode, {"parameters": count, **facts})


def _training_step(
    model: nn.Module, predict: Callable[[bool], tuple[Tensor, Tensor]], task: Task
) -> Callable[[], Sequence[Tensor]]:
    random = np.random.default_rng(0)
    num_atoms = sum(len(numbers) for numbers, *_ in task.structures)
    energy = torch.tensor(random.normal(size=len(task.structures)), device=task.device)
    forces = torch.tensor(random.normal(size=(num_atoms, 3)), device=task.device)
    # A tiny learning rate: weights of a model that is trained on noise for long may end in NaN.
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-7)

    def step() -> Sequence[Tensor]:
        optimizer.zero_grad()
        predicted_energy, predicted_forces = predict(True)
        loss = (predicted_energy - energy).square().mean() + (predicted_forces - forces).square().mean()
        loss.backward()
        optimizer.step()
        return [loss]

    return step
