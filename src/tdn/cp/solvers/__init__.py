"""Solvers for CP factors of coupling tensors, one file each."""

from tdn.cp.solvers.alternating import AlternatingLeastSquares
from tdn.cp.solvers.ansatz import Ansatz, cyclic_ansatz, free_ansatz
from tdn.cp.solvers.cubature import SphereCubature
from tdn.cp.solvers.levenberg_marquardt import LevenbergMarquardt
from tdn.cp.solvers.matrix_algebra import MatrixAlgebra
from tdn.cp.solvers.problem import CouplingProblem, CPSolution, solution_from_factors
from tdn.cp.solvers.quadrature import SphereQuadrature

__all__ = [
    "AlternatingLeastSquares",
    "Ansatz",
    "CPSolution",
    "CouplingProblem",
    "LevenbergMarquardt",
    "MatrixAlgebra",
    "SphereCubature",
    "SphereQuadrature",
    "cyclic_ansatz",
    "free_ansatz",
    "solution_from_factors",
]
