"""The CP form `T[i, j, k] = sum_r in1[i, r] in2[j, r] out[k, r]` and what can be asked of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tdn.cp.couplings import Array


def khatri_rao(first: Array, second: Array) -> Array:
    """Column-wise Kronecker product: `[a, R]`, `[b, R]` -> `[a * b, R]`."""
    return (first[:, None, :] * second[None, :, :]).reshape(-1, first.shape[1])


@dataclass(frozen=True)
class Factors:
    """Factor matrices of a CP form, one row a component and one column a rank-one term.

    Attributes:
        in1: `[d1, R]`, acts on the first input.
        in2: `[d2, R]`, acts on the second input.
        out: `[d3, R]`, gives the output.
    """

    in1: Array
    in2: Array
    out: Array

    @property
    def rank(self) -> int:
        """Number of rank-one terms `R`."""
        return self.in1.shape[1]

    @property
    def matrices(self) -> tuple[Array, Array, Array]:
        """The three factor matrices in the order of the tensor's indices."""
        return self.in1, self.in2, self.out

    @property
    def largest_entry(self) -> float:
        """Largest absolute entry of the three matrices; large values mean cancelling terms."""
        return float(max(np.abs(matrix).max() for matrix in self.matrices))

    def reconstruct(self) -> Array:
        """The tensor `[d1, d2, d3]` that the factors stand for."""
        d1, d2, d3 = (matrix.shape[0] for matrix in self.matrices)
        return (khatri_rao(self.in1, self.in2) @ self.out.T).reshape(d1, d2, d3)

    def balanced(self) -> Factors:
        """The same tensor with columns of equal norm in the three matrices, terms with a zero factor removed."""
        norms = np.stack([np.linalg.norm(matrix, axis=0) for matrix in self.matrices])
        kept = norms.min(axis=0) > 0.0
        common = np.cbrt(norms.prod(axis=0)[kept])
        return Factors(*(matrix[:, kept] * (common / norm[kept]) for matrix, norm in zip(self.matrices, norms)))  # noqa: B905

    def permuted(self, roles: tuple[int, int, int]) -> Factors:
        """Factors whose three roles are taken from `roles` of this one, e.g. (2, 0, 1)."""
        return Factors(*(self.matrices[role] for role in roles))

    def truncated(self, d1: int, d2: int, d3: int) -> Factors:
        """The first rows of each matrix: exactly the coupling of the smaller shape."""
        return Factors(self.in1[:d1], self.in2[:d2], self.out[:d3])

    def term_norms(self) -> Array:
        """Frobenius norm of each rank-one term, `[R]`."""
        return np.prod([np.linalg.norm(matrix, axis=0) for matrix in self.matrices], axis=0)

    def conditioning(self) -> float:
        """`sqrt(sum of squared term norms) / |T|_F`: the factor by which rounding of the terms may be amplified."""
        return float(np.linalg.norm(self.term_norms()) / np.linalg.norm(self.reconstruct()))
