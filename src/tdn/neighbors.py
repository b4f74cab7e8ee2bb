"""Neighbour lists: every pair within the cutoff, periodic images included, none left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tdn.errors import DataError
from tdn.structure import Structure

Neighbors = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

# Two atoms closer than this are a broken structure, not a repulsive wall that a model could know.
SHORTEST_DISTANCE = 0.1


def neighbor_list(structure: Structure, r_max: float) -> Neighbors:
    """Directed pairs with `|r_sender + shift @ cell - r_receiver| <= r_max`, sorted by receiver, sender and shift.

    An atom is its own neighbour through periodic images, never at zero distance. Cells may be small, skewed and
    periodic in some directions only.

    Args:
        structure: Atoms and cell.
        r_max: Cutoff radius, Å.

    Returns:
        `senders [E]`, `receivers [E]` and integer lattice `shifts [E, 3]` of the sender's image, all int64.

    Raises:
        DataError: If two atoms lie on top of each other (closer than 0.1 Å).
    """
    from vesin import NeighborList

    finder = NeighborList(cutoff=float(r_max), full_list=True, sorted=False, n_threads=1)
    receivers, senders, shifts, distances = finder.compute(
        structure.positions, structure.cell, periodic=structure.pbc, quantities="ijSd"
    )
    if len(distances) and distances.min() < SHORTEST_DISTANCE:
        k = int(distances.argmin())
        raise DataError(
            f"Atoms {int(receivers[k])} and {int(senders[k])} of {structure.formula} are {distances[k]:.3f} Å apart; "
            f"expected at least {SHORTEST_DISTANCE} Å. Remove the duplicate atom or repair the structure."
        )
    # A full order makes sums, and so restarted trajectories, the same to the last bit whatever lists came before.
    order = np.lexsort((*shifts.T[::-1], senders, receivers))
    return senders[order].astype(np.int64), receivers[order].astype(np.int64), shifts[order].astype(np.int64)


def brute_force_neighbor_list(structure: Structure, r_max: float) -> Neighbors:
    """The same list by testing every pair and image, O(N²): the reference that tests compare with."""
    images = []
    # The distance between lattice planes bounds how many images along a vector can reach into the cutoff.
    for k in range(3):
        if not structure.pbc[k]:
            images.append(np.zeros(1, dtype=np.int64))
            continue
        others = [structure.cell[m] for m in range(3) if m != k]
        normal = np.cross(*others)
        if np.linalg.norm(normal) < 1e-12:
            normal = structure.cell[k]
        height = abs(structure.cell[k] @ normal) / np.linalg.norm(normal)
        extent = np.ptp(structure.positions @ normal / np.linalg.norm(normal))
        count = int(np.ceil((r_max + extent) / height))
        images.append(np.arange(-count, count + 1))
    shifts = np.stack(np.meshgrid(*images, indexing="ij"), axis=-1).reshape(-1, 3)
    offset = (
        structure.positions[None, :, None] + (shifts @ structure.cell)[None, None] - structure.positions[:, None, None]
    )
    distance = np.linalg.norm(offset, axis=-1)
    itself = np.eye(len(structure), dtype=bool)[:, :, None] & (shifts == 0).all(axis=1)[None, None]
    receivers, senders, image = np.nonzero((distance <= r_max) & ~itself)
    return senders, receivers, shifts[image]
