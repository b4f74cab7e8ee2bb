"""MACE (2206.07697): two layers, correlation 3, max_ell 3, ScaleShiftMACE, as `mace_run_train` builds and trains it."""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdn.reproduce.peers.frames import Frame
from tdn.reproduce.peers.loop import Learner, Recipe, Stage

# Defaults of mace_run_train and the command of its README, stage two included, which is its last quarter.
RECIPE = Recipe(
    batch_size=10,
    lr=0.01,
    stages=(Stage(0.0, 1.0, 100.0, 1.0), Stage(0.75, 1000.0, 100.0, 10.0)),
    ema_decay=0.99,
    amsgrad=True,
    clip_grad=10.0,
    weight_decay=5e-7,
    decayed=("linear.weight", "skip_tp_full.weight", "products."),
)


def build(frames: Sequence[Frame], device: str, dtype: torch.dtype, channels: int, cutoff: float) -> Learner:
    """MACE with `channels` channels and max_L=1, eager, its default on CPUs."""
    # MACE first: it sets what lets its old e3nn read its tables.
    data, modules, tools, o3 = map(importlib.import_module, ("mace.data", "mace.modules", "mace.tools", "e3nn.o3"))
    from ase import Atoms

    torch.set_default_dtype(dtype)
    numbers = sorted({int(number) for frame in frames for number in frame.numbers})
    table = tools.AtomicNumberTable(numbers)
    with_stress = all(np.isfinite(frame.stress).all() for frame in frames)

    def prepare(frame: Frame) -> Any:
        atoms = Atoms(numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
        return data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=cutoff)

    def collate(items: Sequence[Any]) -> Any:
        return tools.torch_geometric.batch.Batch.from_data_list(list(items)).to(device).to_dict()

    edges = [prepare(frame).edge_index.shape[1] for frame in frames]
    scale = float(np.sqrt(np.mean(np.square(np.concatenate([frame.forces for frame in frames])))))
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, interaction_cls=interaction,
        interaction_cls_first=interaction, num_interactions=2, num_elements=len(numbers),
        hidden_irreps=o3.Irreps(f"{channels}x0e + {channels}x1o"), MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu, atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=sum(edges) / sum(len(frame.numbers) for frame in frames), atomic_numbers=numbers,
        correlation=3, radial_type="bessel", atomic_inter_scale=scale, atomic_inter_shift=0.0,
    ).to(device)  # fmt: skip

    def predict(batch: Any, training: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        output = model(dict(batch), training=training, compute_force=True, compute_stress=with_stress)
        return output["energy"], output["forces"], output["stress"] if with_stress else None

    facts = {"channels": channels, "max_L": 1, "max_ell": 3, "correlation": 3, "layers": 2, "r_max": cutoff}
    return Learner(model, prepare, collate, predict, RECIPE, {**facts, "scale": scale, "package": version()})


def version() -> str:
    """Of the package."""
    from importlib import metadata

    return f"mace-torch {metadata.version('mace-torch')}"
