"""Layers against e3nn, against their exact twins, and against what they promise."""

from __future__ import annotations

import e3nn.o3 as o3
import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import Tensor

from tdn.cp.couplings import random_rotations, representation_matrix
from tdn.nn.harmonics import degrees, spherical_harmonics
from tdn.nn.linear import DegreeLinear, ElementCopies
from tdn.nn.radial import MLP, BesselBasis, RadialTable, UniformSpline, polynomial_envelope
from tdn.nn.tensor_product import CPConvolution, CPProduct

SHAPES = [(1, 1, 1, "natural"), (2, 2, 2, "natural"), (3, 3, 3, "natural"), (0, 2, 2, "natural"), (2, 2, 0, "natural"),
          (2, 2, 2, "all")]  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def unit_vectors(count: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)


@pytest.mark.parametrize("lmax", range(7))
def test_harmonics_equal_e3nn(lmax: int) -> None:
    directions = torch.cat([unit_vectors(50), torch.eye(3), -torch.eye(3)])
    expected = o3.spherical_harmonics(list(range(lmax + 1)), directions, normalize=True, normalization="component")
    torch.testing.assert_close(spherical_harmonics(directions, lmax).T, expected, atol=1e-12, rtol=0)


def test_harmonics_are_smooth_at_the_poles() -> None:
    directions = torch.eye(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(spherical_harmonics(directions, 4).sum(), directions)
    assert gradient.isfinite().all()


def edges(num_atoms: int, count: int) -> tuple[Tensor, Tensor]:
    return torch.randint(num_atoms, (count,)), torch.randint(num_atoms, (count,)).sort().values


@pytest.mark.parametrize("shape", SHAPES)
def test_tensor_product_equals_its_twin_and_e3nn(shape: tuple[int, int, int, str]) -> None:
    cp, exact = CPProduct(*shape), CPProduct(*shape, exact=True)
    exact.load_state_dict(cp.state_dict())
    x, y = torch.randn((shape[0] + 1) ** 2, 5, 3), torch.randn((shape[1] + 1) ** 2, 5, 3)
    result = cp(x, y)
    torch.testing.assert_close(result, exact(x, y), atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(result, e3nn_product(cp, x, y), atol=1e-11, rtol=1e-11)


def e3nn_product(layer: CPProduct | CPConvolution, x: Tensor, y: Tensor) -> Tensor:
    """The same product by e3nn, one channel at a time, with the path weights of the layer's table."""
    table = layer.factors.table
    # Every irrep is called even, so that e3nn takes the paths that we name whatever their parity.
    irreps = [o3.Irreps([(1, (l, 1)) for l in range(lmax + 1)]) for lmax in table.shape]
    # e3nn's "component" normalisation multiplies a path by sqrt(2 l3 + 1), as `Factors` does.
    instructions = [(l1, l2, l3, "uuu", False, 1.0) for l1, l2, l3 in table.path_weights]
    product = o3.TensorProduct(*irreps, instructions, irrep_normalization="component", path_normalization="none")
    for instruction, weight in zip(product.instructions, table.path_weights.values(), strict=True):
        assert instruction.path_weight == pytest.approx((2 * instruction.i_out + 1) ** 0.5)
        assert weight != 0.0
    outputs = 0.0
    for path, weight in table.path_weights.items():
        single = o3.TensorProduct(
            *irreps, [(*path, "uuu", False, 1.0)], irrep_normalization="component", path_normalization="none"
        )
        outputs = outputs + weight * single(x.permute(1, 2, 0), y.permute(1, 2, 0))
    return outputs.permute(2, 0, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_equals_its_twin_and_e3nn(shape: tuple[int, int, int, str]) -> None:
    cp, exact = CPConvolution(*shape), CPConvolution(*shape, exact=True)
    exact.load_state_dict(cp.state_dict())
    senders, receivers = edges(4, 9)
    x, harmonics = torch.randn((shape[0] + 1) ** 2, 4, 3), spherical_harmonics(unit_vectors(9), shape[1])
    weights = torch.randn(9, shape[1] + 1, 3)
    result = cp(x, harmonics, weights, senders, receivers)
    torch.testing.assert_close(result, exact(x, harmonics, weights, senders, receivers), atol=1e-11, rtol=1e-11)
    filters = harmonics[:, :, None] * weights.transpose(0, 1)[degrees(shape[1])]
    messages = e3nn_product(cp, x[:, senders], filters)
    expected = torch.zeros_like(result).index_add(1, receivers, messages)
    torch.testing.assert_close(result, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
def test_products_are_equivariant(lmax: int, improper: bool) -> None:
    product = CPProduct(lmax, lmax, lmax)
    matrix = torch.from_numpy(random_rotations(1, np.random.default_rng(0), improper)[0])
    action = torch.from_numpy(representation_matrix(lmax, matrix.numpy()))
    x, y = torch.randn((lmax + 1) ** 2, 4, 2), torch.randn((lmax + 1) ** 2, 4, 2)
    turned = product(torch.einsum("ij,jnu->inu", action, x), torch.einsum("ij,jnu->inu", action, y))
    torch.testing.assert_close(turned, torch.einsum("ij,jnu->inu", action, product(x, y)), atol=1e-11, rtol=1e-11)


def test_factors_keep_their_digits_through_float32() -> None:
    product = CPProduct(2, 2, 2)
    before = product.factors.in1.clone()
    assert torch.equal(product.float().double().factors.in1, before)


@pytest.mark.parametrize("shared", [False, True])
def test_degree_linear_mixes_channels_and_nothing_else(shared: bool) -> None:
    linear = DegreeLinear(2, 3, 5, shared)
    x = torch.randn(9, 4, 3)
    result = linear(x)
    for component, degree in enumerate(degrees(2).tolist()):
        weight = linear.weight[0 if shared else degree] / 3**0.5
        torch.testing.assert_close(result[component], x[component] @ weight)
    assert linear.weight.shape[0] == (1 if shared else 3)


def test_a_linear_map_of_copies_has_a_matrix_for_every_element() -> None:
    copies, linear = ElementCopies(3, 2, 4), DegreeLinear(2, 8, 4)
    x, species = torch.randn(9, 5, 4), torch.tensor([2, 0, 1, 0, 2])
    assert copies.weight is not None
    torch.nn.init.normal_(copies.weight)
    result = linear(copies(x, species))
    weight, matrices = copies.weight.view(3, 2, 4), linear.weight.view(3, 2, 4, 4)
    of_element = torch.einsum("zbi,lbij->zlij", weight, matrices) * 8**-0.5
    for atom, z in enumerate(species.tolist()):
        for component, degree in enumerate(degrees(2)):
            expected = x[component, atom] @ of_element[z, degree]
            torch.testing.assert_close(result[component, atom], expected, atol=1e-13, rtol=0)
    assert ElementCopies(3, 1, 4)(x, species) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_envelope_vanishes_with_two_derivatives_without_noise(dtype: torch.dtype) -> None:
    u = torch.tensor([0.0, 0.3, 0.9, 0.999, 1.0, 1.1], dtype=dtype)
    exact = 1 - 28 * u.double() ** 6 + 48 * u.double() ** 7 - 21 * u.double() ** 8
    result = polynomial_envelope(4.0 * u, 4.0)
    inside = slice(0, 4)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(result[inside].double(), exact[inside], rtol=tolerance, atol=0)
    assert (result[4:] == 0.0).all()
    end = torch.tensor([4.0], dtype=dtype, requires_grad=True)
    value = polynomial_envelope(end, 4.0)
    (first,) = torch.autograd.grad(value, end, create_graph=True)
    (second,) = torch.autograd.grad(first, end)
    assert first == second == 0.0


def test_bessel_basis_is_its_formula_in_every_precision() -> None:
    distance = torch.linspace(0.3, 5.5, 40)
    torch.set_default_dtype(torch.float32)
    basis = BesselBasis(5.0, 6).double()
    k = torch.arange(1, 7, dtype=torch.float64)
    waves = (2 / 5.0) ** 0.5 * torch.sin(k * torch.pi * distance[:, None] / 5.0) / distance[:, None]
    expected = waves * polynomial_envelope(distance, 5.0)[:, None]
    torch.testing.assert_close(basis(distance), expected, atol=1e-14, rtol=1e-12)
    assert (basis(distance[distance >= 5.0]) == 0.0).all()


def test_mlp_maps_zero_to_zero_and_keeps_variance() -> None:
    mlp = MLP([64, 128, 128, 64])
    assert torch.equal(mlp(torch.zeros(2, 64)), torch.zeros(2, 64))
    assert 0.5 < mlp(torch.randn(2000, 64)).std() < 2.0


@pytest.mark.parametrize("degree", [3, 5])
def test_spline_vanishes_at_the_cutoff_with_its_derivatives_and_is_a_partition_of_unity(degree: int) -> None:
    spline = UniformSpline(4.0, 16, degree)
    distance = torch.linspace(0.2, 3.99, 40, requires_grad=True)
    basis, knot = spline.basis(distance)
    torch.testing.assert_close(basis.sum(1), torch.ones(40))
    assert int(knot.min()) >= 0
    assert int(knot.max()) + degree < len(spline.knots(distance))
    end = torch.tensor([4.0], requires_grad=True)
    value = spline.basis(end)[0][:, 0].sum()  # only the first one has a coefficient that is not zero there
    for _ in range(degree):
        assert value.abs() < 1e-30
        (value,) = torch.autograd.grad(value.sum(), end, create_graph=True)


@pytest.mark.parametrize("degree", [3, 5])
def test_spline_has_all_but_one_continuous_derivatives_at_its_knots(degree: int) -> None:
    spline = UniformSpline(4.0, 16, degree)
    coefficients = torch.randn(16 + degree)

    def derivatives(distance: Tensor) -> list[Tensor]:
        distance = distance.requires_grad_(True)
        basis, knot = spline.basis(distance)
        values = [(basis * coefficients[knot[:, None] + torch.arange(degree + 1)]).sum(1)]
        for _ in range(degree):
            values.append(torch.autograd.grad(values[-1].sum(), distance, create_graph=True)[0])
        return values

    knots = 0.25 * torch.arange(1, 16)
    *continuous, last = zip(derivatives(knots - 1e-9), derivatives(knots + 1e-9), strict=True)
    for below, above in continuous:
        torch.testing.assert_close(below, above, atol=1e-8 * 4.0 ** (2 * degree), rtol=0)
    assert (last[0] - last[1]).abs().max() > 1.0


@pytest.mark.parametrize("degree", [3, 5])
def test_splines_are_those_of_scipy(degree: int) -> None:
    spline = UniformSpline(4.0, 16, degree)
    distance, coefficients = torch.linspace(0.01, 4.0, 97), torch.randn(16 + degree)
    basis, knot = spline.basis(distance)
    found = (basis * coefficients[knot[:, None] + torch.arange(degree + 1)]).sum(1)
    ends = 0.25 * (np.arange(16 + 2 * degree + 1) - degree)
    torch.testing.assert_close(found, torch.from_numpy(BSpline(ends, coefficients.numpy(), degree)(distance.numpy())))


def test_spline_follows_the_network() -> None:
    spline, basis = UniformSpline(5.0, 128), BesselBasis(5.0, 8)
    distance = torch.linspace(0.5, 4.9, 50)
    values, knot = spline.basis(distance)
    table = basis(spline.knots(distance))
    assert (table[-5:] == 0.0).all()
    weights = RadialTable(values, table[:, None], knot).weights()[:, 0]
    # Two knots out: that is what makes the last coefficients vanish.
    torch.testing.assert_close(weights, basis(distance + 2 * 5.0 / 128), atol=2e-2, rtol=0)
