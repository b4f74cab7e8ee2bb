"""MACE (2206.07697) as its command line builds it: two layers, correlation 3, max_ell 3, ScaleShiftMACE."""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdn.bench.models.common import atoms_of, contender, mean_neighbors, species_of
from tdn.bench.worker import Contender, Task


def matched(task: Task) -> Contender:
    """MACE with our channels, layers, and degree of features and harmonics."""
    channels, lmax, layers = (task.settings[name] for name in ("channels", "lmax", "layers"))
    return build(task, channels, max_l=lmax, max_ell=lmax, layers=layers)


def build(
    task: Task, channels: int, max_l: int = 1, max_ell: int = 3, layers: int = 2, compiled: bool = False
) -> Contender:
    """MACE, eager (its default on CPUs) or through its `torch.compile` mode."""
    # MACE first: it sets what lets its old e3nn read its tables.
    data, modules, tools, o3 = map(importlib.import_module, ("mace.data", "mace.modules", "mace.tools", "e3nn.o3"))

    torch.set_default_dtype(getattr(torch, task.dtype))
    numbers, cutoff = species_of(task), float(task.settings["cutoff"])
    table = tools.AtomicNumberTable(numbers)
    configs = [data.config_from_atoms(atoms) for atoms in atoms_of(task)]
    graphs = [data.AtomicData.from_config(config, z_table=table, cutoff=cutoff) for config in configs]
    loader = tools.torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False)
    batch = next(iter(loader)).to(task.device)
    edges = int(batch["edge_index"].shape[1])
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]

    def make() -> Any:
        return modules.ScaleShiftMACE(
            r_max=cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=max_ell, interaction_cls=interaction,
            interaction_cls_first=interaction, num_interactions=layers, num_elements=len(numbers),
            hidden_irreps=o3.Irreps([(channels, (l, (-1) ** l)) for l in range(max_l + 1)]),
            MLP_irreps=o3.Irreps("16x0e"),
            gate=torch.nn.functional.silu, atomic_energies=np.zeros(len(numbers)),
            avg_num_neighbors=mean_neighbors(edges, task), atomic_numbers=numbers, correlation=3,
            radial_type="bessel", atomic_inter_scale=1.0, atomic_inter_shift=0.0,
        )  # fmt: skip

    if compiled:
        from mace.tools.compile import prepare

        model: Any = torch.compile(prepare(make)().to(task.device), mode="default", fullgraph=True, dynamic=True)
    else:
        model = make().to(task.device)
    inputs = batch.to_dict()

    def predict(training: bool) -> tuple[Tensor, Tensor]:
        output = model(dict(inputs), training=training, compute_force=True)
        return output["energy"], output["forces"]

    return contender(model, predict, task, "torch.compile" if compiled else "eager", edges=edges)
