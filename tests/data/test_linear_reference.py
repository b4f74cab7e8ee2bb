"""Published references: usable elements are read, the others are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tdn.data.linear_reference import NORMALISERS, read_linear_reference
from tdn.errors import DataError


def test_coefficients_are_read_by_atomic_number(tmp_path: Path):
    np.savez(tmp_path / "linref.npz", coeff=np.array([9e9, -3.4, 0.0, -6.5]))
    assert read_linear_reference(tmp_path / "linref.npz", {3, 1}) == {1: -3.4, 3: -6.5}


def test_absent_and_unphysical_elements_are_named(tmp_path: Path):
    np.savez(tmp_path / "linref.npz", coeff=np.array([0.0, -3.4, 2e7, np.nan, 0.0]))
    with pytest.raises(DataError, match=r"no energy of Be, C; unphysical energies: He 2e\+07 eV, Li nan eV"):
        read_linear_reference(tmp_path / "linref.npz", [1, 2, 3, 4, 6])


def test_another_file_is_refused(tmp_path: Path):
    np.savez(tmp_path / "other.npz", energies=np.zeros(3))
    with pytest.raises(DataError, match="no npz with `coeff`"):
        read_linear_reference(tmp_path / "other.npz", [1])
    with pytest.raises(DataError, match="no npz with `coeff`"):
        read_linear_reference(tmp_path / "absent.npz", [1])


def test_of_the_published_file_only_elements_of_its_data_are_accepted(data_dir: Path):
    path = data_dir / "oc" / "oc22_linfit_coeffs.npz"
    accepted = []
    for z in range(1, 119):
        try:
            accepted.append(*read_linear_reference(path, [z]))
        except DataError:
            continue
    assert len(accepted) == 57
    assert {1, 6, 7, 8, 29, 58, 82, 83} <= set(accepted)
    assert not {2, 5, 9, 10, 15, 16, 17, 18, 35, 36, 43, 53, 54, 57} & set(accepted)
    assert read_linear_reference(path, [8])[8] == pytest.approx(-6.665, abs=1e-3)


def test_normalisers_are_the_published_ones():
    assert NORMALISERS["oc20-is2re"].mean == -1.525913953781128
    assert NORMALISERS["oc20-is2re"].std == 2.279365062713623
