"""The equivariant part of a tensor: what is left of fitted factors when their symmetry errors are removed."""

from __future__ import annotations

import numpy as np

from tdn.cp.couplings import coupling_paths, coupling_tensor, dimension
from tdn.cp.tables import FactorTable


def equivariant_part(table: FactorTable) -> FactorTable:
    """The exactly equivariant tensor that is closest to the one that `table` stands for, as a table of its own.

    Coupling tensors of different paths are orthogonal, so its path weights are projections `<M, C> / <C, C>`. Its
    factors are the tensor itself, `e_i e_j M_ij`: `d1 d2` terms, for products that do not evaluate them.
    """
    tensor = table.reconstruct()
    weights = {}
    for path in coupling_paths(*table.shape, parity=table.parity):
        basis = coupling_tensor(*table.shape, {path: 1.0})
        weights[path] = float((tensor * basis).sum() / (basis * basis).sum())
    exact = coupling_tensor(*table.shape, weights)
    d1, d2, d3 = (dimension(degree) for degree in table.shape)
    in1, in2 = np.repeat(np.eye(d1), d2, axis=1), np.tile(np.eye(d2), (1, d1))
    out = exact.reshape(d1 * d2, d3).T.copy()
    method = f"equivariant part of: {table.method}"
    return FactorTable(*table.shape, table.parity, in1, in2, out, weights, method)
