"""The equivariance bound holds for any factors, and is what separates exact tables from fits."""

from __future__ import annotations

import numpy as np
import pytest

from tdn.cp.certificate import certify, singular_value_tail
from tdn.cp.couplings import coupling_paths, coupling_tensor
from tdn.cp.decomposition import Factors
from tdn.cp.tables import load_table


@pytest.mark.parametrize("parity", ["natural", "all"])
def test_sampled_defect_never_exceeds_the_bound(parity: str) -> None:
    rng = np.random.default_rng(0)
    table = load_table(2, 2, 2, parity=parity)
    for size in (1e-8, 1e-4, 1e-1):
        noisy = Factors(*(matrix + size * rng.standard_normal(matrix.shape) for matrix in table.factors.matrices))
        certificate = certify(noisy, table.shape, table.parity, table.path_weights)
        assert 0.01 * certificate.bound < certificate.defect_float64 <= certificate.bound


def test_exact_table_is_equivariant_to_rounding() -> None:
    certificate = load_table(3, 3, 3).certificate
    assert certificate.relative_defect_float64 < 1e-13
    assert certificate.relative_defect_float32 < 1e-5


def test_paper_bound_says_nothing_at_the_paper_ranks() -> None:
    for lmax in range(1, 5):
        certificate = load_table(lmax, lmax, lmax, parity="all", rank="paper").certificate
        assert certificate.bound_paper > 1.0
        assert certificate.defect_float64 < certificate.bound < 0.5


def test_singular_value_tail_is_zero_once_the_cube_root_of_the_rank_reaches_the_dimension() -> None:
    tensor = coupling_tensor(1, 1, 1, dict.fromkeys(coupling_paths(1, 1, 1), 1.0))
    assert singular_value_tail(tensor, 64) == pytest.approx(0.0, abs=1e-7)
    assert singular_value_tail(tensor, 63) > 0.1


def test_reflections_are_sampled_for_natural_parity() -> None:
    table = load_table(1, 1, 1, parity="all")
    # The same factors are equivariant under rotations but not under reflections.
    assert certify(table.factors, table.shape, "all", table.path_weights).defect_float64 < 1e-13
    assert certify(table.factors, table.shape, "natural", table.path_weights).defect_float64 > 1e-2


def test_worst_path_is_the_block_that_was_spoiled() -> None:
    table = load_table(2, 2, 2)
    tensor_error = Factors(np.zeros((9, 1)), np.zeros((9, 1)), np.zeros((9, 1)))
    for matrix, row in zip(tensor_error.matrices, (0, 5, 6), strict=True):
        matrix[row] = 1e-2
    spoiled = Factors(
        *(np.concatenate(pair, axis=1) for pair in zip(table.factors.matrices, tensor_error.matrices, strict=True))
    )
    certificate = certify(spoiled, table.shape, table.parity, table.path_weights)
    assert certificate.worst_path == (0, 2, 2)
    assert certificate.worst_path_residual == pytest.approx(certificate.residual, rel=1e-6)
