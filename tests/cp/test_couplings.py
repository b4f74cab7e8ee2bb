"""Coupling tensors against two independent references and their own symmetries."""

from __future__ import annotations

import numpy as np
import pytest

from tdn.cp.couplings import (
    Path,
    coupling_paths,
    coupling_tensor,
    degree_slice,
    irreps_coupling_tensor,
    irreps_paths,
    natural_irreps,
    parse_irreps,
    random_rotations,
    representation_matrix,
    spherical_harmonics,
    wigner_3j,
)
from tdn.errors import ConfigError


def test_wigner_3j_equals_e3nn() -> None:
    torch = pytest.importorskip("torch")
    o3 = pytest.importorskip("e3nn.o3")
    for path in coupling_paths(6, 6, 6, parity="all"):
        reference = o3.wigner_3j(*path, dtype=torch.float64).numpy()
        np.testing.assert_allclose(wigner_3j(*path), reference, atol=1e-13, err_msg=str(path))


def test_wigner_3j_agrees_with_exact_coefficients_of_sympy() -> None:
    sympy_wigner = pytest.importorskip("sympy.physics.wigner")
    for l1, l2, l3 in [(1, 1, 2), (2, 2, 2), (2, 3, 4), (1, 2, 2), (4, 4, 3)]:
        exact = np.array(
            [
                [
                    [float(sympy_wigner.wigner_3j(l1, l2, l3, m1, m2, m3)) for m3 in range(-l3, l3 + 1)]
                    for m2 in range(-l2, l2 + 1)
                ]
                for m1 in range(-l1, l1 + 1)
            ]
        )
        # The bases differ by unitary matrices in each index, so the singular values of the unfoldings must agree
        # ... and in the standard real basis the tensor itself must, up to a phase.
        bases = [_standard_real_basis(degree) for degree in (l1, l2, l3)]
        real = np.einsum("abc,ai,bj,ck->ijk", exact, *bases)
        phase = np.vdot(real, wigner_3j(l1, l2, l3))
        assert abs(phase) == pytest.approx(1.0, abs=1e-13)
        np.testing.assert_allclose(real * phase, wigner_3j(l1, l2, l3), atol=1e-13)


def _standard_real_basis(degree: int) -> np.ndarray:
    """Columns: real harmonics (sine type for m < 0, cosine for m > 0) in complex ones with Condon-Shortley phase."""
    basis = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    basis[degree, degree] = 1.0
    for m in range(1, degree + 1):
        basis[degree + m, degree + m] = (-1) ** m / np.sqrt(2)
        basis[degree - m, degree + m] = 1 / np.sqrt(2)
        basis[degree + m, degree - m] = -1j * (-1) ** m / np.sqrt(2)
        basis[degree - m, degree - m] = 1j / np.sqrt(2)
    return basis


def test_wigner_3j_is_symmetric_for_even_and_antisymmetric_for_odd_sums() -> None:
    for path in coupling_paths(4, 4, 4, parity="all"):
        sign = (-1) ** sum(path)
        l1, l2, l3 = path
        np.testing.assert_allclose(wigner_3j(l1, l2, l3), sign * wigner_3j(l2, l1, l3).transpose(1, 0, 2), atol=1e-14)
        np.testing.assert_allclose(wigner_3j(l1, l2, l3), wigner_3j(l2, l3, l1).transpose(2, 0, 1), atol=1e-14)


def test_wigner_3j_refuses_degrees_outside_the_triangle() -> None:
    with pytest.raises(ConfigError, match="no coupling"):
        wigner_3j(1, 1, 3)


@pytest.mark.parametrize(("parity", "improper"), [("all", False), ("natural", True), ("natural", False)])
def test_coupling_tensor_commutes_with_its_group(parity: str, improper: bool) -> None:
    rng = np.random.default_rng(0)
    weights = {path: rng.standard_normal() for path in coupling_paths(2, 3, 4, parity=parity)}
    tensor = coupling_tensor(2, 3, 4, weights)
    rotation = random_rotations(1, rng, improper)[0]
    first, second, third = (representation_matrix(degree, rotation) for degree in (2, 3, 4))
    rotated = np.einsum("ijk,ia,jb,kc->abc", tensor, first, second, third)
    np.testing.assert_allclose(rotated, tensor, atol=1e-13)


