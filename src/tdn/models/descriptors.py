"""Descriptors of atoms from a trained network: the invariant features that its energies are read from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tdn.errors import DataError
from tdn.graph import AtomGraph
from tdn.models.potential import Potential
from tdn.models.tdn import TDN


def descriptors(potential: Potential, graph: AtomGraph) -> Tensor:
    """Scalars of every atom after every layer, `[N, num_layers * num_channels]`, unchanged by rotations.

    Raises:
        DataError: If the network is no `TDN`.
    """
    if not isinstance(potential.network, TDN):
        raise DataError(f"Descriptors are those of the TDN architecture, got {potential.config.architecture}.")
    found: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        found.append(arguments[0].detach())

    handles = [readout.register_forward_pre_hook(note) for readout in potential.network.readouts]
    try:
        with torch.no_grad():
            potential.energies_above_reference(graph)
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(found, dim=-1)
