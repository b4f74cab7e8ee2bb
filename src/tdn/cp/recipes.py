"""How every shipped table is made: a recipe names solver, symmetry and seed, and running it gives the table again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from tdn.cp.couplings import Path, PathParity
from tdn.cp.gauge import nearest_unit_gauge
from tdn.cp.solvers import (
    AlternatingLeastSquares,
    Ansatz,
    CouplingProblem,
    CPSolution,
    LevenbergMarquardt,
    MatrixAlgebra,
    SphereCubature,
    SphereQuadrature,
    cyclic_ansatz,
    free_ansatz,
    solution_from_factors,
)
from tdn.cp.tables import FactorTable, Shape
from tdn.errors import ConfigError, FactorTableError

Method = Literal["lm", "als", "cubature", "quadrature"]
Weights = Literal["unit", "free", "damped", "matrix"]

_SOLVERS: dict[Weights, LevenbergMarquardt] = {
    "unit": LevenbergMarquardt((1.0, 1.0, 1.0), (1e-3, 1e-6, 0.0), max_iterations=200),
    "free": LevenbergMarquardt((0.5, 0.1, 0.02, 0.0), (1e-6, 1e-6, 0.0, 0.0)),
    "damped": LevenbergMarquardt((1.0, 0.3, 0.1, 0.02, 0.0), (1e-3, 1e-4, 1e-6, 0.0, 0.0)),
    "matrix": LevenbergMarquardt((1.0, 1.0, 1.0, 1.0), (1e-2, 1e-3, 1e-5, 0.0), max_iterations=150),
}


@dataclass(frozen=True)
class Recipe:
    """What to run for one table.

    Attributes:
        shape: Largest degrees `(in1, in2, out)`.
        parity: "natural" or "all".
        rank: Number of terms; ignored by "quadrature".
        method: "lm" (Levenberg-Marquardt), "als" (alternating least squares), "cubature" (sphere, points searched) or
            "quadrature" (sphere, Lebedev).
        weights: For "lm": path weights of one ("unit"), weights that may move ("free", or "damped" with a stronger
            proximal term and slower release), or those of the matrix algebra ("matrix"). "als" uses "unit".
        seed: Seed of the random start.
        cyclic: For "lm" and all paths of equal degrees: number of terms with three equal factors; the others come in
            cyclic triples. None leaves every entry free.
        antipodal: For "cubature": points in pairs `x, -x`.
        odd_points: For "cubature" of all paths: points for the odd paths, each of them two terms.
        sweeps: For "als": most sweeps.
    """

    shape: Shape
    parity: PathParity
    rank: int
    method: Method = "lm"
    weights: Weights = "free"
    seed: int = 0
    cyclic: int | None = None
    antipodal: bool = False
    odd_points: int = 0
    sweeps: int = 2000


def solve_recipe(recipe: Recipe) -> FactorTable:
    """Run a recipe; the table's certificate tells how good the result is.

    Raises:
        FactorTableError: If the solver found weights without one of the paths.
        ConfigError: If the recipe does not fit its shape.
    """
    start = time.perf_counter()
    problem = CouplingProblem(recipe.shape, recipe.parity)
    solution = _solve(problem, recipe)
    if recipe.method != "als" and recipe.weights != "unit":
        solution = _in_nearest_gauge(problem, solution)
    metadata: dict[str, object] = {
        "recipe": asdict(recipe),
        "iterations": solution.iterations,
        "seconds": round(time.perf_counter() - start, 2),
        **solution.stats,
    }
    return FactorTable(
        *problem.degrees,
        problem.parity,
        *solution.factors.matrices,
        solution.path_weights,
        describe(recipe),
        None,
        metadata,
    )


def recipe_of(table: FactorTable) -> Recipe:
    """The recipe recorded in a table.

    Raises:
        FactorTableError: If the table carries none.
    """
    recorded = table.metadata.get("recipe")
    if not isinstance(recorded, dict):
        raise FactorTableError(f"table {table.name} records no recipe; it was not made by a solver of this package")
    return Recipe(**{**recorded, "shape": tuple(recorded["shape"])})


def check_choices(parity: str, method: str, weights: str) -> None:
    """Refuse names that no recipe knows.

    Raises:
        ConfigError: Naming the choices.
    """
    for what, value, known in (
        ("paths", parity, get_args(PathParity)),
        ("method", method, get_args(Method)),
        ("weights", weights, get_args(Weights)),
    ):
        if value not in known:
            raise ConfigError(f"{what} must be one of {', '.join(known)}; got {value!r}")


def describe(recipe: Recipe) -> str:
    """The method of a recipe in a few words."""
    if recipe.method == "lm":
        return "LM, " + {"unit": "unit weights", "matrix": "6j weights"}.get(recipe.weights, "free weights")
    return {"als": "ALS, unit weights", "cubature": "sphere cubature", "quadrature": "Lebedev"}[recipe.method]


def tied_roles(shape: Shape, parity: PathParity) -> tuple[int, ...]:
    """Roles that may share one factor matrix because the coupling does not change when they are exchanged."""
    if parity == "natural":
        for roles in ((0, 1, 2), (0, 1), (0, 2), (1, 2)):
            if len({shape[role] for role in roles}) == 1:
                return roles
    return ()


def _solve(problem: CouplingProblem, recipe: Recipe) -> CPSolution:
    if recipe.method == "quadrature":
        return SphereQuadrature().solve(problem)
    if recipe.method == "cubature":
        points = recipe.rank - 2 * recipe.odd_points
        return SphereCubature(antipodal=recipe.antipodal).solve(problem, points, recipe.seed, recipe.odd_points)
    if recipe.method == "als":
        return AlternatingLeastSquares(recipe.sweeps).solve(problem, recipe.rank, recipe.seed)
    wanted = MatrixAlgebra().path_weights(problem) if recipe.weights == "matrix" else None
    ansatz = _ansatz(problem, recipe)
    size = np.sqrt(len(problem.paths)) if wanted is None else np.linalg.norm(wanted)
    theta = ansatz.random_start(np.random.default_rng(recipe.seed), float(size))
    return _SOLVERS[recipe.weights].solve(problem, ansatz, theta, wanted)


def _ansatz(problem: CouplingProblem, recipe: Recipe) -> Ansatz:
    if recipe.cyclic is None:
        return free_ansatz(problem.dimensions, recipe.rank, tied_roles(recipe.shape, recipe.parity))
    triples, rest = divmod(recipe.rank - recipe.cyclic, 3)
    if len(set(recipe.shape)) != 1 or rest or triples < 0 or recipe.cyclic < 0:
        raise ConfigError(
            f"cyclic terms need equal degrees and a rank of {recipe.cyclic} plus a multiple of 3, "
            f"got {recipe.shape} and rank {recipe.rank}"
        )
    return cyclic_ansatz(problem.dimensions[0], recipe.cyclic, triples)


def _in_nearest_gauge(problem: CouplingProblem, solution: CPSolution) -> CPSolution:
    weights: Mapping[Path, float] = solution.path_weights
    smallest = min(abs(weight) for weight in weights.values())
    if smallest < 1e-6:
        raise FactorTableError(
            f"the solver dropped a path at rank {solution.factors.rank} (smallest weight {smallest:.1e}): "
            "try another seed or a larger rank"
        )
    factors = nearest_unit_gauge(solution.factors, problem.degrees, weights)
    return solution_from_factors(problem, factors, solution.iterations, None, solution.stats)
