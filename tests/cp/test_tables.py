"""Shipped tables: every claim measured again, and what loading does with shapes that have no file of their own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path as FilePath

import numpy as np
import pytest

from tdn.cp.certificate import Certificate
from tdn.cp.couplings import coupling_paths
from tdn.cp.tables import FactorTable, file_name, list_tables, load_table, read_table, verify, write_table
from tdn.errors import FactorTableError

FILES = list_tables()
ISSUE_RANKS = {1: 6, 2: 18, 3: 32, 4: 74, 5: 86, 6: 146}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.path.stem)
def test_shipped_table_holds_what_its_certificate_says(file: object) -> None:
    table = read_table(file.path)
    verification = verify(table, exact=not file.fit)
    assert verification.failures == ()
    assert file_name(table) == file.path.name
    assert set(table.path_weights) == set(coupling_paths(*table.shape, parity=table.parity))
    recipe = table.metadata["recipe"]
    assert tuple(recipe["shape"]) == table.shape


@pytest.mark.parametrize("lmax", ISSUE_RANKS)
def test_natural_tables_reach_the_wanted_ranks(lmax: int) -> None:
    assert load_table(lmax, lmax, lmax).rank <= ISSUE_RANKS[lmax]


@pytest.mark.parametrize(("lmax", "rank"), [(1, 8), (2, 32), (3, 100)])
def test_tables_of_all_paths_reach_the_wanted_ranks(lmax: int, rank: int) -> None:
    assert load_table(lmax, lmax, lmax, parity="all").rank <= rank


@pytest.mark.parametrize("lmax", range(1, 7))
def test_paper_fit_has_the_paper_rank_and_is_marked_as_a_fit(lmax: int) -> None:
    table = load_table(lmax, lmax, lmax, parity="all", rank="paper")
    assert table.rank == 7 * lmax**2
    assert 1e-3 < table.certificate.residual < 0.2
    assert not table.certificate.exact
    assert set(table.path_weights.values()) == {1.0}


def test_every_rectangular_shape_to_degree_four_is_exact_in_natural_parity() -> None:
    for shape in itertools.product(range(5), repeat=3):
        table = load_table(*shape)
        assert table.shape == shape
        assert [len(matrix) for matrix in table.factors.matrices] == [(degree + 1) ** 2 for degree in shape]
        assert set(table.path_weights) == set(coupling_paths(*shape))
        assert np.abs(table.reconstruct() - table.coupling()).max() < 1e-13, shape
        assert min(abs(weight) for weight in table.path_weights.values()) > 0.5, shape


def test_rectangular_shapes_of_all_paths_are_parts_of_larger_tables() -> None:
    for shape in [(1, 2, 1), (2, 1, 3), (3, 1, 1), (1, 1, 3), (2, 0, 2)]:
        table = load_table(*shape, parity="all")
        assert set(table.path_weights) == set(coupling_paths(*shape, parity="all"))
        assert np.abs(table.reconstruct() - table.coupling()).max() < 1e-13, shape


def test_larger_shapes_never_have_smaller_ranks() -> None:
    for a, b, c in itertools.product(range(4), repeat=3):
        assert load_table(a, b, c).rank <= load_table(a, b, c + 1).rank


def test_path_weights_are_those_of_the_factors_for_permuted_roles() -> None:
    table = load_table(3, 1, 2)
    verification = verify(table)
    assert verification.passed
    assert table.rank == load_table(1, 2, 3).rank


def test_missing_table_names_what_there_is() -> None:
    with pytest.raises(FactorTableError, match=r"\(2, 2, 2\) rank 17.*tdn cp solve"):
        load_table(9, 9, 9)
    with pytest.raises(FactorTableError, match="rank 5"):
        load_table(2, 2, 2, rank=5)
    with pytest.raises(FactorTableError, match="parity"):
        load_table(1, 1, 1, parity="odd")  # type: ignore[arg-type]


def test_table_file_round_trip(tmp_path: FilePath) -> None:
    table = load_table(2, 2, 2)
    write_table(table, tmp_path / "table.npz")
    again = read_table(tmp_path / "table.npz")
    assert again.digest == table.digest
    assert again.path_weights == table.path_weights
    assert again.certificate == table.certificate


def test_damaged_and_newer_files_are_refused(tmp_path: FilePath) -> None:
    path = tmp_path / "table.npz"
    path.write_bytes(FILES[0].path.read_bytes()[:300])
    with pytest.raises(FactorTableError, match="cannot read"):
        read_table(path)
    with pytest.raises(FactorTableError, match="cannot read"):
        read_table(tmp_path / "absent.npz")


def test_digest_depends_on_every_factor() -> None:
    table = load_table(1, 1, 1)
    for role in ("in1", "in2", "out"):
        changed = getattr(table, role).copy()
        changed[0, 0] += 1e-15
        assert replace(table, **{role: changed}).digest != table.digest


def test_verification_notices_a_spoiled_factor() -> None:
    table = load_table(2, 2, 2)
    spoiled = table.out.copy()
    spoiled[4, 3] += 1e-6
    verification = verify(replace(table, out=spoiled))
    assert not verification.passed
    assert verification.certificate.residual > 1e-8


def test_verification_notices_ill_conditioned_factors() -> None:
    table = load_table(1, 1, 1)
    # Two cancelling terms leave the tensor alone and ruin the arithmetic.
    large = 1e3 * np.ones((4, 2)) * [1.0, -1.0]
    ones = np.full((4, 2), 1e3)
    padded = _with_columns(table, large, ones, ones)
    verification = verify(padded)
    assert any("well conditioned" in failure for failure in verification.failures)


def _with_columns(table: FactorTable, in1: np.ndarray, in2: np.ndarray, out: np.ndarray) -> FactorTable:
    extended = {
        name: np.concatenate([getattr(table, name), columns], axis=1)
        for name, columns in (("in1", in1), ("in2", in2), ("out", out))
    }
    return replace(table, stored_certificate=None, **extended)


def test_certificate_survives_json() -> None:
    certificate = load_table(1, 1, 1).certificate
    assert Certificate.from_dict(certificate.to_dict()) == certificate
