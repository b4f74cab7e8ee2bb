"""Batched Verlet lists: the same graphs as without them, rebuilt only when they have to be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tdn.graph import AtomGraph, collate
from tdn.simulation.verlet import OverlapError, VerletBatch
from tdn.structure import Structure

from .conftest import cluster, crystal


def edges(graph: AtomGraph) -> set[tuple[float, ...]]:
    """Edges as a set, since their order within a receiver means nothing."""
    stacked = torch.cat([graph.senders[:, None], graph.receivers[:, None], graph.shifts], dim=1)
    return {tuple(row) for row in stacked.tolist()}


def moved(structure: Structure, by: float, seed: int) -> Structure:
    steps = np.random.default_rng(seed).normal(size=structure.positions.shape)
    steps *= by / np.linalg.norm(steps, axis=1).max()
    return dataclasses.replace(structure, positions=structure.positions + steps)


def test_graphs_are_those_without_a_list() -> None:
    lists = VerletBatch(4.0, skin=0.5)
    structures = {"a": Structure.from_ase(cluster(5)), "b": Structure.from_ase(crystal())}
    for step in range(8):
        structures = {key: moved(s, 0.2, step) for key, s in structures.items()}
        graph = lists.graph(structures)
        expected = collate([AtomGraph.from_structure(s, 4.0) for s in structures.values()])
        assert edges(graph) == edges(expected)
        torch.testing.assert_close(graph.positions, expected.positions, rtol=0, atol=0)
    assert 2 < lists.rebuilds < 16


def test_structures_come_and_go() -> None:
    lists = VerletBatch(4.0)
    a, b, c = (Structure.from_ase(cluster(k)) for k in (3, 4, 5))
    lists.graph({1: a, 2: b})
    graph = lists.graph({2: b, 3: c})
    assert lists.rebuilds == 3
    assert graph.num_graphs == 2
    assert edges(graph) == edges(collate([AtomGraph.from_structure(s, 4.0) for s in (b, c)]))


def test_changed_cells_and_elements_are_noticed() -> None:
    lists = VerletBatch(4.0)
    start = Structure.from_ase(crystal())
    for changed in (
        start,
        dataclasses.replace(start, cell=start.cell * 1.001),
        dataclasses.replace(start, numbers=start.numbers[::-1].copy() - 0, pbc=np.array([True, True, False])),
    ):
        before = lists.rebuilds
        lists.graph({0: changed})
        assert lists.rebuilds == before + 1


def test_overlapping_structures_are_named() -> None:
    lists = VerletBatch(4.0, skin=5.0)
    whole, broken = Structure.from_ase(cluster(3)), Structure.from_ase(cluster(4))
    lists.graph({"whole": whole, "broken": broken})
    closer = broken.positions.copy()
    closer[1] = closer[0] + 0.01
    with pytest.raises(OverlapError, match="closer") as caught:
        lists.graph({"whole": whole, "broken": dataclasses.replace(broken, positions=closer)})
    assert list(caught.value.messages) == ["broken"]
    assert lists.rebuilds == 2
