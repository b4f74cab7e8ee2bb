"""`PaperPotential`: the potential around a `PaperTDN`, with its ways of energies and forces."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tdn.errors import ConfigError
from tdn.graph import AtomGraph, Prediction
from tdn.models.compiled import CompiledCore
from tdn.models.paper import PaperTDN, PaperTDNConfig
from tdn.models.potential import BINDING_SHARPNESS, Potential, assemble
from tdn.models.tdn import Ghosts
from tdn.nn.kernels import gather, scatter_sum
from tdn.nn.radial import polynomial_envelope


class PaperPotential(Potential):
    """Energies and forces of a `PaperTDN`, as published or repaired.

    With `energy: per_atom` the sum of the network's outputs over the atoms of a structure, over the root of
    `avg_num_nodes`, is its energy *per atom* above the references: `E = sum_i [E0(Z_i) + shift(Z_i)] + N y`. With
    `per_fragment`, the same holds for every connected fragment, and energies of fragments add up; with `per_structure`
    the sum is the energy itself, `E = sum_i E0(Z_i) + energy_mean + y`; with `extensive`, `E` is that of `Potential`.
    Arguments as `Potential`.
    """

    config: PaperTDNConfig

    def build_network(self) -> nn.Module:
        """A `PaperTDN` with fresh weights."""
        return PaperTDN(self.config, self.elements)

    def train(self, mode: bool = True) -> PaperPotential:
        """Switch between training and evaluation; compiled code has the dropout of one of them in it."""
        if mode != self.training and self.config.dropout:
            self._core = None
        return super().train(mode)

    def visible(self, graph: AtomGraph) -> AtomGraph:
        """The graph with the neighbours that the network sees."""
        limit = self.config.max_neighbors
        if limit is None or not graph.num_edges or int(graph.receivers.bincount().max()) <= limit:
            return graph
        return graph.nearest(limit) if self.config.truncation == "nearest" else graph.first(limit)

    def atomic_energies(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, ghosts: Ghosts | None = None
    ) -> Tensor:
        """Energy of every atom above its reference, eV, `[N]`; with `per_atom`, its part of the energy per atom.

        Raises:
            ConfigError: With `ghosts`: this network has no exchange between its layers.
        """
        if ghosts is not None:
            raise ConfigError("PaperTDN cannot run on several processes: use a model of the architecture TDN.")
        energies, _ = self._network(vectors, species, senders, receivers)
        return self._energies(energies, vectors, species, receivers)

    def energies_above_reference(self, graph: AtomGraph) -> Tensor:
        """See `Potential`."""
        graph = self.visible(graph)
        return self._totals(graph, super().energies_above_reference(graph))

    def forward(self, graph: AtomGraph) -> Prediction:
        """Energies, forces and stress of the structures in `graph`; the stress is NaN with direct forces."""
        graph = self.visible(graph)
        species = self.element_index[graph.numbers]
        vectors = graph.edge_vectors()
        arguments = (vectors.to(self.dtype), species, graph.senders, graph.receivers)
        references = self.reference_energies[species]
        if self.config.forces not in ("direct", "none"):
            energies, edge_forces = self.energies_and_edge_forces(*arguments, create_graph=self.training)
            if self.config.conservative and self.config.energy != "extensive":
                edge_forces = edge_forces * self._sizes(graph).to(edge_forces)[graph.receivers, None]
            energies = self._totals(graph, energies)
            return assemble(graph, vectors, energies if self.training else energies.detach(), edge_forces, references)
        with torch.set_grad_enabled(self.training):
            if self.config.forces == "none":
                energies = self.atomic_energies(*arguments)
                forces = energies.new_full((graph.num_atoms, 3), torch.nan)
            else:
                energies, forces = self._energies_and_forces(*arguments)
            total = self._totals(graph, energies).double() + references
        energy = total.new_zeros(graph.num_graphs).index_add(0, graph.batch, total)
        stress = forces.new_full((graph.num_graphs, 3, 3), torch.nan)
        return Prediction(energy=energy, energies=total, forces=forces, stress=stress)

    def _energies_and_forces(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of every atom, `[N]` and `[N, 3]`, by the head; compiled if asked for."""
        if not self._compile or vectors.shape[0] < 2 or species.shape[0] < 2:
            return self._eager_energies_and_forces(vectors, species, senders, receivers)
        if self._core is None:
            self._core = CompiledCore(self, self._eager_energies_and_forces)
        return self._core(vectors, species, senders, receivers)

    def _eager_energies_and_forces(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        energies, forces = self._network(vectors, species, senders, receivers)
        assert forces is not None
        bound = self._bound(vectors, species, receivers)
        # The public code has no forces for atoms without neighbours.
        return self._energies(energies, vectors, species, receivers), self.scale * forces * bound[:, None]

    def _network(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """What the network says, averaged over mirror images if asked for."""
        energies, forces = self.network(vectors, species, senders, receivers)
        if not self.config.mirror_average:
            return energies, forces
        # Inversion is a mirror and a half turn; the image's forces point the other way.
        image_energies, image_forces = self.network(-vectors, species, senders, receivers)
        return 0.5 * (energies + image_energies), None if forces is None else 0.5 * (forces - image_forces)

    def eager_energies_and_edge_forces(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """See `Potential`.

        Raises:
            ConfigError: If forces come from a head of their own, or there are none.
        """
        if self.config.forces in ("direct", "none"):
            why = {"direct": "come from a head of their own", "none": "are not defined"}[self.config.forces]
            raise ConfigError(
                f"This model's forces {why} (forces: {self.config.forces}), and engines that work on edges need the "
                "derivative of the energy: use a model with forces: conservative."
            )
        return super().eager_energies_and_edge_forces(vectors, species, senders, receivers, create_graph)

    def _bound(self, vectors: Tensor, species: Tensor, receivers: Tensor) -> Tensor:
        """How much the network's energy of an atom counts, `[N]`: nothing for a lone atom."""
        if self.config.lone_atoms == "kept":
            envelope = polynomial_envelope(vectors.square().sum(-1).sqrt(), self.r_max)
            return -torch.expm1(-BINDING_SHARPNESS * scatter_sum(envelope, receivers, species.shape[0]))
        return scatter_sum(torch.ones_like(vectors[:, 0]), receivers, species.shape[0]).clamp(max=1.0)

    def _energies(self, energies: Tensor, vectors: Tensor, species: Tensor, receivers: Tensor) -> Tensor:
        bound = self._bound(vectors, species, receivers)
        if self.config.energy != "extensive":
            return bound * (self.scale * self.config.avg_num_nodes**-0.5) * energies
        return bound * self.scale * (energies + gather(self.shift, species))

    def _totals(self, graph: AtomGraph, energies: Tensor) -> Tensor:
        """Energies of the atoms from what `atomic_energies` gives."""
        if self.config.energy == "extensive":
            return energies
        if self.config.energy == "per_structure":
            # The mean belongs to the structure; shared among its atoms, so that their energies add up to it.
            return energies + self.config.energy_mean / torch.bincount(graph.batch)[graph.batch].to(energies)
        bound = torch.zeros_like(energies).index_fill(0, graph.receivers, 1.0)
        shifts = self.scale * gather(self.shift, self.element_index[graph.numbers])
        return energies * self._sizes(graph).to(energies) + bound * shifts

    def _sizes(self, graph: AtomGraph) -> Tensor:
        """How many atoms there are in what an atom's part of the energy per atom is taken of, `[N]`."""
        if self.config.energy == "per_structure":
            return torch.ones_like(graph.batch)
        group = graph.batch if self.config.energy == "per_atom" else fragments(graph)
        return torch.bincount(group)[group]


def fragments(graph: AtomGraph) -> Tensor:
    """Fragment of each atom, int64 `[N]`: atoms belong to the same one if a chain of neighbours connects them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    senders, receivers = graph.senders.cpu().numpy(), graph.receivers.cpu().numpy()
    adjacency = coo_array((np.ones(len(senders)), (senders, receivers)), shape=(graph.num_atoms, graph.num_atoms))
    return torch.from_numpy(connected_components(adjacency, directed=False)[1]).to(graph.batch)
