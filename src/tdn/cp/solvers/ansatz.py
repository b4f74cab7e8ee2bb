"""Linear ansatz for CP factors: which entries are unknown and which follow from a symmetry.

The three factor matrices, flattened and stacked, are `S @ theta` for a sparse matrix `S`. Equal factors, or terms in
cyclic triples, only change `S`. Because the whole coupling has the same symmetry, roles that share their unknowns
contribute the same to the normal equations, so one of them stands for all.
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


@dataclass(frozen=True)
class Ansatz:
    """Unknowns `theta` and the map to the stacked factors (row-major `[d, R]` each: in1, in2, out).

    Attributes:
        dimensions: Rows of the three matrices.
        rank: Number of columns.
        expansion: Sparse matrix `S`, `[(d1 + d2 + d3) R, unknowns]`.
        role_multiplicity: Number of roles that each role stands for; zero where another one stands for it.
    """

    dimensions: tuple[int, int, int]
    rank: int
    expansion: Any  # a CSR matrix; SciPy's types for sparse results are unions that fit nowhere
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
        """`S^T` applied to derivatives in the matrix of one role, leading axes `[d, R]`: `[unknowns, ...]`."""
        start = sum(self.dimensions[:role]) * self.rank
        size = self.dimensions[role] * self.rank
        return self.expansion[start : start + size].T @ rows.reshape(size, -1)

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
    first, second, third = (owners.count(role) for role in range(3))
    return Ansatz(dimensions, rank, sparse.bmat(blocks, format="csr"), (first, second, third))


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
    return Ansatz((dimension, dimension, dimension), rank, sparse.vstack(blocks, format="csr"), (3, 0, 0))
