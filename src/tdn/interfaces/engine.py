"""`EngineCore`: a potential as a function of plain tensors, which is what simulation engines and exports call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tdn.errors import ConfigError
from tdn.models.potential import Potential
from tdn.structure import Structure


class EngineCore(nn.Module):
    """Energies, forces and virials of a potential from positions and a neighbour list, without any container.

    Pairs beyond the cutoff contribute exactly nothing, so the list may be longer than it need be, as engines with a
    skin have it. Its order does not matter. Every ordered pair must be there: `(i, j)` as well as `(j, i)`.

    Args:
        potential: The model; its weights are shared, not copied.

    Raises:
        ConfigError: If its forces are not derivatives of an energy, or there are none.
    """

    element_index: Tensor
    reference_energies: Tensor

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        if not (potential.config.predicts_forces and potential.config.predicts_stress):
            raise ConfigError(
                "Engines that work on edges need forces that are derivatives of the energy, which this one lacks: use "
                "one with forces: conservative."
            )
        self.potential = potential
        known = potential.element_index
        energies = torch.full((len(known),), torch.nan, dtype=torch.float64, device=potential.device)
        energies[known >= 0] = potential.reference_energies
        # Unknown elements: an index that exists, and an energy that is not a number.
        self.register_buffer("element_index", known.clamp(min=0), persistent=False)
        self.register_buffer("reference_energies", energies, persistent=False)

    def forward(
        self, positions: Tensor, numbers: Tensor, senders: Tensor, receivers: Tensor, shifts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Results of all atoms; those of several structures side by side, if the caller sums each on its own.

        Args:
            positions: Å, float64 `[N, 3]`.
            numbers: Atomic numbers, int64 `[N]`.
            senders: int64 `[E]`.
            receivers: int64 `[E]`.
            shifts: Lattice translation of the sender's image, Å (not lattice units), float64 `[E, 3]`.

        Returns:
            Energies of the atoms, eV, `[N]`, NaN for elements that the potential does not know; forces, eV/Å,
            `[N, 3]`; virials of the atoms `sum v f^T`, eV, `[N, 3, 3]`, whose sum is `-volume * stress`. All float64.
        """
        vectors = positions.index_select(0, senders) + shifts - positions.index_select(0, receivers)
        species = self.element_index.index_select(0, numbers)
        energies, edge_forces = self.potential.eager_energies_and_edge_forces(
            vectors.to(self.potential.dtype), species, senders, receivers
        )
        edge_forces = edge_forces.double()
        forces = torch.zeros_like(positions).index_add(0, senders, edge_forces).index_add(0, receivers, -edge_forces)
        # Half of an edge's virial belongs to either end.
        halves = (0.5 * vectors[:, :, None] * edge_forces[:, None, :]).flatten(1)
        virials = positions.new_zeros(positions.shape[0], 9)
        virials = virials.index_add(0, senders, halves).index_add(0, receivers, halves).view(-1, 3, 3)
        total = energies.detach().double() + self.reference_energies.index_select(0, numbers)
        return total, forces, 0.5 * (virials + virials.transpose(1, 2))


def engine_arguments(structure: Structure, r_max: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `EngineCore` takes, of one structure with all neighbours within `r_max` (Å)."""
    from tdn.neighbors import neighbor_list

    senders, receivers, shifts = neighbor_list(structure, r_max)
    arrays = (structure.positions, structure.numbers, senders, receivers, shifts @ structure.cell)
    return tuple(torch.from_numpy(array) for array in arrays)  # pyright: ignore[reportReturnType]


def describe(potential: Potential) -> dict[str, Any]:
    """What a file of another engine says about the model inside, as JSON values."""
    from tdn.version import __version__

    return {
        "tdn_version": __version__,
        "elements": list(potential.elements),
        "cutoff": potential.r_max,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "units": {"length": "angstrom", "energy": "eV", "force": "eV/angstrom", "virial": "eV"},
        "config": potential.config.model_dump(mode="json"),
    }
