"""How far a CP form is from its coupling tensor, and what that means for equivariance.

For an equivariant tensor `M` in an orthonormal basis and any approximation `M^`,
`|M^(Dx, Dy) - D M^(x, y)| <= 2 |M^ - M|_F |x| |y|` for every rotation `D` (triangle inequality, since `M` itself
commutes with rotations). Theorem 3.1 of the TDN paper (arXiv:2507.01131) bounds the same quantity by the tails of
the singular values of the unfoldings of `M` beyond `floor(R^(1/3))`, which does not look at the factors at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import DTypeLike

from tdn.cp.couplings import (
    Array,
    Path,
    PathParity,
    coupling_tensor,
    degree_slice,
    random_rotations,
    representation_matrix,
)
from tdn.cp.decomposition import Factors

EXACT_RESIDUAL = 1e-12
WELL_CONDITIONED_ENTRY = 10.0
_SAMPLES = 64
_SEED = 20250701


@dataclass(frozen=True)
class Certificate:
    """Measured quality of a CP form of a coupling tensor `M`.

    Attributes:
        residual: `|M^ - M|_F / |M|_F`.
        residual_absolute: `|M^ - M|_F`.
        worst_path: Degrees of the block in which `M^` differs most from `M` (blocks without a path included).
        worst_path_residual: Frobenius norm of that difference, relative to `|M|_F`.
        largest_entry: Largest absolute entry of the factors.
        conditioning: Amplification of rounding errors, `sqrt(sum of squared term norms) / |M^|_F`.
        bound: `2 |M^ - M|_F / |M|_F`: no rotation can violate equivariance by more, in units of `|M|_F |x| |y|`.
        bound_absolute: The same, in units of `|x| |y|`.
        bound_paper: The paper's Theorem 3.1 with the constant 2, in units of `|M|_F |x| |y|`.
        bound_paper_absolute: The same, in units of `|x| |y|`.
        defect_float64: Largest sampled violation in float64, in units of `|M|_F |x| |y|`.
        defect_float32: The same in float32 arithmetic.
        relative_defect_float64: Root mean square of the violation over that of the output, in float64.
        relative_defect_float32: The same in float32 arithmetic.
        samples: Number of random rotations (half of them improper for natural parity), one pair of inputs each.
    """

    residual: float
    residual_absolute: float
    worst_path: tuple[int, int, int]
    worst_path_residual: float
    largest_entry: float
    conditioning: float
    bound: float
    bound_absolute: float
    bound_paper: float
    bound_paper_absolute: float
    defect_float64: float
    defect_float32: float
    relative_defect_float64: float
    relative_defect_float32: float
    samples: int

    @property
    def exact(self) -> bool:
        """Whether the factors reproduce the coupling to rounding and are well conditioned."""
        return self.residual < EXACT_RESIDUAL and self.largest_entry < WELL_CONDITIONED_ENTRY

    def to_dict(self) -> dict[str, float | int | list[int]]:
        """The fields as JSON types."""
        return {**asdict(self), "worst_path": list(self.worst_path)}

    @classmethod
    def from_dict(cls, content: Mapping[str, object]) -> Certificate:
        """Inverse of `to_dict`."""
        return cls(**{**content, "worst_path": tuple(content["worst_path"])})  # type: ignore[arg-type]


def certify(
    factors: Factors, degrees: tuple[int, int, int], parity: PathParity, path_weights: Mapping[Path, float]
) -> Certificate:
    """Measure factors against the coupling tensor of the given path weights.

    Args:
        factors: The CP form.
        degrees: Largest degrees `(in1, in2, out)`.
        parity: "natural" samples reflections too; "all" only proper rotations.
        path_weights: Weight of every path.
    """
    exact = coupling_tensor(*degrees, path_weights)
    approximate = factors.reconstruct()
    norm = float(np.linalg.norm(exact))
    error = float(np.linalg.norm(approximate - exact))
    worst, worst_residual = _worst_block(approximate - exact, degrees)
    paper = 2.0 * singular_value_tail(exact, factors.rank)
    double = sample_defect(factors, degrees, parity, np.float64)
    single = sample_defect(factors, degrees, parity, np.float32)
    return Certificate(
        residual=error / norm,
        residual_absolute=error,
        worst_path=worst,
        worst_path_residual=worst_residual / norm,
        largest_entry=factors.largest_entry,
        conditioning=factors.conditioning(),
        bound=2.0 * error / norm,
        bound_absolute=2.0 * error,
        bound_paper=paper / norm,
        bound_paper_absolute=paper,
        defect_float64=double[0] / norm,
        defect_float32=single[0] / norm,
        relative_defect_float64=double[1],
        relative_defect_float32=single[1],
        samples=_SAMPLES,
    )


def singular_value_tail(tensor: Array, rank: int) -> float:
    """`sqrt(sum_n sum_{k > R_T} sigma_k^(n)^2)` over the three unfoldings, `R_T = floor(R^(1/3))` (Theorem 3.1)."""
    kept = round(math.cbrt(rank))
    kept -= kept**3 > rank
    total = 0.0
    for mode in range(3):
        unfolding = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
        eigenvalues = np.sort(np.linalg.eigvalsh(unfolding @ unfolding.T))[::-1]
        total += float(np.clip(eigenvalues[kept:], 0.0, None).sum())
    return math.sqrt(total)


def sample_defect(
    factors: Factors, degrees: tuple[int, int, int], parity: PathParity, dtype: DTypeLike
) -> tuple[float, float]:
    """Violation of equivariance over random rotations and unit inputs, with the products evaluated in `dtype`.

    Returns:
        The largest `|M^(Dx, Dy) - D M^(x, y)|`, and its root mean square over that of `M^(x, y)`.
    """
    rng = np.random.default_rng(_SEED)
    rotations = random_rotations(_SAMPLES, rng)
    if parity == "natural":
        rotations[::2] *= -1.0
    x, y = (_unit_vectors(rng, matrix.shape[0]) for matrix in factors.matrices[:2])
    d1, d2, d3 = (representation_matrix(degree, rotations) for degree in degrees)

    def product(first: Array, second: Array) -> Array:
        a, b, c = (matrix.astype(dtype) for matrix in factors.matrices)
        return ((first.astype(dtype) @ a) * (second.astype(dtype) @ b)) @ c.T

    rotated = product(np.einsum("nij,nj->ni", d1, x), np.einsum("nij,nj->ni", d2, y))
    output = product(x, y).astype(np.float64)
    violation = np.linalg.norm(rotated - np.einsum("nij,nj->ni", d3, output), axis=1)
    return float(violation.max()), float(np.linalg.norm(violation) / np.linalg.norm(output))


def _unit_vectors(rng: np.random.Generator, components: int) -> Array:
    vectors = rng.standard_normal((_SAMPLES, components))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _worst_block(difference: Array, degrees: tuple[int, int, int]) -> tuple[tuple[int, int, int], float]:
    blocks = {
        (l1, l2, l3): float(np.linalg.norm(difference[degree_slice(l1), degree_slice(l2), degree_slice(l3)]))
        for l1 in range(degrees[0] + 1)
        for l2 in range(degrees[1] + 1)
        for l3 in range(degrees[2] + 1)
    }
    worst = max(blocks, key=blocks.__getitem__)
    return worst, blocks[worst]
