"""Linear ansatz for CP factors: which entries are unknown and which follow from a symmetry.

The three factor matrices, flattened and stacked, are `S @ theta` for a sparse matrix `S`. Equal factors, or columns
that are images of each other under a finite rotation group, only change `S`. Because the couplings have the same
symmetry, the normal equations need only the rows of *representative* columns, weighted by how often they occur: a
large saving for groups with many elements.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from tdn.cp.couplings import Array
from tdn.cp.decomposition import Factors


@dataclass(frozen=True)
class Representative:
    """Columns of one role whose rows of the normal equations stand for `multiplicity` equal ones."""

    role: int
    columns: np.ndarray
    multiplicity: np.ndarray


@dataclass(frozen=True)
class Ansatz:
    """Unknowns `theta` and the map to the stacked factors (row-major `[d, R]` each, in1 then in2 then out)."""

    dimensions: tuple[int, int, int]
    rank: int
    expansion: sparse.csr_matrix
    representatives: tuple[Representative, ...]

    @property
    def unknowns(self) -> int:
        """Length of `theta`."""
        return self.expansion.shape[1]

    def factors(self, theta: Array) -> Factors:
        """The factor matrices for `theta`."""
        stacked = self.expansion @ theta
        ends = np.cumsum([0, *self.dimensions]) * self.rank
        return Factors(*(stacked[start:end].reshape(-1, self.rank) for start, end in itertools.pairwise(ends)))

    def row_indices(self, representative: Representative) -> np.ndarray:
        """Indices in the stacked factors of a representative's entries, in the order `[d, columns]` row-major."""
        start = sum(self.dimensions[: representative.role]) * self.rank
        rows = np.arange(self.dimensions[representative.role])
        return (start + rows[:, None] * self.rank + representative.columns[None, :]).ravel()

    def random_start(self, rng: np.random.Generator, norm: float) -> Array:
        """Normal `theta` for which the CP form has about the Frobenius norm `norm`."""
        theta = rng.standard_normal(self.unknowns)
        size = np.linalg.norm(self.factors(theta).reconstruct())
        return theta * np.cbrt(norm / size)


def free_ansatz(dimensions: tuple[int, int, int], rank: int) -> Ansatz:
    """Every entry of the three matrices is unknown."""
    size = sum(dimensions) * rank
    every = tuple(Representative(role, np.arange(rank), np.ones(rank)) for role in range(3))
    return Ansatz(dimensions, rank, sparse.identity(size, format="csr"), every)


def tied_ansatz(dimensions: tuple[int, int, int], rank: int, tied: Sequence[int] = (0, 1, 2)) -> Ansatz:
    """The matrices of the roles in `tied` (which must have equal dimensions) are one matrix of unknowns."""
    leader = tied[0]
    blocks: list[list[sparse.spmatrix | None]] = []
    roles = [role for role in range(3) if role not in tied[1:]]
    for role in range(3):
        owner = leader if role in tied else role
        size = dimensions[role] * rank
        blocks.append([sparse.identity(size) if owner == column else _zeros(size, dimensions[column] * rank)
                       for column in roles])  # fmt: skip
    representatives = tuple(
        Representative(role, np.arange(rank), np.full(rank, float(len(tied) if role == leader else 1)))
        for role in roles
    )
    return Ansatz(dimensions, rank, sparse.bmat(blocks, format="csr"), representatives)


def _zeros(rows: int, columns: int) -> sparse.spmatrix:
    return sparse.csr_matrix((rows, columns))
