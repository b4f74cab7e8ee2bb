"""NequIP (2101.03164) through its own model builder: 64 features, l_max 2, 4 layers, both parities."""

# pyright: reportMissingImports=false
from __future__ import annotations

import torch
from torch import Tensor

from tdn.bench.models.common import atoms_of, contender, mean_neighbors, species_of
from tdn.bench.worker import Contender, Task


def matched(task: Task) -> Contender:
    """NequIP with our channels, degree and layers, each degree once: no parity."""
    features, lmax, layers = (task.settings[name] for name in ("channels", "lmax", "layers"))
    return build(task, features, lmax, layers, parity=False)


def build(task: Task, features: int = 64, lmax: int = 2, layers: int = 4, parity: bool = True) -> Contender:
    """NequIP, eager: its compiled modes are for inference packages and GPUs."""
    from ase.data import chemical_symbols
    from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    numbers, cutoff = species_of(task), float(task.settings["cutoff"])
    symbols = [chemical_symbols[z] for z in numbers]
    frames = [compute_neighborlist_(from_ase(atoms), r_max=cutoff) for atoms in atoms_of(task)]
    batch = AtomicDataDict.batched_from_list(frames)
    edges = int(batch[AtomicDataDict.EDGE_INDEX_KEY].shape[1])
    index = torch.zeros(max(numbers) + 1, dtype=torch.int64)
    index[torch.tensor(numbers)] = torch.arange(len(numbers))
    batch[AtomicDataDict.ATOM_TYPE_KEY] = index[batch[AtomicDataDict.ATOMIC_NUMBERS_KEY].view(-1)]
    batch = AtomicDataDict.to_(batch, task.device)
    model = NequIPGNNModel(
        seed=0, model_dtype=task.dtype, type_names=symbols, r_max=cutoff, num_layers=layers, l_max=lmax, parity=parity,
        num_features=features, radial_mlp_depth=2, radial_mlp_width=64, avg_num_neighbors=mean_neighbors(edges, task),
        per_type_energy_scales=1.0, per_type_energy_shifts=dict.fromkeys(symbols, 0.0),
    ).to(task.device)  # fmt: skip

    def predict(training: bool) -> tuple[Tensor, Tensor]:
        output = model.train(training)(dict(batch))
        return output[AtomicDataDict.TOTAL_ENERGY_KEY].view(-1), output[AtomicDataDict.FORCE_KEY]

    return contender(model, predict, task, "eager", edges=edges)
