"""Exact and low-rank canonical polyadic factors of Clebsch-Gordan couplings (float64 NumPy, no torch)."""

from tdn.cp.certificate import Certificate
from tdn.cp.couplings import Irrep, IrrepPath, Path, coupling_paths, coupling_tensor, wigner_3j
from tdn.cp.tables import FactorTable, list_tables, load_table

__all__ = [
    "Certificate",
    "FactorTable",
    "Irrep",
    "IrrepPath",
    "Path",
    "coupling_paths",
    "coupling_tensor",
    "list_tables",
    "load_table",
    "wigner_3j",
]
