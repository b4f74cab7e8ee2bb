"""Structures as ready-made graphs with targets, and batches of bounded size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdn.errors import ConfigError, DataError
from tdn.graph import AtomGraph, collate
from tdn.structure import Structure


@dataclass(frozen=True)
class Targets:
    """Labels of `G` structures with `N` atoms; a missing label is zero and its mask False.

    Attributes:
        energy: Total energies, eV, float64 `[G]`.
        forces: eV/Å, float64 `[N, 3]`.
        stress: eV/Å³, ASE's sign, float64 `[G, 3, 3]`.
        has_energy: bool `[G]`.
        has_forces: bool `[G]`; all atoms of a structure have forces or none has.
        has_stress: bool `[G]`.
        free: Atoms whose forces count: those that are not held in place, bool `[N]`.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    has_energy: Tensor
    has_forces: Tensor
    has_stress: Tensor
    free: Tensor

    @classmethod
    def from_structure(cls, structure: Structure) -> Targets:
        """Targets of one structure (`G` = 1)."""
        forces, stress = structure.forces, structure.stress
        return cls(
            energy=torch.tensor([structure.energy or 0.0], dtype=torch.float64),
            forces=torch.from_numpy(np.zeros((len(structure), 3)) if forces is None else forces),
            stress=torch.from_numpy(np.zeros((3, 3)) if stress is None else stress)[None],
            has_energy=torch.tensor([structure.energy is not None]),
            has_forces=torch.tensor([forces is not None]),
            has_stress=torch.tensor([stress is not None]),
            free=torch.from_numpy(structure.free),
        )

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device."""
        return Targets(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


Labelled = tuple[AtomGraph, Targets]


def collate_labelled(items: Sequence[Labelled]) -> Labelled:
    """Put labelled graphs side by side into one batch."""
    graphs, targets = zip(*items, strict=True)
    joined = {f.name: torch.cat([getattr(target, f.name) for target in targets]) for f in fields(Targets)}
    return collate(graphs), Targets(**joined)


def pair_name(first: int, second: int) -> str:
    """Two atomic numbers as `C-H`, symbols in alphabetical order."""
    from ase.data import chemical_symbols

    return "-".join(sorted((chemical_symbols[first], chemical_symbols[second])))


def shortest_distances(graphs: Iterable[AtomGraph]) -> dict[str, float]:
    """Shortest distance of each pair of elements that are neighbours somewhere in `graphs`, Å, by `pair_name`."""
    found: dict[tuple[int, int], float] = {}
    for graph in graphs:
        distances = graph.edge_vectors().norm(dim=-1).numpy()
        ends = torch.stack([graph.numbers[graph.senders], graph.numbers[graph.receivers]]).numpy()
        pairs, where = np.unique(np.sort(ends, axis=0), axis=1, return_inverse=True)
        for k, pair in enumerate(pairs.T.tolist()):
            closest = float(distances[where == k].min())
            found[tuple(pair)] = min(closest, found.get(tuple(pair), np.inf))
    return {pair_name(*pair): distance for pair, distance in sorted(found.items())}


class GraphDataset:
    """Labelled graphs in memory; neighbour lists are computed once, here.

    A graph takes about 40 bytes an edge: 1000 frames of 27 atoms with 20 neighbours each take 22 MB.

    Args:
        structures: Labelled structures.
        r_max: Cutoff radius, Å.
        origins: Names of the structures for messages, such as `FrameSet.origins`.
        progress: Called with (done, total) after each structure.
        max_neighbors: Keep only so many nearest neighbours of every atom (`AtomGraph.nearest`); None keeps all.

    Raises:
        DataError: If two atoms of a structure overlap; the message names the structure.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        r_max: float,
        origins: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
        max_neighbors: int | None = None,
    ) -> None:
        self.workers = 0
        self.structures: Sequence[Structure] = tuple(structures)
        self.r_max = float(r_max)
        items = []
        for k, structure in enumerate(self.structures):
            try:
                graph = AtomGraph.from_structure(structure, self.r_max, max_neighbors)
            except DataError as error:
                raise DataError(f"Frame {origins[k] if origins else k}: {error}") from error
            items.append((graph, Targets.from_structure(structure)))
            if progress is not None:
                progress(k + 1, len(self.structures))
        self._items: tuple[Labelled, ...] = tuple(items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Labelled:
        return self._items[index]

    @property
    def num_edges(self) -> list[int]:
        """Edges of each structure."""
        return [graph.num_edges for graph, _ in self._items]

    @property
    def mean_neighbors(self) -> float:
        """Neighbours of an atom on average; 0 if all atoms are alone."""
        atoms = sum(graph.num_atoms for graph, _ in self._items)
        return sum(self.num_edges) / max(atoms, 1)

    @property
    def mean_atoms(self) -> float:
        """Atoms of a structure on average."""
        return sum(len(structure) for structure in self.structures) / max(len(self.structures), 1)

    @functools.cached_property
    def shortest_distances(self) -> dict[str, float]:
        """Shortest distance of each pair of elements that are neighbours somewhere, Å, by `pair_name`."""
        return shortest_distances(graph for graph, _ in self._items)

    def batch(self, indices: Sequence[int]) -> Labelled:
        """The structures at `indices` as one batch."""
        return collate_labelled([self._items[k] for k in indices])


class EdgeBudgetSampler:
    """Batches bounded by structures and by edges, so that no mix of sizes runs out of memory.

    The batches of an epoch depend on `seed` and the epoch's number only: a resumed run sees what it would have seen.
    A structure larger than the budget makes a batch of its own.

    Args:
        num_edges: Edges of each structure.
        batch_size: Most structures in a batch, or None for no limit.
        max_edges: Most edges in a batch, or None for no limit.
        shuffle: Whether each epoch has its own random order.
        seed: Seed of the shuffle.
        rank: This process.
        world_size: Number of processes; all get the same number of batches, for which some batches may come twice.

    Raises:
        ConfigError: If neither limit is given or one is not positive.
    """

    def __init__(
        self,
        num_edges: Sequence[int] | NDArray[np.int64],
        *,
        batch_size: int | None = None,
        max_edges: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        limits = [limit for limit in (batch_size, max_edges) if limit is not None]
        if not limits or min(limits) < 1:
            raise ConfigError(
                f"A batch needs a positive limit of structures or edges, got batch_size={batch_size}, "
                f"max_edges={max_edges}."
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must be in 0..{world_size - 1}, got {rank}.")
        self.num_edges = np.asarray(num_edges, dtype=np.int64)
        self.batch_size = batch_size or max(len(self.num_edges), 1)
        self.max_edges = max_edges
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def batches(self, epoch: int = 0) -> Batches:
        """Indices of this process's batches in one epoch."""
        order = np.arange(len(self.num_edges))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.num_edges))
        return Batches(order, self._starts(order), self.rank, self.world_size)

    def _starts(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the order each batch starts, and where the last one ends: one batch after the other is filled."""
        total = len(order)
        if self.max_edges is None:
            return np.append(np.arange(0, total, self.batch_size), total)
        ends = np.concatenate([[0], np.cumsum(self.num_edges[order])])
        starts = [0]
        while starts[-1] < total:
            first = starts[-1]
            fitting = int(ends.searchsorted(ends[first] + self.max_edges, side="right")) - 1
            starts.append(min(first + self.batch_size, max(fitting, first + 1), total))
        return np.array(starts)


class Batches(Sequence[list[int]]):
    """The batches of one process in one epoch, cut out of the order of all structures when they are asked for.

    Processes take batches in turn. Gradients are averaged over processes in step, so that a process with fewer batches
    would leave others waiting: the first batches come again until all have as many.

    Args:
        order: Of all structures.
        starts: Where each batch starts in it, and where the last one ends.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, order: NDArray[np.int64], starts: NDArray[np.int64], rank: int = 0, world_size: int = 1) -> None:
        self._order, self._starts, self._rank, self._world_size = order, starts, rank, world_size

    def __len__(self) -> int:
        return -(-(len(self._starts) - 1) // self._world_size)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[k] for k in range(len(self))[index]]
        number = (self._rank + range(len(self))[index] * self._world_size) % (len(self._starts) - 1)
        return self._order[self._starts[number] : self._starts[number + 1]].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)
