"""Alternating least squares for the best approximation of one coupling tensor at a given rank.

Each factor in turn is the exact least-squares solution for the other two, with a proximal term that keeps it near its
last value (it removes the swamps of plain ALS). Slower to converge than Levenberg-Marquardt, but a sweep costs little
at any rank, so it serves the approximate fits at the paper's ranks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy import linalg

from tdn.cp.couplings import Array
from tdn.cp.decomposition import Factors, khatri_rao
from tdn.cp.solvers.problem import CouplingProblem, CPSolution, solution_from_factors


@dataclass(frozen=True)
class AlternatingLeastSquares:
    """Tolerances of the solver.

    Attributes:
        max_sweeps: Most sweeps over the three factors.
        tolerance: Relative residual at which the solver stops.
        proximal_start: First weight of the proximal term, relative to the mean of the Gram matrix's diagonal.
        proximal_end: Last weight; it falls geometrically in between.
        stall: Stop when 100 sweeps lower the residual by less than this fraction.
    """

    max_sweeps: int = 2000
    tolerance: float = 1e-13
    proximal_start: float = 1e-1
    proximal_end: float = 1e-6
    stall: float = 1e-4

    def solve(
        self, problem: CouplingProblem, rank: int, seed: int, wanted: Array | None = None, start: Factors | None = None
    ) -> CPSolution:
        """Fit the coupling with weights `wanted` (one each by default) from a random start or from `start`."""
        wanted = np.ones(len(problem.paths)) if wanted is None else wanted
        target = problem.tensor(wanted)
        matrices = _start(target, rank, seed) if start is None else list(start.matrices)
        unfoldings = [np.moveaxis(target, mode, 0).reshape(target.shape[mode], -1) for mode in range(3)]
        norm, last = np.linalg.norm(target), np.inf
        decay = (self.proximal_end / self.proximal_start) ** (1.0 / max(1, self.max_sweeps // 2))
        for sweep in range(1, self.max_sweeps + 1):
            proximal = max(self.proximal_end, self.proximal_start * decay**sweep)
            for mode in range(3):
                matrices[mode] = _update(unfoldings[mode], matrices, mode, proximal)
            if sweep % 100 == 0:
                matrices = list(Factors(*matrices).balanced().matrices)
                residual = np.linalg.norm(Factors(*matrices).reconstruct() - target) / norm
                stalled = sweep > self.max_sweeps // 2 and residual > (1.0 - self.stall) * last
                if residual < self.tolerance or stalled:
                    break
                last = residual
        return solution_from_factors(problem, Factors(*matrices), sweep, wanted, {"solver": asdict(self)})


def _start(target: Array, rank: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    matrices = [rng.standard_normal((size, rank)) for size in target.shape]
    scale = np.cbrt(np.linalg.norm(target) / np.linalg.norm(Factors(*matrices).reconstruct()))
    return [matrix * scale for matrix in matrices]


def _update(unfolding: Array, matrices: list[Array], mode: int, proximal: float) -> Array:
    first, second = (matrices[other] for other in range(3) if other != mode)
    gram = (first.T @ first) * (second.T @ second)
    weight = proximal * np.trace(gram) / len(gram)
    right = unfolding @ khatri_rao(first, second) + weight * matrices[mode]
    gram[np.diag_indices_from(gram)] += weight
    return linalg.solve(gram, right.T, assume_a="pos").T
