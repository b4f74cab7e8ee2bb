"""Every solver finds what is known, and the normal equations are those of the objective."""

from __future__ import annotations

import numpy as np
import pytest

from tdn.cp.couplings import coupling_paths
from tdn.cp.recipes import Recipe, recipe_of, solve_recipe
from tdn.cp.solvers import (
    AlternatingLeastSquares,
    Ansatz,
    CouplingProblem,
    LevenbergMarquardt,
    MatrixAlgebra,
    SphereCubature,
    SphereQuadrature,
    cyclic_ansatz,
    free_ansatz,
)
from tdn.cp.solvers.levenberg_marquardt import normal_equations
from tdn.cp.tables import load_table
from tdn.errors import ConfigError, FactorTableError

ANSATZE = {
    "free": (CouplingProblem((1, 2, 2)), free_ansatz((4, 9, 9), 5)),
    "tied": (CouplingProblem((2, 2, 2)), free_ansatz((9, 9, 9), 5, (0, 1, 2))),
    "two tied": (CouplingProblem((1, 2, 2)), free_ansatz((4, 9, 9), 5, (1, 2))),
    "cyclic": (CouplingProblem((1, 1, 1), "all"), cyclic_ansatz(4, 2, 2)),
}


@pytest.mark.parametrize("name", ANSATZE)
@pytest.mark.parametrize("mu", [1.0, 0.3, 0.0])
def test_normal_equations_are_those_of_the_residuals(name: str, mu: float) -> None:
    problem, ansatz = ANSATZE[name]
    rng = np.random.default_rng(0)
    theta, direction = ansatz.random_start(rng, 2.0), rng.standard_normal(ansatz.unknowns)
    residuals, off_subspace, weight_error = _residuals(problem, ansatz, theta, mu)
    step = 1e-5
    ahead, behind = (_residuals(problem, ansatz, theta + sign * step * direction, mu)[0] for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    matrix, gradient = normal_equations(problem, ansatz, ansatz.factors(theta), off_subspace, weight_error, mu)
    assert gradient @ direction == pytest.approx(slope @ residuals, rel=1e-6)
    assert direction @ matrix @ direction == pytest.approx(slope @ slope, rel=1e-6)


def _residuals(
    problem: CouplingProblem, ansatz: Ansatz, theta: np.ndarray, mu: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tensor = ansatz.factors(theta).reconstruct()
    weights = problem.path_weights(tensor)
    off_subspace = tensor - problem.tensor(weights)
    return np.concatenate([off_subspace.ravel(), mu * (weights - 1.0)]), off_subspace, weights - 1.0


def test_levenberg_marquardt_finds_rank_six_with_unit_weights() -> None:
    table = solve_recipe(Recipe((1, 1, 1), "natural", 6, weights="unit"))
    assert table.certificate.exact
    assert table.weight_range == (1.0, 1.0)


def test_levenberg_marquardt_finds_rank_seventeen_at_degree_two() -> None:
    table = solve_recipe(recipe_of(load_table(2, 2, 2)))
    assert table.rank == 17
    assert table.certificate.exact
    assert 0.9 < table.weight_range[0] <= table.weight_range[1] < 1.1


def test_levenberg_marquardt_finds_rank_seven_for_all_paths_of_degree_one() -> None:
    table = solve_recipe(recipe_of(load_table(1, 1, 1, parity="all")))
    assert table.rank == 7
    assert table.certificate.exact


def test_dropped_paths_are_refused() -> None:
    with pytest.raises(FactorTableError, match="dropped a path"):
        solve_recipe(Recipe((1, 1, 1), "natural", 5, weights="damped"))


def test_matrix_algebra_weights_are_solved_with_fewer_products_than_the_textbook() -> None:
    problem = CouplingProblem((2, 2, 2), "all")
    textbook = MatrixAlgebra().solve(problem)
    assert textbook.factors.rank == 27
    assert textbook.residual < 1e-13
    assert set(textbook.path_weights) == set(coupling_paths(2, 2, 2, parity="all"))
    assert min(abs(weight) for weight in textbook.path_weights.values()) > 0.8
    assert load_table(2, 2, 2, parity="all").rank <= 23


def test_matrix_algebra_refuses_odd_degrees() -> None:
    with pytest.raises(ConfigError, match="even degrees"):
        MatrixAlgebra().solve(CouplingProblem((1, 1, 1), "all"))


@pytest.mark.parametrize(("parity", "lmax"), [("natural", 1), ("natural", 4), ("all", 1), ("all", 3)])
def test_lebedev_quadrature_is_exact_with_every_path(parity: str, lmax: int) -> None:
    solution = SphereQuadrature().solve(CouplingProblem((lmax, lmax, lmax), parity))
    assert solution.residual < 1e-13
    assert min(abs(weight) for weight in solution.path_weights.values()) > 1e-2


@pytest.mark.parametrize(("degree", "points", "seed"), [(3, 6, 0), (6, 18, 0), (7, 22, 0)])
def test_searched_rules_integrate_polynomials_exactly(degree: int, points: int, seed: int) -> None:
    nodes, weights, _ = SphereCubature().find_rule(degree, points, seed)
    rng = np.random.default_rng(1)
    linear = rng.standard_normal((degree, 3))
    # A product of linear functions against the same integral by a much finer rule.
    fine_nodes, fine_weights, _ = SphereCubature().find_rule(degree, 4 * points, seed)
    values, fine_values = (np.prod(points_ @ linear.T, axis=1) for points_ in (nodes, fine_nodes))
    assert values @ weights == pytest.approx(fine_values @ fine_weights, abs=1e-12)
    assert weights.sum() == pytest.approx(1.0)


def test_antipodal_rules_pair_their_points() -> None:
    nodes, weights, _ = SphereCubature(antipodal=True).find_rule(5, 12, 2)
    np.testing.assert_array_equal(nodes[:6], -nodes[6:])
    np.testing.assert_array_equal(weights[:6], weights[6:])


def test_cubature_gives_all_paths_with_a_second_rule() -> None:
    solution = SphereCubature().solve(CouplingProblem((1, 1, 1), "all"), 6, 0, odd_points=4)
    assert solution.factors.rank == 14
    assert solution.residual < 1e-13


def test_alternating_least_squares_reaches_the_known_error_at_the_paper_rank() -> None:
    solver = AlternatingLeastSquares(max_sweeps=1000)
    residuals = [solver.solve(CouplingProblem((1, 1, 1), "all"), 7, seed).residual for seed in range(2)]
    assert 0.01 < min(residuals) < 0.03


def test_alternating_least_squares_is_exact_at_rank_eight() -> None:
    problem, solver = CouplingProblem((1, 1, 1), "all"), AlternatingLeastSquares(max_sweeps=3000)
    assert any(solver.solve(problem, 8, seed).residual < 1e-6 for seed in range(4))


def test_solution_reports_what_it_took() -> None:
    problem = CouplingProblem((1, 1, 2))
    ansatz = free_ansatz(problem.dimensions, 10, (0, 1))
    solver = LevenbergMarquardt(max_iterations=5)
    solution = solver.solve(problem, ansatz, ansatz.random_start(np.random.default_rng(0), 2.0))
    assert 0 < solution.iterations <= 20
    assert solution.conditioning >= 1.0 / np.sqrt(10)
    assert "solver" in solution.stats
