"""Exact factors from quadrature on the sphere: rank-one terms are products of harmonics at the points of a rule.

The integral of three harmonics couples all paths with even `l1 + l2 + l3` (weights: Gaunt coefficients). The odd
paths come from `r . (grad A x grad B) C`, two terms a point. A rule that is exact to the total degree makes both
exact, for any degree and in no time, at ranks above those that the iterative solvers reach.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy import integrate

from tdn.cp.couplings import Array, degree_slice, spherical_harmonics, wigner_3j
from tdn.cp.decomposition import Factors
from tdn.cp.solvers.problem import CouplingProblem, CPSolution, solution_from_factors

_LEBEDEV_DEGREES = (*range(3, 32, 2), *range(35, 132, 6))


@dataclass(frozen=True)
class SphereQuadrature:
    """Lebedev rules; nothing to tune.

    Attributes:
        extra_degree: How much the degree of the rule exceeds the smallest one that is exact.
    """

    extra_degree: int = 0

    def solve(self, problem: CouplingProblem) -> CPSolution:
        """Factors of all paths of the problem, with the path weights that the integrals give."""
        total = sum(problem.degrees) + self.extra_degree
        factors = factors_at_points(problem.degrees, *lebedev_rule(total))
        if problem.parity == "all":
            factors = joined(factors, antisymmetric_terms(problem.degrees, *lebedev_rule(total - 1)))
        return solution_from_factors(problem, factors, 0, None, {"solver": asdict(self)})


def lebedev_rule(degree: int) -> tuple[Array, Array]:
    """Points `[n, 3]` and weights `[n]` (sum one) of the smallest Lebedev rule exact to `degree`."""
    exact = next(available for available in _LEBEDEV_DEGREES if available >= degree)
    points, weights = integrate.lebedev_rule(exact)
    return points.T.copy(), weights / weights.sum()


def factors_at_points(degrees: tuple[int, int, int], points: Array, weights: Array) -> Factors:
    """One term a point: its harmonics in each role, with the cube root of its weight."""
    root = np.cbrt(weights)
    return Factors(*(spherical_harmonics(degree, points).T * root for degree in degrees))


def antisymmetric_terms(degrees: tuple[int, int, int], points: Array, weights: Array) -> Factors:
    """Two terms a point, from `r . (grad A x grad B) C` in the tangent plane: the paths with odd `l1 + l2 + l3`."""
    first, second = tangents(points)
    derivatives = [[rotational_derivative(degree, points, axis) for axis in (first, second)] for degree in degrees[:2]]
    in1 = np.concatenate(derivatives[0], axis=1)
    in2 = np.concatenate([derivatives[1][1], -derivatives[1][0]], axis=1)
    out = np.tile(spherical_harmonics(degrees[2], points).T * weights, 2)
    return Factors(in1, in2, out)


def joined(first: Factors, second: Factors) -> Factors:
    """The sum of two CP forms."""
    pairs = zip(first.matrices, second.matrices, strict=True)
    return Factors(*(np.concatenate(pair, axis=1) for pair in pairs))


def tangents(points: Array) -> tuple[Array, Array]:
    """Two unit vectors a point, orthogonal to it and to each other."""
    helper = np.eye(3)[np.argmin(np.abs(points), axis=1)]
    first = np.cross(points, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return first, np.asarray(np.cross(points, first), dtype=np.float64)


def rotational_derivative(lmax: int, points: Array, axes: Array) -> Array:
    """`d/dt Y(exp(t axis x) point)` at t = 0, `[(lmax + 1)^2, n]`: a tangential derivative, without coordinates."""
    harmonics = spherical_harmonics(lmax, points)
    result = np.zeros_like(harmonics)
    for degree in range(1, lmax + 1):
        rows = degree_slice(degree)
        result[:, rows] = np.einsum("na,aij,nj->ni", axes, _generators(degree), harmonics[:, rows], optimize=True)
    return result.T


def _generators(degree: int) -> Array:
    """Generators `[3, 2 l + 1, 2 l + 1]` of rotations about x, y, z: the antisymmetric coupling (1, l, l)."""
    # The norm of the generators is sqrt(l (l + 1) (2 l + 1)); the sign is that of L_z x = y in degree 1.
    sign = np.sign(wigner_3j(1, 1, 1)[2, 1, 0])
    return sign * np.sqrt(degree * (degree + 1) * (2 * degree + 1)) * wigner_3j(1, degree, degree)
