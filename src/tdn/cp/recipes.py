"""How every shipped table is made: a recipe names solver, symmetry and seed, and running it gives the table again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from tdn.cp.couplings import Path, PathParity
from tdn.cp.decomposition import Factors
from tdn.cp.gauge import nearest_unit_gauge
from tdn.cp.solvers import (
    Ansatz,
    CouplingProblem,
    CPSolution,
    LevenbergMarquardt,
    SphereCubature,
    SphereQuadrature,
    free_ansatz,
    solution_from_factors,
)
from tdn.cp.tables import FactorTable, Shape
from tdn.errors import FactorTableError

Method = Literal["lm", "cubature", "quadrature"]


@dataclass(frozen=True)
class Recipe:
    """What to run for one table.

    Attributes:
        shape: Largest degrees `(in1, in2, out)`.
        parity: "natural" or "all".
        rank: Number of terms; ignored by "quadrature".
        method: "lm" (Levenberg-Marquardt), "cubature" (sphere, points searched) or "quadrature" (sphere, Lebedev).
        unit_weights: Whether every path weight must be one; otherwise they may move.
        seed: Seed of the random start.
        antipodal: For "cubature", search points in pairs `x, -x`.
    """

    shape: Shape
    parity: PathParity
    rank: int
    method: Method = "lm"
    unit_weights: bool = False
    seed: int = 0
    antipodal: bool = False


def solve_recipe(recipe: Recipe) -> FactorTable:
    """Run a recipe and certify the result; nothing is judged here, see `FactorTable.certificate`."""
    start = time.perf_counter()
    problem = CouplingProblem(recipe.shape, recipe.parity)
    if recipe.method == "quadrature":
        solution = SphereQuadrature().solve(problem)
    elif recipe.method == "cubature":
        solution = SphereCubature(antipodal=recipe.antipodal).solve(problem, recipe.rank, recipe.seed)
    else:
        solution = _levenberg_marquardt(problem, recipe)
    if not recipe.unit_weights:
        solution = _in_nearest_gauge(problem, solution)
    return table_from_solution(problem, solution, recipe, time.perf_counter() - start)


def table_from_solution(problem: CouplingProblem, solution: CPSolution, recipe: Recipe, seconds: float) -> FactorTable:
    """Table of a solution, with the recipe and what the solver reported as metadata."""
    metadata: dict[str, object] = {
        "recipe": asdict(recipe),
        "iterations": solution.iterations,
        "seconds": round(seconds, 2),
        **solution.stats,
    }
    return FactorTable(
        *problem.degrees, problem.parity, *solution.factors.matrices, solution.path_weights,
        describe(recipe), None, metadata,
    )  # fmt: skip


def describe(recipe: Recipe) -> str:
    """The method of a recipe in words."""
    if recipe.method == "quadrature":
        return "Lebedev quadrature"
    if recipe.method == "cubature":
        return "searched sphere cubature" + (", antipodal" if recipe.antipodal else "")
    return "Levenberg-Marquardt, " + ("unit weights" if recipe.unit_weights else "free weights")


def tied_roles(shape: Shape, parity: PathParity) -> tuple[int, ...]:
    """Roles that may share one factor matrix because the coupling does not change when they are exchanged."""
    if parity == "all":
        return ()
    for roles in ((0, 1, 2), (0, 1), (0, 2), (1, 2)):
        if len({shape[role] for role in roles}) == 1:
            return roles
    return ()


def _levenberg_marquardt(problem: CouplingProblem, recipe: Recipe) -> CPSolution:
    solver = (
        LevenbergMarquardt(mu_schedule=(1.0, 1.0), proximal_schedule=(1e-6, 0.0), max_iterations=300)
        if recipe.unit_weights
        else LevenbergMarquardt()
    )
    ansatz = _ansatz(problem, recipe)
    theta = ansatz.random_start(np.random.default_rng(recipe.seed), float(np.sqrt(len(problem.paths))))
    return solver.solve(problem, ansatz, theta)


def _ansatz(problem: CouplingProblem, recipe: Recipe) -> Ansatz:
    tied = tied_roles(recipe.shape, recipe.parity)
    return free_ansatz(problem.dimensions, recipe.rank, tied)


def _in_nearest_gauge(problem: CouplingProblem, solution: CPSolution) -> CPSolution:
    weights: Mapping[Path, float] = solution.path_weights
    if min(abs(weight) for weight in weights.values()) < 1e-6:
        raise FactorTableError(
            f"the solver dropped a path at rank {solution.factors.rank} (smallest weight "
            f"{min(abs(weight) for weight in weights.values()):.1e}): try another seed or a larger rank"
        )
    factors: Factors = nearest_unit_gauge(solution.factors, problem.degrees, weights)
    return solution_from_factors(problem, factors, solution.iterations, None, solution.stats)
