"""NequIP (2101.03164) with its own model builder and the settings of its tutorial, l_max 2."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdn.reproduce.peers.frames import Frame
from tdn.reproduce.peers.loop import Learner, Recipe, Stage

# configs/tutorial.yaml of the package: mean squared errors of energies per atom and of forces, equal coefficients.
RECIPE = Recipe(batch_size=5, lr=0.01, stages=(Stage(0.0, 1.0, 1.0, 1.0),), ema_decay=0.999, clip_grad=None)


def build(
    frames: Sequence[Frame], device: str, dtype: torch.dtype, features: int, lmax: int, layers: int, cutoff: float
) -> Learner:
    """NequIP, eager: its compiled modes are for inference packages and GPUs."""
    from importlib import metadata

    from ase import Atoms
    from ase.data import chemical_symbols
    from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    numbers = sorted({int(number) for frame in frames for number in frame.numbers})
    symbols = [chemical_symbols[z] for z in numbers]
    index = torch.zeros(max(numbers) + 1, dtype=torch.int64)
    index[torch.tensor(numbers)] = torch.arange(len(numbers))
    with_stress = all(np.isfinite(frame.stress).all() for frame in frames)

    def prepare(frame: Frame) -> Any:
        periodic = {"cell": frame.cell, "pbc": True} if frame.pbc.all() else {}
        atoms = Atoms(numbers=frame.numbers, positions=frame.positions, **periodic)
        return compute_neighborlist_(from_ase(atoms), r_max=cutoff)

    def collate(items: Sequence[Any]) -> Any:
        batch = AtomicDataDict.batched_from_list(list(items))
        batch[AtomicDataDict.ATOM_TYPE_KEY] = index[batch[AtomicDataDict.ATOMIC_NUMBERS_KEY].view(-1)]
        return AtomicDataDict.to_(batch, device)

    edges = [prepare(frame)[AtomicDataDict.EDGE_INDEX_KEY].shape[1] for frame in frames]
    scale = float(np.sqrt(np.mean(np.square(np.concatenate([frame.forces for frame in frames])))))
    model = NequIPGNNModel(
        seed=int(torch.initial_seed() % 2**31), model_dtype=str(dtype).removeprefix("torch."), type_names=symbols,
        r_max=cutoff, num_layers=layers, l_max=lmax, parity=True, num_features=features, radial_mlp_depth=2,
        radial_mlp_width=64, avg_num_neighbors=sum(edges) / sum(len(frame.numbers) for frame in frames),
        per_type_energy_scales=scale, per_type_energy_shifts=dict.fromkeys(symbols, 0.0),
    ).to(device)  # fmt: skip

    def predict(batch: Any, training: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        output = model.train(training)(dict(batch))
        stress = output[AtomicDataDict.STRESS_KEY].view(-1, 3, 3) if with_stress else None
        return output[AtomicDataDict.TOTAL_ENERGY_KEY].view(-1), output[AtomicDataDict.FORCE_KEY], stress

    facts = {"features": features, "l_max": lmax, "layers": layers, "r_max": cutoff, "scale": scale}
    return Learner(
        model, prepare, collate, predict, RECIPE, {**facts, "package": f"nequip {metadata.version('nequip')}"}
    )
