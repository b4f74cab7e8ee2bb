"""`VerletBatch`: graphs of many moving structures side by side, with neighbour lists that are rebuilt one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch

from tdn.errors import DataError
from tdn.graph import AtomGraph, collate
from tdn.neighbors import SHORTEST_DISTANCE
from tdn.structure import Structure


class OverlapError(DataError):
    """Atoms on top of each other in some structures of a batch.

    Attributes:
        messages: What is wrong, by the structure's key.
    """

    def __init__(self, messages: Mapping[Any, str]) -> None:
        super().__init__("; ".join(messages.values()))
        self.messages = dict(messages)


class VerletBatch:
    """Neighbour lists of structures that move on their own, kept between calls.

    A list reaches `r_max + skin` and stays valid until an atom of its structure has moved more than `skin / 2`, or the
    cell, the periodicity or the elements changed. Pairs beyond the cutoff are left out of every graph, so that results
    are the same with every skin.

    Args:
        r_max: Cutoff of the potential, Å.
        skin: How much further the lists reach, Å.

    Attributes:
        rebuilds: How many lists were built.
    """

    def __init__(self, r_max: float, skin: float = 0.5) -> None:
        self.r_max = r_max
        self.skin = skin
        self.rebuilds = 0
        self._built: dict[Hashable, tuple[Structure, AtomGraph]] = {}
        self._joined: AtomGraph | None = None

    def graph(self, structures: Mapping[Hashable, Structure]) -> AtomGraph:
        """One graph of all `structures`, in their order, with exactly the edges within `r_max`.

        Args:
            structures: By a key that stays the same while a structure moves.

        Raises:
            OverlapError: If atoms lie on top of each other; names the keys of the structures.
        """
        stale = [key for key, structure in structures.items() if not self._covers(key, structure)]
        self._rebuild({key: structures[key] for key in stale})
        if stale or self._joined is None or list(structures) != list(self._built):
            self._built = {key: self._built[key] for key in structures}
            self._joined = collate([graph for _, graph in self._built.values()])
        positions = np.concatenate([structure.positions for structure in structures.values()])
        wide = dataclasses.replace(self._joined, positions=torch.from_numpy(positions))
        squares = wide.edge_vectors().square().sum(-1)
        self._check_distances(wide, squares, structures)
        within = squares <= self.r_max**2
        return dataclasses.replace(
            wide, senders=wide.senders[within], receivers=wide.receivers[within], shifts=wide.shifts[within]
        )

    def num_edges(self, structure: Structure) -> int:
        """Edges of one structure, which the memory of a batch is counted in."""
        return AtomGraph.from_structure(structure, self.r_max).num_edges

    def _rebuild(self, structures: Mapping[Hashable, Structure]) -> None:
        messages: dict[Hashable, str] = {}
        for key, structure in structures.items():
            try:
                self._built[key] = structure, AtomGraph.from_structure(structure, self.r_max + self.skin)
            except DataError as error:
                messages[key] = str(error)
            self.rebuilds += 1
        if messages:
            raise OverlapError(messages)

    def _covers(self, key: Hashable, structure: Structure) -> bool:
        built = self._built[key][0] if key in self._built else None
        if built is None or len(built) != len(structure):
            return False
        same = (
            np.array_equal(built.cell, structure.cell)
            and np.array_equal(built.numbers, structure.numbers)
            and np.array_equal(built.pbc, structure.pbc)
        )
        moved = np.square(structure.positions - built.positions).sum(axis=1).max()
        return bool(same and moved <= (self.skin / 2) ** 2)

    @staticmethod
    def _check_distances(wide: AtomGraph, squares: torch.Tensor, structures: Mapping[Hashable, Structure]) -> None:
        if not squares.numel() or squares.min() >= SHORTEST_DISTANCE**2:
            return
        close = squares < SHORTEST_DISTANCE**2
        keys = list(structures)
        broken = {keys[k] for k in wide.batch[wide.receivers[close]].tolist()}
        raise OverlapError(
            {
                key: f"Two atoms of {structures[key].formula} came closer than {SHORTEST_DISTANCE} Å."
                for key in keys
                if key in broken
            }
        )
