"""TensorNet (2306.06482) of TorchMD-Net: 128 channels, 2 layers, 32 radial functions, O(3)."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tdn.bench.models.common import contender
from tdn.bench.worker import Contender, Task


class GivenNeighbours(nn.Module):
    """Pairs in place of the model's own search, so that the search is not timed: nobody else's is."""

    def give(self, pairs: Tensor, shifts: Tensor) -> None:
        """The pairs from now on.

        Args:
            pairs: Atoms `[2, E]`, each with itself too.
            shifts: What to add to `pos[pairs[0]] - pos[pairs[1]]` across cell borders `[E, 3]`.
        """
        self.pairs, self.shifts = pairs, shifts

    def find(self, search: nn.Module, pos: Tensor, batch: Tensor, box: Tensor | None) -> None:
        """Take the pairs that the model's own search finds."""
        pairs, _, vectors = search(pos, batch, box)
        self.give(pairs, vectors - (pos[pairs[0]] - pos[pairs[1]]))

    def forward(self, pos: Tensor, batch: Tensor, box: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs `[2, E]`, distances `[E]` and vectors `[E, 3]` at new positions."""
        vectors = pos[self.pairs[0]] - pos[self.pairs[1]] + self.shifts
        # The distance of an atom from itself is zero, where the square root has no derivative.
        squares = vectors.square().sum(-1)
        loops = squares == 0
        return self.pairs, squares.masked_fill(loops, 1.0).sqrt().masked_fill(loops, 0.0), vectors


def matched(task: Task) -> Contender:
    """TensorNet with our channels and layers; its degrees always end at 2."""
    return build(task, task.settings["channels"], task.settings["layers"])


def build(task: Task, channels: int = 128, layers: int = 2) -> Contender:
    """TensorNet with its Warp operations where they can be imported, in eager PyTorch otherwise."""
    from torchmdnet.models import tensornet
    from torchmdnet.models.model import create_model

    options: dict[str, Any] = {
        "model": "tensornet", "precision": 32 if task.dtype == "float32" else 64, "embedding_dimension": channels,
        "num_layers": layers, "num_rbf": 32, "rbf_type": "expnorm", "trainable_rbf": False, "activation": "silu",
        "cutoff_lower": 0.0, "cutoff_upper": float(task.settings["cutoff"]), "max_z": 128, "max_num_neighbors": 128,
        "equivariance_invariance_group": "O(3)", "static_shapes": False, "output_model": "Scalar", "reduce_op": "add",
        "prior_model": None, "atom_filter": -1, "derivative": True,
    }  # fmt: skip
    model = create_model(options).to(task.device)
    tensors: dict[str, Any] = {"dtype": getattr(torch, task.dtype), "device": task.device}
    numbers, positions, cells, periodic = zip(*task.structures, strict=True)
    z = torch.tensor(np.concatenate(numbers), dtype=torch.int64, device=task.device)
    pos = torch.tensor(np.concatenate(positions), **tensors)
    batch = torch.arange(len(numbers)).repeat_interleave(torch.tensor([len(n) for n in numbers])).to(task.device)
    box = torch.tensor(np.stack(cells), **tensors) if all(p.all() for p in periodic) else None
    search = GivenNeighbours()
    search.find(model.representation_model.distance, pos, batch, box)
    model.representation_model.distance = search

    def predict(training: bool) -> tuple[Tensor, Tensor]:
        energy, forces = model.train(training)(z, pos.detach(), batch, box)
        return energy.view(-1), forces

    mode = "Warp operations" if tensornet.OPT else "eager"
    return contender(model, predict, task, mode, edges=int(search.pairs.shape[1]) - len(z))
