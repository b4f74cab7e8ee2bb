"""What every solver works on: the equivariant subspace of a shape, and what every solver returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tdn.cp.couplings import (
    Array,
    Path,
    PathParity,
    coupling_paths,
    coupling_tensor,
    degree_slice,
    dimension,
    wigner_3j,
)
from tdn.cp.decomposition import Factors, khatri_rao


@dataclass(frozen=True)
class CouplingProblem:
    """The couplings of one shape: an orthonormal basis (one tensor a path) of its equivariant tensors.

    Attributes:
        degrees: Largest degrees `(in1, in2, out)`.
        parity: "natural" for O(3), "all" for SO(3).
    """

    degrees: tuple[int, int, int]
    parity: PathParity = "natural"

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """The paths of the shape, in a fixed order."""
        return coupling_paths(*self.degrees, parity=self.parity)

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Number of components of the three roles."""
        d1, d2, d3 = (dimension(degree) for degree in self.degrees)
        return d1, d2, d3

    def tensor(self, weights: Array | None = None) -> Array:
        """Coupling tensor `[d1, d2, d3]` with one weight a path (all one by default)."""
        values = np.ones(len(self.paths)) if weights is None else weights
        return coupling_tensor(*self.degrees, dict(zip(self.paths, values.tolist(), strict=True)))

    def path_weights(self, tensor: Array) -> Array:
        """Weights `[paths]` of the orthogonal projection of `tensor` on the equivariant tensors."""
        return np.array([np.vdot(wigner_3j(*path), tensor[_block(path)]) for path in self.paths], dtype=np.float64)

    def path_gradients(self, factors: Factors) -> tuple[Array, Array, Array]:
        """Derivatives of the path weights in the three factor matrices, each `[paths, d, R]`."""
        gradients = tuple(np.zeros((len(self.paths), *matrix.shape)) for matrix in factors.matrices)
        for n, path in enumerate(self.paths):
            tensor, rows = wigner_3j(*path), [degree_slice(degree) for degree in path]
            blocks = [matrix[row] for matrix, row in zip(factors.matrices, rows, strict=True)]
            for role, gradient in enumerate(tensor_gradients(tensor, blocks)):
                gradients[role][n, rows[role]] = gradient
        return gradients  # type: ignore[return-value]


@dataclass(frozen=True)
class CPSolution:
    """What a solver found.

    Attributes:
        factors: The factors, balanced.
        path_weights: Weight of every path in the tensor that the factors approximate.
        residual: `|M^ - M|_F / |M|_F` for those weights.
        iterations: Iterations used.
        conditioning: Amplification of rounding errors, see `Factors.conditioning`.
        stats: Solver settings, seed and history needed to repeat the solution.
    """

    factors: Factors
    path_weights: Mapping[Path, float]
    residual: float
    iterations: int
    conditioning: float
    stats: Mapping[str, object] = field(default_factory=dict)


def solution_from_factors(
    problem: CouplingProblem,
    factors: Factors,
    iterations: int,
    weights: Array | None = None,
    stats: Mapping[str, object] | None = None,
) -> CPSolution:
    """Balance the factors and measure them against `weights`, or against their own equivariant part if None."""
    factors = factors.balanced()
    tensor = factors.reconstruct()
    weights = problem.path_weights(tensor) if weights is None else weights
    target = problem.tensor(weights)
    return CPSolution(
        factors,
        dict(zip(problem.paths, weights.tolist(), strict=True)),
        float(np.linalg.norm(tensor - target) / np.linalg.norm(target)),
        iterations,
        factors.conditioning(),
        dict(stats or {}),
    )


def tensor_gradients(tensor: Array, matrices: tuple[Array, Array, Array] | list[Array]) -> tuple[Array, Array, Array]:
    """`d <tensor, CP form> / d matrix` for the three factor matrices, each `[d, R]`."""
    a, b, c = matrices
    d1, d2, d3 = tensor.shape
    flat = tensor.reshape(d1 * d2, d3)
    partial = (flat @ c).reshape(d1, d2, -1)
    return (
        np.einsum("ijr,jr->ir", partial, b),
        np.einsum("ijr,ir->jr", partial, a),
        flat.T @ khatri_rao(a, b),
    )


def _block(path: Path) -> tuple[slice, slice, slice]:
    first, second, third = (degree_slice(degree) for degree in path)
    return first, second, third
