"""`AtomGraph`: what a network sees; `Prediction`: what it says. Every array shape of the package is defined here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tdn.neighbors import neighbor_list
from tdn.structure import Structure

# Å, as in fairchem's lists of a limited number of neighbours.
EQUAL_DISTANCE = 0.01
MOST_WITHIN_ONE = 0.4  # atoms in a sphere with a radius of 1 Å of a dense solid: 0.1 an Å³


@dataclass(frozen=True)
class AtomGraph:
    """One or several structures as one graph; `N` atoms, `E` directed edges, `G` structures.

    An edge carries a message from `senders` to `receivers`; its vector is
    `positions[senders] + shifts @ cell - positions[receivers]`. Edges are sorted by receiver, atoms by structure.

    Attributes:
        numbers: Atomic numbers, int64 `[N]`.
        positions: Å, float64 `[N, 3]`. Float64 whatever the model's precision, so that distances lose no digits.
        cell: Rows are lattice vectors, Å, float64 `[G, 3, 3]`.
        senders: int64 `[E]`.
        receivers: int64 `[E]`, ascending.
        shifts: Lattice shifts of the sender's image, float64 `[E, 3]`, whole numbers.
        batch: Structure of each atom, int64 `[N]`, ascending.
        num_graphs: `G`.
        periodic: Whether a structure is periodic in all directions, so that stress is defined; bool `[G]`.
    """

    numbers: Tensor
    positions: Tensor
    cell: Tensor
    senders: Tensor
    receivers: Tensor
    shifts: Tensor
    batch: Tensor
    num_graphs: int
    periodic: Tensor

    @property
    def num_atoms(self) -> int:
        """`N`."""
        return self.numbers.shape[0]

    @property
    def num_edges(self) -> int:
        """`E`."""
        return self.senders.shape[0]

    @classmethod
    def from_structure(cls, structure: Structure, r_max: float, max_neighbors: int | None = None) -> AtomGraph:
        """The graph of one structure with all neighbours within `r_max` (Å), or the `nearest` of them."""
        if max_neighbors is None:
            return cls._within(structure, r_max)
        # The nearest are found among those within a radius that holds a few times as many in a dense solid, mostly.
        for times in (4, 12):
            radius = (times * max_neighbors / MOST_WITHIN_ONE) ** (1 / 3)
            if radius < r_max:
                graph, furthest = cls._within(structure, radius)._nearest(max_neighbors)
                if furthest <= radius:
                    return graph
        return cls._within(structure, r_max).nearest(max_neighbors)

    @classmethod
    def _within(cls, structure: Structure, radius: float) -> AtomGraph:
        """The graph with all neighbours within `radius`."""
        senders, receivers, shifts = neighbor_list(structure, radius)
        return cls(
            numbers=torch.from_numpy(structure.numbers),
            positions=torch.from_numpy(structure.positions),
            cell=torch.from_numpy(structure.cell)[None],
            senders=torch.from_numpy(senders),
            receivers=torch.from_numpy(receivers),
            shifts=torch.from_numpy(shifts).to(torch.float64),
            batch=torch.zeros(len(structure), dtype=torch.int64),
            num_graphs=1,
            periodic=torch.tensor([bool(structure.pbc.all())]),
        )

    def edge_vectors(self) -> Tensor:
        """From receiver to sender, Å, float64 `[E, 3]`."""
        cells = self.cell[self.batch[self.receivers]]
        images = torch.einsum("ek,ekc->ec", self.shifts, cells)
        return self.positions[self.senders] + images - self.positions[self.receivers]

    def nearest(self, max_neighbors: int) -> AtomGraph:
        """The same graph with the `max_neighbors` nearest neighbours of every atom, for networks trained that way.

        Neighbours as far as the last one, to 0.01 Å, stay too: which of several equal ones to keep would depend on
        rounding and on the order of the atoms. Energies jump where a neighbour enters or leaves the list.
        """
        return self._nearest(max_neighbors)[0]

    def _nearest(self, max_neighbors: int) -> tuple[AtomGraph, float]:
        """`nearest`, and how far one has to look for it to be right, Å: infinitely, if an atom has fewer neighbours."""
        distances = self.edge_vectors().norm(dim=-1)
        by_distance = distances.argsort(stable=True)
        order = by_distance[self.receivers[by_distance].argsort(stable=True)]
        counts = torch.bincount(self.receivers, minlength=self.num_atoms)
        starts = counts.cumsum(0) - counts
        limits = torch.full((self.num_atoms,), torch.inf, dtype=distances.dtype, device=distances.device)
        crowded = counts > max_neighbors
        limits[crowded] = distances[order[starts[crowded] + max_neighbors - 1]] + EQUAL_DISTANCE
        kept = distances <= limits[self.receivers]
        graph = dataclasses.replace(
            self, senders=self.senders[kept], receivers=self.receivers[kept], shifts=self.shifts[kept]
        )
        return graph, float(limits.max())

    def first(self, max_neighbors: int) -> AtomGraph:
        """The same graph with the first `max_neighbors` neighbours of every atom in the order of the atoms.

        This is what torch-cluster's `radius_graph` keeps on GPUs, and so what networks trained with it have seen; the
        result depends on the order of the atoms.
        """
        counts = torch.bincount(self.receivers, minlength=self.num_atoms)
        starts = counts.cumsum(0) - counts
        order = self.senders.argsort(stable=True)
        order = order[self.receivers[order].argsort(stable=True)]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(self.num_edges, device=order.device)
        kept = rank - starts[self.receivers] < max_neighbors
        return dataclasses.replace(
            self, senders=self.senders[kept], receivers=self.receivers[kept], shifts=self.shifts[kept]
        )

    def to(self, device: torch.device | str) -> AtomGraph:
        """The same graph on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return AtomGraph(**moved)


def collate(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """Put graphs side by side into one; the edges of each stay within it."""
    atoms = torch.tensor([0] + [graph.num_atoms for graph in graphs]).cumsum(0)
    count = torch.tensor([0] + [graph.num_graphs for graph in graphs]).cumsum(0)
    return AtomGraph(
        numbers=torch.cat([graph.numbers for graph in graphs]),
        positions=torch.cat([graph.positions for graph in graphs]),
        cell=torch.cat([graph.cell for graph in graphs]),
        senders=torch.cat([graph.senders + atoms[k] for k, graph in enumerate(graphs)]),
        receivers=torch.cat([graph.receivers + atoms[k] for k, graph in enumerate(graphs)]),
        shifts=torch.cat([graph.shifts for graph in graphs]),
        batch=torch.cat([graph.batch + count[k] for k, graph in enumerate(graphs)]),
        num_graphs=int(count[-1]),
        periodic=torch.cat([graph.periodic for graph in graphs]),
    )


@dataclass(frozen=True)
class Prediction:
    """What a potential says of an `AtomGraph`.

    Attributes:
        energy: Total energy of each structure, eV, float64 `[G]`.
        energies: Energy of each atom, reference energies included, eV, float64 `[N]`.
        forces: eV/Å, `[N, 3]`.
        stress: eV/Å³, ASE's sign (tension positive), `[G, 3, 3]`; NaN where a structure is not periodic in all
            directions.
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor
    stress: Tensor