def test_odd_paths_are_not_invariant_under_reflection() -> None:
    inversion = representation_matrix(1, -np.eye(3))
    tensor = coupling_tensor(1, 1, 1, {Path(1, 1, 1): 1.0})
    reflected = np.einsum("ijk,ia,jb,kc->abc", tensor, inversion, inversion, inversion)
    np.testing.assert_allclose(reflected, -tensor, atol=1e-14)


def test_spherical_harmonics_equal_e3nn() -> None:
    torch = pytest.importorskip("torch")
    o3 = pytest.importorskip("e3nn.o3")
    directions = np.random.default_rng(0).standard_normal((20, 3))
    reference = o3.spherical_harmonics(list(range(7)), torch.tensor(directions), True, "component").numpy()
    np.testing.assert_allclose(spherical_harmonics(6, directions), reference, atol=1e-12)


def test_representation_matrices_equal_e3nn() -> None:
    torch = pytest.importorskip("torch")
    o3 = pytest.importorskip("e3nn.o3")
    rotations = random_rotations(5, np.random.default_rng(1))
    rotations[::2] *= -1.0
    single = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # e3nn's angles pass through the default precision
    try:
        reference = o3.Irreps("0e+1o+2e+3o+4e").D_from_matrix(torch.tensor(rotations)).numpy()
    finally:
        torch.set_default_dtype(single)
    np.testing.assert_allclose(representation_matrix(4, rotations), reference, atol=1e-12)


def test_harmonics_rotate_with_their_representation() -> None:
    rng = np.random.default_rng(2)
    rotation, direction = random_rotations(1, rng, improper=True)[0], rng.standard_normal(3)
    rotated = representation_matrix(5, rotation) @ spherical_harmonics(5, direction)
    np.testing.assert_allclose(rotated, spherical_harmonics(5, rotation @ direction), atol=1e-12)


def test_number_of_paths() -> None:
    assert [len(coupling_paths(n, n, n, parity="all")) for n in range(1, 7)] == [5, 15, 34, 65, 111, 175]
    assert [len(coupling_paths(n, n, n)) for n in range(1, 7)] == [4, 11, 23, 42, 69, 106]


def test_natural_irreps_give_the_natural_coupling() -> None:
    in1, in2, out = natural_irreps(2), natural_irreps(1), natural_irreps(3)
    weights = dict.fromkeys(coupling_paths(2, 1, 3), 1.0)
    np.testing.assert_array_equal(irreps_coupling_tensor(in1, in2, out), coupling_tensor(2, 1, 3, weights))


def test_irreps_lists_with_both_parities_follow_o3() -> None:
    irreps = parse_irreps("0e+1o+1e+2e")
    paths = irreps_paths(irreps, irreps, irreps)
    assert (1, 1, 2) in paths  # polar x polar -> axial
    assert (1, 1, 1) not in paths  # polar x polar -> polar breaks parity
    tensor = irreps_coupling_tensor(irreps, irreps, irreps)
    rotation = random_rotations(1, np.random.default_rng(3), improper=True)[0]
    wigner = representation_matrix(2, rotation)
    blocks = [wigner[degree_slice(irrep.l), degree_slice(irrep.l)] * (-1) ** irrep.l for irrep in irreps]
    matrix = np.zeros((12, 12))
    start = 0
    for irrep, block in zip(irreps, blocks, strict=True):
        stop = start + len(block)
        matrix[start:stop, start:stop] = block * irrep.p  # determinant -1: parity decides the sign
        start = stop
    np.testing.assert_allclose(np.einsum("ijk,ia,jb,kc->abc", tensor, matrix, matrix, matrix), tensor, atol=1e-13)


def test_unreadable_irreps_are_refused() -> None:
    with pytest.raises(ConfigError, match="1x"):
        parse_irreps("0e+1x")
