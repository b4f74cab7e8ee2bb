"""Couplings from products of matrices: features of degrees 0..2j are the components of a (2j+1) x (2j+1) matrix.

A rotation acts as `X -> D X D^T`, so the product of two matrices is equivariant; it contains every path, with path
weights given by 6j symbols. Its CP rank is the number of multiplications of the algorithm used: `n^3` for the textbook
one, 23 instead of 27 for n = 3 (Laderman 1976), and these weights are wanted values for which the iterative solvers
find such algorithms. Even `n` has no real form of this kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tdn.cp.couplings import Array, degrees_of_components, wigner_3j
from tdn.cp.decomposition import Factors
from tdn.cp.gauge import nearest_unit_gauge
from tdn.cp.solvers.problem import CouplingProblem, CPSolution, solution_from_factors
from tdn.errors import ConfigError


@dataclass(frozen=True)
class MatrixAlgebra:
    """The textbook product of matrices as a CP form of all paths, rank `(L + 1)^3`; nothing to tune."""

    def solve(self, problem: CouplingProblem) -> CPSolution:
        """Factors of rank `(L + 1)^3` for equal even degrees `L`.

        Raises:
            ConfigError: If the degrees are not equal and even, or the parity is not "all".
        """
        lmax = problem.degrees[0]
        if set(problem.degrees) != {lmax} or lmax % 2 or problem.parity != "all":
            raise ConfigError(
                f"the matrix algebra needs equal even degrees and all paths, got {problem.degrees}, {problem.parity}"
            )
        size = lmax + 1
        basis = matrix_basis(lmax)
        a, b, c = (index.ravel() for index in np.indices((size, size, size)))
        factors = Factors(basis[:, a, b], basis[:, b, c], basis[:, c, a])
        weights = dict(zip(problem.paths, problem.path_weights(factors.reconstruct()).tolist(), strict=True))
        if min(abs(weight) for weight in weights.values()) > 1e-12:
            factors = nearest_unit_gauge(factors, problem.degrees, weights)
        return solution_from_factors(problem, factors, 0)

    def path_weights(self, problem: CouplingProblem) -> Array:
        """Path weights `[paths]` of the algebra, scaled to be near one: wanted values for an iterative solver."""
        return np.array(list(self.solve(problem).path_weights.values()))


def matrix_basis(lmax: int) -> Array:
    """Orthonormal basis `[(lmax + 1)^2, lmax + 1, lmax + 1]` of the matrices, one a component (even `lmax`)."""
    spin = lmax // 2
    blocks = [wigner_3j(spin, spin, degree) for degree in range(lmax + 1)]
    basis = np.concatenate(blocks, axis=2) * np.sqrt(2 * degrees_of_components(lmax) + 1)
    return np.moveaxis(basis, 2, 0)
