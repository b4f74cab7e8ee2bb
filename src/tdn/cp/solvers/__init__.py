"""Solvers for CP factors of coupling tensors, one file each."""

from tdn.cp.solvers.ansatz import Ansatz, free_ansatz, tied_ansatz
from tdn.cp.solvers.levenberg_marquardt import LevenbergMarquardt
from tdn.cp.solvers.problem import CouplingProblem, CPSolution, solution_from_factors
from tdn.cp.solvers.quadrature import SphereQuadrature

__all__ = [
    "Ansatz",
    "CPSolution",
    "CouplingProblem",
    "LevenbergMarquardt",
    "SphereQuadrature",
    "free_ansatz",
    "solution_from_factors",
    "tied_ansatz",
]
