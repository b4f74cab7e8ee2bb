"""eSEN (2502.12147) of fairchem: the sizes of its small conserving model, forces as the energy's gradient."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tdn.bench.models.common import atoms_of, contender
from tdn.bench.worker import Contender, Task


class ESEN(nn.Module):
    """Backbone and head as one module."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, data: Any) -> dict[str, Tensor]:
        """Energies and forces of a batch."""
        return self.head(data, self.backbone(data))


def matched(task: Task) -> Contender:
    """ESEN with our channels, degree and layers."""
    channels, lmax, layers = (task.settings[name] for name in ("channels", "lmax", "layers"))
    return build(task, channels, lmax, layers)


def build(task: Task, channels: int = 128, lmax: int = 2, layers: int = 4) -> Contender:
    """Energies and forces in eager PyTorch, the neighbour list made before."""
    from ase.neighborlist import neighbor_list
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
    from fairchem.core.models.uma.escn_md import MLP_EFS_Head, eSCNMDBackbone

    cutoff, dtype = float(task.settings["cutoff"]), getattr(torch, task.dtype)
    frames = []
    for atoms in atoms_of(task):
        cell = None if np.all(atoms.pbc) else 4 * cutoff
        frame = AtomicData.from_ase(atoms, target_dtype=dtype, molecule_cell_size=cell, task_name="omol")
        receivers, senders, shifts = neighbor_list("ijS", atoms, cutoff)
        frame.edge_index = torch.from_numpy(np.stack([senders, receivers])).long()
        frame.cell_offsets, frame.nedges = torch.from_numpy(shifts).to(dtype), torch.tensor([len(shifts)])
        frames.append(frame)
    batch = atomicdata_list_to_batch(frames).to(task.device)
    backbone = eSCNMDBackbone(
        sphere_channels=channels, hidden_channels=channels, lmax=lmax, mmax=lmax, num_layers=layers, cutoff=cutoff,
        edge_channels=128, num_distance_basis=64, ff_type="spectral", direct_forces=False, use_dataset_embedding=False,
    )  # fmt: skip
    model = ESEN(backbone, MLP_EFS_Head(backbone, wrap_property=False)).to(device=task.device, dtype=dtype)

    def predict(training: bool) -> tuple[Tensor, Tensor]:
        data = batch.clone()
        data["pos"] = data["pos"].detach()
        output = model.train(training)(data)
        return output["energy"], output["forces"]

    return contender(model, predict, task, "eager", edges=int(batch["edge_index"].shape[1]))
