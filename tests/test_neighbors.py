"""The fast neighbour list equals the brute-force one on every kind of cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tdn.errors import DataError
from tdn.graph import AtomGraph, collate
from tdn.neighbors import brute_force_neighbor_list, neighbor_list
from tdn.structure import Structure


def make(n: int, cell: object, pbc: object, seed: int = 0, spread: float = 4.0) -> Structure:
    rng = np.random.default_rng(seed)
    points = []
    while len(points) < n:
        point = rng.uniform(0, spread, 3)
        if all(np.linalg.norm(point - other) > 0.7 for other in points):
            points.append(point)
    return Structure(np.full(n, 6), np.array(points), np.array(cell, float), np.array(pbc, bool))


CELLS = {
    "molecule": (np.zeros((3, 3)), [False] * 3),
    "cubic": (np.eye(3) * 5.0, [True] * 3),
    "cell smaller than the cutoff": (np.eye(3) * 4.0, [True] * 3),
    "skewed": ([[5, 0, 0], [6, 5, 0], [-4, 7, 5]], [True] * 3),
    "slab": ([[5, 0, 0], [1, 5, 0], [0, 0, 20]], [True, True, False]),
    "slab without third vector": ([[5, 0, 0], [1, 5, 0], [0, 0, 0]], [True, True, False]),
    "wire": (np.diag([30.0, 30.0, 3.9]), [False, False, True]),
}


@pytest.mark.parametrize("name", CELLS)
def test_neighbor_list_equals_brute_force(name: str) -> None:
    structure = make(6, *CELLS[name])
    found, expected = (
        {(int(i), int(j), *map(int, shift)) for i, j, shift in zip(*neighbors, strict=True)}
        for neighbors in (neighbor_list(structure, 4.5), brute_force_neighbor_list(structure, 4.5))
    )
    assert found == expected
    assert len(found) > 0


def test_edges_are_sorted_by_receiver() -> None:
    _, receivers, _ = neighbor_list(make(8, *CELLS["cubic"]), 4.0)
    assert (np.diff(receivers) >= 0).all()


def test_lone_atom_has_no_neighbors() -> None:
    senders, receivers, shifts = neighbor_list(make(1, *CELLS["molecule"]), 5.0)
    assert len(senders) == len(receivers) == 0
    assert shifts.shape == (0, 3)


def test_overlapping_atoms_are_refused() -> None:
    structure = Structure(np.array([1, 1]), np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    with pytest.raises(DataError, match="apart"):
        neighbor_list(structure, 5.0)


@pytest.mark.parametrize("name", CELLS)
def test_the_nearest_neighbors_are_kept_and_no_others(name: str) -> None:
    graph = AtomGraph.from_structure(make(6, *CELLS[name]), 4.5)
    few = graph.nearest(3)
    distances = graph.edge_vectors().norm(dim=-1)
    for atom in range(6):
        own = sorted(distances[graph.receivers == atom].tolist())
        kept = sorted(few.edge_vectors().norm(dim=-1)[few.receivers == atom].tolist())
        assert kept == [d for d in own if d <= own[:3][-1] + 0.01]
        assert len(kept) >= min(3, len(own))


@pytest.mark.parametrize("spacing", [0.9, 1.5, 2.5, 4.0, 9.0])
@pytest.mark.parametrize("periodic", [True, False])
def test_the_nearest_are_found_without_looking_further_than_needed(spacing: float, periodic: bool) -> None:
    """Dense and sparse structures, with an atom above that has few neighbours nearby, and many at equal distances."""
    grid = spacing * np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)
    positions = np.concatenate([grid, [[0.0, 0.0, 5.0 * spacing + 3.0]]])
    cell = np.diag([4.0 * spacing, 4.0 * spacing, 40.0]) if periodic else np.zeros((3, 3))
    pbc = np.array([periodic] * 2 + [False])
    structure = Structure(np.full(len(positions), 29), positions, cell, pbc)
    for most in (1, 6, 20):
        direct, full = AtomGraph.from_structure(structure, 9.0, most), AtomGraph.from_structure(structure, 9.0)
        expected = full.nearest(most)
        for name in ("senders", "receivers", "shifts"):
            assert torch.equal(getattr(direct, name), getattr(expected, name))


def test_neighbors_that_are_equally_far_stay_together() -> None:
    chain = Structure(
        np.full(5, 6), np.arange(5)[:, None] * np.array([[1.0, 0, 0]]), np.zeros((3, 3)), np.zeros(3, bool)
    )
    few = AtomGraph.from_structure(chain, 10.0).nearest(1)
    assert sorted(few.senders[few.receivers == 2].tolist()) == [1, 3]
    assert few.senders[few.receivers == 0].tolist() == [1]


def test_keeping_the_nearest_neighbors_commutes_with_batching() -> None:
    graphs = [AtomGraph.from_structure(make(6, *CELLS[name], seed=k), 4.5) for k, name in enumerate(CELLS)]
    whole, parts = collate(graphs).nearest(4), collate([graph.nearest(4) for graph in graphs])
    assert torch.equal(whole.senders, parts.senders)
    assert torch.equal(whole.receivers, parts.receivers)
    assert torch.equal(whole.nearest(4).senders, whole.senders)
