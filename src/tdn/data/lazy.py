"""Graphs of a frame store, made when they are asked for: memory does not grow with the number of frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tdn.data.dataset import GraphDataset, Labelled, Targets, collate_labelled, shortest_distances
from tdn.data.store import StoreView
from tdn.errors import DataError
from tdn.graph import AtomGraph
from tdn.structure import Structure

SAMPLE = 200  # frames from which the number of neighbours is estimated
WORKERS = 2


class LazyGraphDataset:
    """The same as `tdn.data.dataset.GraphDataset` for frames on disk; neighbours are found for every batch anew.

    Args:
        structures: Frames of a store.
        r_max: Cutoff radius, Å.
        max_neighbors: Keep only so many nearest neighbours of every atom; None keeps all.
        workers: Threads that make batches ahead of time.
    """

    def __init__(
        self, structures: StoreView, r_max: float, max_neighbors: int | None = None, workers: int = WORKERS
    ) -> None:
        self.view = structures
        self.structures: Sequence[Structure] = structures
        self.r_max = float(r_max)
        self.max_neighbors = max_neighbors
        self.workers = workers

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> Labelled:
        structure = self.view[index]
        return self.graph(index, structure), Targets.from_structure(structure)

    def graph(self, index: int, structure: Structure) -> AtomGraph:
        """The graph of one frame that has been read already."""
        try:
            return AtomGraph.from_structure(structure, self.r_max, self.max_neighbors)
        except DataError as error:
            raise DataError(f"Frame {int(self.view.frames[index])} of {self.view.store.path}: {error}") from error

    @cached_property
    def _sample(self) -> list[AtomGraph]:
        return [AtomGraph.from_structure(s, self.r_max, self.max_neighbors) for s in self.view.spread(SAMPLE)]

    @property
    def mean_neighbors(self) -> float:
        """Neighbours of an atom on average, estimated from evenly spread frames."""
        return sum(graph.num_edges for graph in self._sample) / max(sum(graph.num_atoms for graph in self._sample), 1)

    @property
    def shortest_distances(self) -> dict[str, float]:
        """Shortest distance of each pair of elements that are neighbours, Å, in evenly spread frames."""
        return shortest_distances(self._sample)

    @cached_property
    def mean_atoms(self) -> float:
        """Atoms of a structure on average."""
        return float(self.view.num_atoms.mean())

    @cached_property
    def num_edges(self) -> NDArray[np.int64]:
        """Edges of each structure, estimated from its number of atoms."""
        return np.ceil(self.view.num_atoms * self.mean_neighbors).astype(np.int64)

    def batch(self, indices: Sequence[int]) -> Labelled:
        """The structures at `indices` as one batch."""
        return collate_labelled([self[k] for k in indices])


Graphs = GraphDataset | LazyGraphDataset
"""Labelled graphs, in memory or made when they are asked for."""
