"""The fast neighbour list equals the brute-force one on every kind of cell."""

from __future__ import annotations

import numpy as np
import pytest

from tdn.errors import DataError
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
