"""TensorNet (2306.06482) of TorchMD-Net with the settings of its example for rMD17."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdn.bench.models.tensornet import GivenNeighbours
from tdn.reproduce.peers.frames import Frame
from tdn.reproduce.peers.loop import Learner, Recipe, Stage

# examples/TensorNet-rMD17.yaml of the package, which averages no weights; with an average it learns better.
RECIPE = Recipe(
    batch_size=8,
    lr=1e-3,
    stages=(Stage(0.0, 0.5, 0.5, 0.0),),
    energy_per="structure",
    ema_decay=0.99,
    clip_grad=40.0,
    warmup_steps=500,
)


def build(
    frames: Sequence[Frame], device: str, dtype: torch.dtype, channels: int, layers: int, cutoff: float
) -> Learner:
    """TensorNet with its Warp operations where they can be imported; neighbours are found once, not in every step."""
    from importlib import metadata

    from ase import Atoms
    from ase.neighborlist import neighbor_list
    from torchmdnet.models.model import create_model

    scale = float(np.std([frame.energy for frame in frames])) or 1.0
    options: dict[str, Any] = {
        "model": "tensornet", "precision": 32 if dtype == torch.float32 else 64, "embedding_dimension": channels,
        "num_layers": layers, "num_rbf": 32, "rbf_type": "expnorm", "trainable_rbf": False, "activation": "silu",
        "cutoff_lower": 0.0, "cutoff_upper": cutoff, "max_z": 128, "max_num_neighbors": 128,
        "equivariance_invariance_group": "O(3)", "static_shapes": False, "output_model": "Scalar", "reduce_op": "add",
        "prior_model": None, "atom_filter": -1, "derivative": True,
    }  # fmt: skip
    model = create_model(options, mean=torch.tensor(0.0), std=torch.tensor(scale)).to(device)
    search = GivenNeighbours()
    model.representation_model.distance = search

    def prepare(frame: Frame) -> dict[str, Tensor]:
        atoms = Atoms(numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
        i, j, images = neighbor_list("ijS", atoms, cutoff)
        loops = np.arange(len(atoms))
        pairs = np.stack([np.concatenate([i, loops]), np.concatenate([j, loops])])
        # From the second atom of a pair to the first, as the model's own search has it.
        shifts = np.concatenate([-images @ atoms.cell.array, np.zeros((len(atoms), 3))])
        return {
            "z": torch.as_tensor(frame.numbers), "pos": torch.as_tensor(frame.positions, dtype=dtype),
            "pairs": torch.as_tensor(pairs), "shifts": torch.as_tensor(shifts, dtype=dtype),
        }  # fmt: skip

    def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        sizes = torch.tensor([len(item["z"]) for item in items])
        firsts = torch.cumsum(sizes, 0) - sizes
        pairs = [item["pairs"] + first for item, first in zip(items, firsts, strict=True)]
        joined = {name: torch.cat([item[name] for item in items]) for name in ("z", "pos", "shifts")}
        joined |= {"pairs": torch.cat(pairs, dim=1), "batch": torch.arange(len(items)).repeat_interleave(sizes)}
        return {name: value.to(device) for name, value in joined.items()}

    def predict(batch: dict[str, Tensor], training: bool) -> tuple[Tensor, Tensor, None]:
        search.give(batch["pairs"], batch["shifts"])
        energy, forces = model.train(training)(batch["z"], batch["pos"].detach().clone(), batch["batch"])
        return energy.view(-1), forces, None

    facts = {"channels": channels, "layers": layers, "num_rbf": 32, "r_max": cutoff, "scale": scale, "stress": False}
    return Learner(
        model, prepare, collate, predict, RECIPE, {**facts, "package": f"torchmd-net {metadata.version('torchmd-net')}"}
    )
