"""Exact factors from rules on the sphere with as few points as a search can find.

A rule with points `x_n` and weights `w_n` that integrates polynomials of degree `l1max + l2max + l3max` exactly gives
factors of one term a point (see `quadrature.py`). Levenberg-Marquardt on points and weights from a random start finds
rules with about `(t + 1)^2 / 3` points for degree `t`, often fewer, in seconds: there are `(t + 1)^2` equations and
three unknowns a point.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tdn.cp.couplings import Array, degrees_of_components, spherical_harmonics
from tdn.cp.solvers.problem import CouplingProblem, CPSolution, solution_from_factors
from tdn.cp.solvers.quadrature import (
    antisymmetric_terms,
    factors_at_points,
    joined,
    rotational_derivative,
    tangents,
)


@dataclass(frozen=True)
class SphereCubature:
    """Tolerances of the search for a rule.

    Attributes:
        max_iterations: Most iterations.
        tolerance: Norm of the integration errors at which the rule counts as exact.
        antipodal: Search rules with points in pairs `x, -x`, which integrate odd polynomials by symmetry.
    """

    max_iterations: int = 400
    tolerance: float = 1e-14
    antipodal: bool = False

    def solve(self, problem: CouplingProblem, points: int, seed: int, odd_points: int = 0) -> CPSolution:
        """Factors with one term a point; the residual tells whether the rules found are exact.

        Args:
            problem: The couplings.
            points: Points of the rule for the paths with even `l1 + l2 + l3`.
            seed: Seed of the random starts.
            odd_points: Points of the rule for the other paths (two terms each), for problems with all paths.
        """
        total = sum(problem.degrees)
        nodes, weights, iterations = self.find_rule(total, points, seed)
        factors = factors_at_points(problem.degrees, nodes, weights)
        if problem.parity == "all":
            nodes, weights, more = self.find_rule(total - 1, odd_points, seed)
            factors = joined(factors, antisymmetric_terms(problem.degrees, nodes, weights))
            iterations += more
        return solution_from_factors(problem, factors, iterations, None, {"solver": asdict(self)})

    def find_rule(self, degree: int, points: int, seed: int) -> tuple[Array, Array, int]:
        """Points `[n, 3]`, weights `[n]` (sum one) and the iterations used."""
        rng = np.random.default_rng(seed)
        count = points // 2 if self.antipodal else points
        nodes = rng.standard_normal((count, 3))
        nodes /= np.linalg.norm(nodes, axis=1, keepdims=True)
        weights = np.full(count, 1.0 / count)
        kept = (degrees_of_components(degree) % 2 == 0) | (not self.antipodal)
        nodes, weights, iterations = self._descend(degree, nodes, weights, kept)
        if self.antipodal:
            nodes, weights = np.concatenate([nodes, -nodes]), np.tile(weights / 2.0, 2)
        return nodes, weights, iterations

    def _descend(self, degree: int, nodes: Array, weights: Array, kept: NDArray[np.bool_]) -> tuple[Array, Array, int]:
        count, damping = len(weights), 1e-2
        errors = _integration_errors(degree, nodes, weights)[kept]
        checkpoint = errors @ errors
        for iteration in range(1, self.max_iterations + 1):
            first, second = tangents(nodes)
            moved = [rotational_derivative(degree, nodes, axis) * weights for axis in (first, second)]
            jacobian = np.concatenate([*moved, spherical_harmonics(degree, nodes).T / count], axis=1)[kept]
            matrix, gradient = jacobian.T @ jacobian, jacobian.T @ errors
            for _ in range(10):
                step = np.linalg.solve(matrix + damping / count * np.eye(3 * count), -gradient).reshape(3, count, 1)
                trial = nodes + step[0] * np.cross(first, nodes) + step[1] * np.cross(second, nodes)
                trial /= np.linalg.norm(trial, axis=1, keepdims=True)
                trial_weights = weights + step[2, :, 0] / count
                trial_errors = _integration_errors(degree, trial, trial_weights)[kept]
                if trial_errors @ trial_errors < errors @ errors:
                    break
                damping *= 4.0
            else:
                return nodes, weights, iteration
            nodes, weights, errors, damping = trial, trial_weights, trial_errors, max(damping / 4.0, 1e-14)
            stalled = iteration % 40 == 0 and errors @ errors > 0.5 * checkpoint
            if stalled or np.linalg.norm(errors) < self.tolerance:
                return nodes, weights, iteration
            if iteration % 40 == 0:
                checkpoint = errors @ errors
        return nodes, weights, self.max_iterations


def _integration_errors(degree: int, nodes: Array, weights: Array) -> Array:
    errors = spherical_harmonics(degree, nodes).T @ weights
    errors[0] -= 1.0
    return errors
