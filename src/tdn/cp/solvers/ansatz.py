"""Linear ansatz for CP factors: which entries are unknown and which follow from a symmetry.

The three factor matrices, flattened and stacked, are `S @ theta` for a sparse matrix `S`. Equal factors, or columns
that are images of each other under a finite group of rotations and reflections, only change `S`. Because the couplings
have the same symmetry, every column of an orbit contributes the same to the normal equations, so only one
*representative* column an orbit is needed, weighted by the size of the orbit: a large saving for large groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from tdn.cp.couplings import Array
from tdn.cp.decomposition import Factors
from tdn.cp.solvers.symmetry import Orbit


@dataclass(frozen=True)
class Ansatz:
    """Unknowns `theta` and the map to the stacked factors (row-major `[d, R]` each: in1, in2, out).

    Attributes:
        dimensions: Rows of the three matrices.
        rank: Number of columns.
        expansion: Sparse matrix `S`, `[(d1 + d2 + d3) R, unknowns]`.
        columns: Representative columns.
        multiplicity: Number of columns that each representative stands for.
        role_multiplicity: Number of roles that each role stands for; zero where another one stands for it.
    """

    dimensions: tuple[int, int, int]
    rank: int
    expansion: Any  # a CSR matrix; SciPy's types for sparse results are unions that fit nowhere
    columns: np.ndarray
    multiplicity: Array
    role_multiplicity: tuple[int, int, int] = (1, 1, 1)

    @property
    def unknowns(self) -> int:
        """Length of `theta`."""
        return self.expansion.shape[1]

    def factors(self, theta: Array) -> Factors:
        """The factor matrices for `theta`."""
        stacked = self.expansion @ theta
        ends = np.cumsum([0, *self.dimensions]) * self.rank
        return Factors(*(stacked[start:end].reshape(-1, self.rank) for start, end in itertools.pairwise(ends)))

    def fold(self, role: int, rows: Array) -> Array:
        """`S^T` applied to what the representatives (leading axes `[d, columns]`) stand for in one role."""
        start = sum(self.dimensions[:role]) * self.rank
        entries = np.arange(self.dimensions[role])
        indices = (start + entries[:, None] * self.rank + self.columns[None, :]).ravel()
        weights = np.tile(self.multiplicity, self.dimensions[role])
        weighted = rows.reshape(len(indices), -1) * weights[:, None]
        return self.expansion[indices].T @ weighted

    def random_start(self, rng: np.random.Generator, norm: float) -> Array:
        """Normal `theta` for which the CP form has the Frobenius norm `norm`."""
        theta = rng.standard_normal(self.unknowns)
        size = np.linalg.norm(self.factors(theta).reconstruct())
        return theta * np.cbrt(norm / size)


def free_ansatz(dimensions: tuple[int, int, int], rank: int, tied: Sequence[int] = ()) -> Ansatz:
    """Every entry is unknown, except that the matrices of the roles in `tied` (of equal dimensions) are one matrix."""
    owners = [tied[0] if role in tied else role for role in range(3)]
    roles = sorted(set(owners))
    blocks = [
        [
            sparse.identity(dimensions[role] * rank)
            if owners[role] == owner
            else sparse.csr_matrix((dimensions[role] * rank, dimensions[owner] * rank))
            for owner in roles
        ]
        for role in range(3)
    ]
    count = [owners.count(role) for role in range(3)]
    return Ansatz(
        dimensions,
        rank,
        sparse.bmat(blocks, format="csr"),
        np.arange(rank),
        np.ones(rank),
        (count[0], count[1], count[2]),
    )


def nested_ansatz(dimensions: tuple[int, int, int], rank: int) -> Ansatz:
    """The three matrices are the leading rows of one matrix, as for products of functions at common points."""
    identity: Any = sparse.identity(max(dimensions) * rank, format="csr")
    expansion = sparse.vstack([identity[: d * rank] for d in dimensions], format="csr")
    return Ansatz(dimensions, rank, expansion, np.arange(rank), np.ones(rank))


def orbit_ansatz(degrees: tuple[int, int, int], orbits: Sequence[Orbit], nested: bool = True) -> Ansatz:
    """Columns are orbits of a finite group: one unknown vector an orbit, invariant under its stabiliser.

    Args:
        degrees: Largest degrees of the three roles.
        orbits: The orbits; their lengths add up to the rank.
        nested: Whether the three matrices are the leading rows of one matrix (the same one for equal degrees).
    """
    top = max(degrees)
    dimensions = tuple((degree + 1) ** 2 for degree in degrees)
    rank = sum(orbit.length for orbit in orbits)
    columns = np.cumsum([0, *(orbit.length for orbit in orbits)])[:-1]
    roles = [[0, 1, 2]] if nested else [[0], [1], [2]]
    blocks = []
    for group in roles:
        largest = top if nested else degrees[group[0]]
        for orbit, start in zip(orbits, columns, strict=True):
            images = orbit.images(largest)
            full = [np.zeros((d, rank, images.shape[2])) for d in dimensions]
            for role in group:
                d = dimensions[role]
                full[role][:, start : start + orbit.length] = images[:, :d].transpose(1, 0, 2)
            blocks.append(np.concatenate([part.reshape(-1, images.shape[2]) for part in full]))
    expansion = sparse.csr_matrix(np.concatenate(blocks, axis=1))
    expansion.data[np.abs(expansion.data) < 1e-14] = 0.0
    expansion.eliminate_zeros()
    same = nested and len(set(degrees)) == 1
    multiplicity = np.array([float(orbit.length) for orbit in orbits])
    d1, d2, d3 = dimensions
    return Ansatz((d1, d2, d3), rank, expansion, columns, multiplicity, (3, 0, 0) if same else (1, 1, 1))


def cyclic_ansatz(dimension: int, fixed: int, triples: int) -> Ansatz:
    """Terms `(a, b, c), (b, c, a), (c, a, b)` and `(a, a, a)`: the symmetry of the coupling of all paths.

    Args:
        dimension: Rows of each of the three matrices.
        fixed: Number of terms with three equal factors.
        triples: Number of triples of terms; the rank is `fixed + 3 * triples`.
    """
    rank = fixed + 3 * triples
    own, others = np.arange(fixed), [fixed + part * triples + np.arange(triples) for part in range(3)]
    blocks = []
    for role in range(3):
        columns = np.concatenate([own, *(others[(part + role) % 3] for part in range(3))])
        permutation = sparse.csr_matrix((np.ones(rank), (np.arange(rank), columns)), shape=(rank, rank))
        blocks.append(sparse.kron(sparse.identity(dimension), permutation, format="csr"))
    expansion = sparse.vstack(blocks, format="csr")
    return Ansatz((dimension, dimension, dimension), rank, expansion, np.arange(rank), np.ones(rank), (3, 0, 0))
