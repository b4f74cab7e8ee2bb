"""Structures that a potential is probed with: made from its own elements, and moved in ways that it must know of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tdn.cp.couplings import random_rotations
from tdn.structure import Structure

Array = NDArray[np.float64]
Numbers = Sequence[int] | NDArray[np.int64]

# Basis and lattice of the crystals below: nothing is symmetric, so that no force or stress vanishes by chance.
SKEWED_CELL = np.array([[1.0, 0.05, 0.0], [0.35, 0.95, 0.1], [-0.25, 0.3, 0.9]])
SKEWED_BASIS = np.array([[0.02, 0.0, 0.05], [0.48, 0.53, 0.03], [0.55, -0.04, 0.46], [0.01, 0.46, 0.55]])


def covalent_radius(number: int) -> float:
    """Covalent radius in Å (Cordero et al. 2008, as in ASE); 1.5 Å for the elements that have none there."""
    from ase.data import covalent_radii

    radius = float(covalent_radii[number]) if number < len(covalent_radii) else 0.2
    # ASE marks unknown radii by 0.2 Å.
    return radius if radius > 0.25 else 1.5


def probe_structures(elements: Sequence[int], r_max: float, seed: int = 0) -> tuple[Structure, ...]:
    """Three random clusters of eight atoms and a small skewed crystal, of `elements`; the same for the same seed."""
    rng = np.random.default_rng(seed)
    clusters = [random_cluster(rng.choice(elements, size=8), rng) for _ in range(3)]
    return (*clusters, skewed_crystal(rng.choice(elements, size=4), 0.3 * r_max))


def random_cluster(numbers: Numbers, rng: np.random.Generator) -> Structure:
    """A connected cluster: each atom 1.0 to 1.25 sums of covalent radii, and at least 0.9 Å, from an earlier one."""
    radii = np.array([covalent_radius(int(z)) for z in numbers])
    positions = np.zeros((1, 3))
    while len(positions) < len(radii):
        k = len(positions)
        partner = rng.integers(k)
        direction = rng.standard_normal(3)
        length = max(rng.uniform(1.0, 1.25) * (radii[k] + radii[partner]), 0.9)
        trial = positions[partner] + length * direction / np.linalg.norm(direction)
        if (np.linalg.norm(positions - trial, axis=1) >= np.maximum(0.99 * (radii[:k] + radii[k]), 0.89)).all():
            positions = np.vstack([positions, trial])
    return make_structure(numbers, positions)


def skewed_crystal(numbers: Numbers, shortest: float = 0.0) -> Structure:
    """Four atoms in a skewed cell, of a size that no two atoms are closer than a bond.

    Args:
        numbers: Four atomic numbers.
        shortest: Shortest distance between any two atoms, Å, if longer than 1.15 sums of covalent radii.
    """
    images = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]) @ SKEWED_CELL
    fractional = SKEWED_BASIS @ SKEWED_CELL
    distances = np.linalg.norm(fractional[:, None, None] + images - fractional[None, :, None], axis=-1)
    radii = np.array([covalent_radius(int(z)) for z in numbers])
    wanted = np.maximum(1.15 * (radii[:, None] + radii[None]), shortest)[:, :, None]
    scale = (wanted / np.where(distances > 1e-9, distances, np.inf)).max()
    return make_structure(numbers, fractional * scale, SKEWED_CELL * scale)


def make_structure(numbers: Numbers, positions: Array, cell: Array | None = None) -> Structure:
    """A structure that is periodic in all directions if it has a cell, else in none."""
    return Structure(
        numbers=np.array(numbers, dtype=np.int64),
        positions=np.array(positions, dtype=np.float64),
        cell=np.zeros((3, 3)) if cell is None else np.array(cell, dtype=np.float64),
        pbc=np.full(3, cell is not None),
    )


def supercell(structure: Structure) -> Structure:
    """Twice the cell along every periodic direction; a structure without any is returned as it is."""
    return Structure.from_ase(structure.to_ase().repeat([2 if periodic else 1 for periodic in structure.pbc]))


def displaced(structure: Structure, amplitude: float, rng: np.random.Generator, count: int) -> list[Structure]:
    """Copies with every coordinate moved by a normal random number of standard deviation `amplitude`, Å."""
    moves = amplitude * rng.standard_normal((count, *structure.positions.shape))
    return [dataclasses.replace(structure, positions=structure.positions + move) for move in moves]


def transformed(structure: Structure, matrix: Array) -> Structure:
    """Positions and cell multiplied by a matrix `[3, 3]` that acts on column vectors: rotation, mirror or strain."""
    return dataclasses.replace(structure, positions=structure.positions @ matrix.T, cell=structure.cell @ matrix.T)


def rotated(structure: Structure, rng: np.random.Generator, improper: bool = False) -> Structure:
    """Turned by a uniformly random rotation, about the origin; mirrored as well if `improper`."""
    return transformed(structure, random_rotations(1, rng, improper)[0])


def translated(structure: Structure, rng: np.random.Generator) -> Structure:
    """Moved by up to 10 Å as a whole, and each atom by random lattice vectors along the periodic directions."""
    images = rng.integers(-2, 3, size=structure.positions.shape) * structure.pbc
    moved = structure.positions + rng.uniform(-10.0, 10.0, 3) + images @ structure.cell
    return dataclasses.replace(structure, positions=moved)


def permuted(structure: Structure, rng: np.random.Generator) -> Structure:
    """The same atoms in another order."""
    order = rng.permutation(len(structure))
    return dataclasses.replace(structure, numbers=structure.numbers[order], positions=structure.positions[order])


def side_by_side(first: Structure, second: Structure, gap: float) -> Structure:
    """Two molecules as one structure, `gap` Å between their bounding spheres."""
    centers = [structure.positions.mean(axis=0) for structure in (first, second)]
    radii = [
        np.linalg.norm(structure.positions - center, axis=1).max()
        for structure, center in zip((first, second), centers, strict=True)
    ]
    offset = centers[0] - centers[1] + np.array([sum(radii) + gap, 0.0, 0.0])
    return make_structure(
        np.concatenate([first.numbers, second.numbers]), np.vstack([first.positions, second.positions + offset])
    )
