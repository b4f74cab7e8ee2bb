"""Levenberg-Marquardt for exact CP factors, on normal equations built from Gram products.

Minimises `|(1 - P) T|^2 + mu^2 |w - w0|^2` over the factors, where `T` is the CP form, `P` the projector on the
equivariant tensors, `w` the path weights of `T` and `w0` the wanted ones. `mu = 1` asks for `w = w0`; lowering `mu`
in steps lets the weights move, and the result counts only if none of them has collapsed to zero. The Jacobian, of
size `d^3 x 3 d R`, is never formed: the blocks of `J^T J` are products of the factors' Gram matrices.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy import linalg

from tdn.cp.couplings import Array
from tdn.cp.decomposition import Factors
from tdn.cp.solvers.ansatz import Ansatz
from tdn.cp.solvers.problem import CouplingProblem, CPSolution, solution_from_factors, tensor_gradients


@dataclass(frozen=True)
class _State:
    """One point of the iteration."""

    theta: Array
    factors: Factors
    off_subspace: Array
    weights: Array
    objective: float


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Tolerances of the solver.

    Attributes:
        mu_schedule: Successive weights of the path-weight term; `(1.0,)` keeps the wanted weights exactly.
        proximal_schedule: Weight of `|theta|^2` in each step of the schedule; the last one must be zero.
        max_iterations: Most iterations in each step of the schedule.
        tolerance: Residual (relative) at which a solution counts as exact.
        stall: A step of the schedule ends when `patience` iterations lower the objective by less than this factor.
        patience: See `stall`.
    """

    mu_schedule: tuple[float, ...] = (0.5, 0.1, 0.02, 0.0)
    proximal_schedule: tuple[float, ...] = (1e-6, 1e-6, 0.0, 0.0)
    max_iterations: int = 100
    tolerance: float = 1e-13
    stall: float = 0.9
    patience: int = 30

    def solve(self, problem: CouplingProblem, ansatz: Ansatz, theta: Array, wanted: Array | None = None) -> CPSolution:
        """Iterate from `theta`.

        Args:
            problem: The couplings.
            ansatz: Unknowns and their symmetry.
            theta: Starting point, `[unknowns]`.
            wanted: Wanted path weights `[paths]`, one each by default.
        """
        wanted = np.ones(len(problem.paths)) if wanted is None else wanted
        iterations = 0
        for mu, proximal in zip(self.mu_schedule, self.proximal_schedule, strict=True):
            theta, used = self._descend(problem, ansatz, theta, wanted, mu, proximal)
            iterations += used
            solution = self._solution(problem, ansatz, theta, wanted, iterations)
            if solution.residual < self.tolerance:
                break
        return solution

    def _solution(
        self, problem: CouplingProblem, ansatz: Ansatz, theta: Array, wanted: Array, iterations: int
    ) -> CPSolution:
        fixed = wanted if self.mu_schedule[-1] == 1.0 else None
        return solution_from_factors(problem, ansatz.factors(theta), iterations, fixed, {"solver": asdict(self)})

    def _descend(
        self, problem: CouplingProblem, ansatz: Ansatz, theta: Array, wanted: Array, mu: float, proximal: float
    ) -> tuple[Array, int]:
        damping = 1.0
        state = _evaluate(problem, ansatz, theta, wanted, mu, proximal)
        checkpoint = state.objective
        for iteration in range(self.max_iterations):
            matrix, gradient = normal_equations(problem, ansatz, state.factors, state.off_subspace,
                                                state.weights - wanted, mu)  # fmt: skip
            matrix[np.diag_indices_from(matrix)] += proximal
            gradient += proximal * state.theta
            for _ in range(12):
                step = _damped_step(matrix, gradient, damping)
                if step is not None:
                    trial = _evaluate(problem, ansatz, state.theta + step, wanted, mu, proximal)
                    if trial.objective < state.objective:
                        break
                damping *= 4.0
            else:
                return state.theta, iteration
            state, damping = trial, max(damping / 3.0, 1e-13)
            if np.linalg.norm(state.off_subspace) < 0.1 * self.tolerance * np.linalg.norm(state.weights) and mu < 1.0:
                return state.theta, iteration + 1
            if (iteration + 1) % self.patience == 0:
                if state.objective > self.stall * checkpoint:
                    return state.theta, iteration + 1
                checkpoint = state.objective
        return state.theta, self.max_iterations


def _evaluate(
    problem: CouplingProblem, ansatz: Ansatz, theta: Array, wanted: Array, mu: float, proximal: float
) -> _State:
    factors = ansatz.factors(theta)
    tensor = factors.reconstruct()
    weights = problem.path_weights(tensor)
    off_subspace = tensor - problem.tensor(weights)
    objective = np.vdot(off_subspace, off_subspace) + mu**2 * np.sum((weights - wanted) ** 2)
    return _State(theta, factors, off_subspace, weights, float(objective + proximal * (theta @ theta)))


def _damped_step(matrix: Array, gradient: Array, damping: float) -> Array | None:
    damped = matrix.copy()
    damped[np.diag_indices_from(damped)] += damping
    try:
        factor = linalg.cho_factor(damped, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    return -linalg.cho_solve(factor, gradient, check_finite=False)


def normal_equations(
    problem: CouplingProblem, ansatz: Ansatz, factors: Factors, off_subspace: Array, weight_error: Array, mu: float
) -> tuple[Array, Array]:
    """Gauss-Newton matrix and gradient (halved) of the objective in `theta`, without the proximal term."""
    gradients = tensor_gradients(off_subspace, factors.matrices)
    path_gradients = problem.path_gradients(factors)
    matrix = np.zeros((ansatz.unknowns, ansatz.unknowns))
    gradient = np.zeros(ansatz.unknowns)
    path_rows = np.zeros((len(problem.paths), ansatz.unknowns))
    for role, count in enumerate(ansatz.role_multiplicity):
        # A single path, unlike the whole coupling, changes when roles are exchanged: here every role counts itself.
        path_rows += ansatz.fold(role, np.moveaxis(path_gradients[role], 0, -1)).T
        if count:
            rows = _gram_rows(factors, role)
            matrix += count * ansatz.fold(role, (ansatz.expansion.T @ rows.T).T)
            gradient += count * ansatz.fold(role, gradients[role])[:, 0]
    matrix -= (1.0 - mu**2) * (path_rows.T @ path_rows)
    return matrix, gradient + mu**2 * (path_rows.T @ weight_error)


def _gram_rows(factors: Factors, role: int) -> Array:
    """Rows of `J^T J` (over all entries of the stacked factors) for the entries of one role."""
    grams = [matrix.T @ matrix for matrix in factors.matrices]
    own = factors.matrices[role]
    blocks = []
    for other, matrix in enumerate(factors.matrices):
        if other == role:
            first, second = (gram for n, gram in enumerate(grams) if n != role)
            block = np.einsum("ij,rs->irjs", np.eye(own.shape[0]), first * second)
        else:
            third = grams[3 - role - other]
            block = own[:, None, None, :] * matrix.T[None, :, :, None] * third[None, :, None, :]
        blocks.append(block.reshape(own.size, matrix.size))
    return np.concatenate(blocks, axis=1)
