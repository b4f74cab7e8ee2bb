"""The drop-in layer: the same map as e3nn, the same map as the definition, equivariant, differentiable twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tdn.cp.couplings import degree_slice, random_rotations, representation_matrix, wigner_3j
from tdn.errors import ConfigError, FactorTableError
from tdn.plug import CPTensorProduct, Irreps

from .conftest import all_paths

pytestmark = pytest.mark.usefixtures("float64")

# Irreps and instructions that together have every mode, with and without weights, unequal and repeated entries.
MIXED = ("4x0e+4x1o+4x2e+2x0o", "3x0e+3x1o+1x2e", "4x0e+5x1o+4x2e+3x1e")
CASES: dict[str, tuple[str, str, str, list[tuple[Any, ...]]]] = {
    "uvw": (*MIXED, all_paths(*MIXED, "uvw")),
    "uvu": (*MIXED, [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True), (2, 2, 2, "uvu", True),
            (0, 2, 2, "uvu", False), (2, 0, 2, "uvu", True, 0.3)]),
    "uvv": ("4x0e+2x1o", "5x1o+3x0e", "5x1o+5x0e+3x0e", [(0, 0, 0, "uvv", True), (1, 0, 1, "uvv", False),
            (0, 1, 2, "uvv", True)]),
    "uuu": ("3x0e+3x1o+3x1o", "3x0e+3x1o+3x2e", "3x0e+3x1e+3x1o", [(0, 0, 0, "uuu", True), (1, 1, 1, "uuu", False),
            (1, 2, 2, "uuu", True), (0, 1, 2, "uuu", False)]),
    "uuw": ("3x0e+3x1o", "3x0e+3x1o", "5x0e+1x1e", [(0, 0, 0, "uuw", True), (1, 1, 0, "uuw", True),
            (1, 1, 1, "uuw", False)]),
    "uvuv": ("3x0e+2x1o", "2x1o+3x2e", "6x1o+4x0e+6x2o", [(0, 0, 0, "uvuv", True), (1, 0, 1, "uvuv", False),
             (1, 1, 2, "uvuv", True)]),
    "mixed": ("4x0e+4x1o", "1x0e+1x1o+4x1o", "4x0e+6x1o+4x1e+2x0e", [(0, 0, 0, "uvu", True), (0, 1, 1, "uvw", True),
              (1, 2, 2, "uuu", True), (1, 1, 3, "uvw", True), (1, 2, 3, "uuw", True)]),
}  # fmt: skip


def inputs(in1: str, in2: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of 3 x 2 samples, the second input of only two, to be broadcast."""
    generator = torch.Generator().manual_seed(seed)
    first, second = Irreps(in1).dim, Irreps(in2).dim
    return torch.randn(3, 2, first, generator=generator), torch.randn(2, second, generator=generator)


def reference(in1: str, in2: str, out: str, layer: CPTensorProduct, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The definition, path by path: `mul_ir` layout, weights of every sample."""
    irreps = [Irreps(text) for text in (in1, in2, out)]
    result = torch.zeros(*x.shape[:-1], irreps[2].dim)
    products = {"uvw": "zuvk,zuvw->zwk", "uvu": "zuvk,zuv->zuk", "uvv": "zuvk,zuv->zvk", "uuw": "zuuk,zuw->zwk",
                "uuu": "zuuk,zu->zuk", "uvuv": "zuvk,zuv->zuvk"}  # fmt: skip
    start = 0
    for i, j, k, mode, has_weight, scale, shape in layer.instructions:
        entries = [irreps[role][n] for role, n in enumerate((i, j, k))]
        coupling = torch.tensor(wigner_3j(*(entry.ir.l for entry in entries)).copy())
        a = x[..., irreps[0].slices()[i]].reshape(-1, entries[0].mul, coupling.shape[0])
        b = y[..., irreps[1].slices()[j]].reshape(-1, entries[1].mul, coupling.shape[1])
        pairs = torch.einsum("zui,zvj,ijk->zuvk", a, b, coupling)
        numel = int(np.prod(shape))
        own = weight[..., start : start + numel].reshape(-1, *shape) if has_weight else torch.ones(len(a), *shape)
        start += numel if has_weight else 0
        part = scale * torch.einsum(products[mode], pairs, own)
        result[..., irreps[2].slices()[k]] += part.reshape(*x.shape[:-1], -1)
    return result


@pytest.mark.parametrize("case", CASES)
def test_product_is_the_sum_of_its_paths(case: str) -> None:
    in1, in2, out, paths = CASES[case]
    layer = CPTensorProduct(in1, in2, out, paths, shared_weights=False)
    x, y = inputs(in1, in2)
    y = y.expand(3, 2, -1)
    weight = torch.randn(3, 2, layer.weight_numel)
    wanted = reference(in1, in2, out, layer, x.flatten(0, 1), y.flatten(0, 1), weight.flatten(0, 1)).view(3, 2, -1)
    assert torch.allclose(layer(x, y, weight), wanted, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("norms", [(None, None), ("norm", "path"), ("none", "none"), ("component", "path")])
def test_same_as_e3nn(case: str, norms: tuple[str | None, str | None]) -> None:
    o3 = pytest.importorskip("e3nn.o3")
    in1, in2, out, paths = CASES[case]
    options: dict[str, Any] = {"irrep_normalization": norms[0], "path_normalization": norms[1]}
    if norms[0] == "norm":
        options |= {"in1_var": [0.5 + i for i in range(len(Irreps(in1)))], "out_var": [2.0] * len(Irreps(out))}
    theirs = o3.TensorProduct(in1, in2, out, paths, **options)
    ours = CPTensorProduct(o3.Irreps(in1), o3.Irreps(in2), out, paths, signs="installed", **options)
    assert ours.weight_numel == theirs.weight_numel
    assert ours.internal_weights == theirs.internal_weights
    assert torch.equal(ours.output_mask, theirs.output_mask)
    assert [tuple(i)[:5] for i in ours.instructions] == [tuple(i)[:5] for i in theirs.instructions]
    if theirs.internal_weights:
        ours.load_state_dict(theirs.state_dict())
        views = zip(ours.weight_views(yield_instruction=True), theirs.weight_views(yield_instruction=True), strict=True)
        assert all(a[0] == b[0] and torch.equal(a[2], b[2]) for a, b in views)
    x, y = inputs(in1, in2)
    assert torch.allclose(ours(x, y), theirs(x, y), atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_external_weights_are_laid_out_as_in_e3nn(shared: bool) -> None:
    o3 = pytest.importorskip("e3nn.o3")
    in1, in2, out, paths = CASES["mixed"]
    options = {"shared_weights": shared, "internal_weights": False}
    theirs = o3.TensorProduct(in1, in2, out, paths, **options)
    ours = CPTensorProduct(in1, in2, out, paths, signs="installed", **options)
    x, y = inputs(in1, in2)
    weight = torch.randn(*(() if shared else (3, 2)), ours.weight_numel)
    assert torch.allclose(ours(x, y, weight), theirs(x, y, weight), atol=1e-12)
    if shared:
        pieces = list(theirs.weight_views(weight))
        assert torch.allclose(ours(x, y, pieces), theirs(x, y, pieces), atol=1e-12)


def test_state_of_our_layer_loads_into_e3nn() -> None:
    o3 = pytest.importorskip("e3nn.o3")
    theirs, ours = o3.TensorProduct(*CASES["uvw"]), CPTensorProduct(*CASES["uvw"])
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert unexpected == []
    assert all("_compiled_main" in key for key in missing)  # constants of e3nn's generated code
    assert torch.equal(theirs.weight, ours.weight)


def transposed(features: Tensor, irreps: str, to: str) -> Tensor:
    """Features from one layout to the other."""
    pieces = []
    for (mul, ir), part in zip(Irreps(irreps), Irreps(irreps).slices(), strict=True):
        shape = (mul, 2 * ir.l + 1) if to == "ir_mul" else (2 * ir.l + 1, mul)
        pieces.append(features[..., part].unflatten(-1, shape).mT.flatten(-2))
    return torch.cat(pieces, dim=-1)


@pytest.mark.parametrize("case", CASES)
def test_layouts_give_the_same_values(case: str) -> None:
    in1, in2, out, paths = CASES[case]
    layer, other = CPTensorProduct(in1, in2, out, paths), CPTensorProduct(in1, in2, out, paths, layout="ir_mul")
    other.load_state_dict(layer.state_dict())
    x, y = inputs(in1, in2)
    there = other(transposed(x, in1, "ir_mul"), transposed(y, in2, "ir_mul"))
    assert torch.allclose(transposed(there, out, "mul_ir"), layer(x, y), atol=1e-12)


UNIFORM = {
    "O(3)": ("4x0e+4x1o+4x2e", "{}x0e+{}x1o+{}x2e"),
    "SO(3)": ("4x0e+4x1e", "{}x0e+{}x1e"),
    "parities": ("4x0e+4x0o+4x1o+4x1e", "{}x0e+{}x1o"),
    "groups": ("4x0e+4x1o+2x2e", "{}x0e+{}x1o+{}x2e"),
}


def shared_layer(name: str, mode: str, **options: Any) -> CPTensorProduct:
    first, second = UNIFORM[name]
    second = second.replace("{}", "4" if mode[:2] == "uu" else "1" if name == "SO(3)" else "3")
    paths = all_paths(first, second, first, mode)
    if mode in ("uvu", "uuu", "uvv"):
        paths = [p for p in paths if Irreps(first)[p[0]].mul == Irreps(first)[p[2]].mul]
    return CPTensorProduct(first, second, first, paths, share_paths=True, **options)


@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("mode", ["uvw", "uvu", "uuu", "uuw"])
def test_shared_paths_are_e3nn_with_expanded_weights(name: str, mode: str) -> None:
    o3 = pytest.importorskip("e3nn.o3")
    if mode[:2] == "uu" and name == "groups":
        pytest.skip("multiplicities differ")
    outputs = []
    for kernel in ("low-rank", "dense", "auto"):
        layer = shared_layer(name, mode, kernel=kernel, signs="installed")
        assert layer.low_rank == (layer.reasons == ())
        assert layer.low_rank or name == "groups"  # a group of a single path has nothing to merge
        theirs = o3.TensorProduct(str(layer.irreps_in1), str(layer.irreps_in2), str(layer.irreps_out),
                                  [(*i[:5],) for i in layer.instructions])  # fmt: skip
        assert layer.weight_numel < theirs.weight_numel
        x, y = inputs(str(layer.irreps_in1), str(layer.irreps_in2))
        weight = torch.linspace(-1.0, 2.0, layer.weight_numel)
        outputs.append(layer(x, y, weight))
        assert torch.allclose(outputs[-1], theirs(x, y, layer.expand_weights(weight)), atol=1e-11)
    assert torch.allclose(outputs[0], outputs[1], atol=1e-11)


def rotated(features: Tensor, irreps: Irreps, rotation: np.ndarray) -> Tensor:
    """Features after a proper or improper rotation."""
    pieces = []
    matrices = torch.tensor(representation_matrix(irreps.lmax, rotation))
    for (mul, ir), part in zip(irreps, irreps.slices(), strict=True):
        matrix = matrices[degree_slice(ir.l), degree_slice(ir.l)]
        if np.linalg.det(rotation) < 0 and ir.p * (-1) ** ir.l < 0:
            matrix = -matrix
        pieces.append((features[..., part].unflatten(-1, (mul, -1)) @ matrix.T).flatten(-2))
    return torch.cat(pieces, dim=-1)


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("name", UNIFORM)
def test_shared_paths_are_equivariant(name: str, improper: bool) -> None:
    layer = shared_layer(name, "uvw", kernel="low-rank")
    (rotation,) = random_rotations(1, np.random.default_rng(0), improper)
    x, y = inputs(str(layer.irreps_in1), str(layer.irreps_in2))
    turned = layer(rotated(x, layer.irreps_in1, rotation), rotated(y, layer.irreps_in2, rotation))
    assert torch.allclose(turned, rotated(layer(x, y), layer.irreps_out, rotation), atol=1e-11)


def test_rank_of_the_paper_only_approximates() -> None:
    exact = shared_layer("SO(3)", "uvw", kernel="dense")
    paper = shared_layer("SO(3)", "uvw", rank="paper")
    x, y = inputs(str(exact.irreps_in1), str(exact.irreps_in2))
    weight = torch.randn(exact.weight_numel)
    error = (paper(x, y, weight) - exact(x, y, weight)).norm() / exact(x, y, weight).norm()
    assert 1e-3 < error < 0.1


def test_missing_rank_is_refused() -> None:
    with pytest.raises(FactorTableError, match="rank 11"):
        shared_layer("SO(3)", "uvw", rank=11)


def test_layer_says_why_paths_are_not_merged() -> None:
    apart = ("4x0e+4x1o", "0e+1o", "4x0e+4x0e+4x1o+4x1o")
    paths = [(0, 0, 0, "uvu", True), (1, 1, 1, "uvu", True), (0, 1, 2, "uvu", True), (1, 0, 3, "uvu", True)]
    own, shared = CPTensorProduct(*apart, paths), CPTensorProduct(*apart, paths, share_paths=True)
    assert (own.weight_numel, shared.weight_numel) == (16, 4)
    assert not own.low_rank
    assert "share_paths" in own.reasons[0]
    assert not shared.low_rank
    assert "merge_paths" in shared.reasons[0]
    x, y = inputs(*apart[:2])
    assert torch.allclose(shared(x, y), own(x, y, shared.expand_weights()), atol=1e-12)


def test_path_weights_that_do_not_factor_are_kept_apart() -> None:
    irreps = ("4x0e+4x1o+4x2e", "0e+1o+2e", "4x0e+4x1o+4x2e")
    paths = [(*path, 1.0 + n) for n, path in enumerate(all_paths(*irreps, "uvu"))]
    layer = CPTensorProduct(*irreps, paths, share_paths=True)
    assert "do not factor" in layer.reasons[0]
    x, y = inputs(*irreps[:2])
    own = CPTensorProduct(*irreps, paths)
    assert torch.allclose(layer(x, y), own(x, y, layer.expand_weights()), atol=1e-12)


@pytest.mark.parametrize("case", ["mixed", "uvv"])
@pytest.mark.parametrize("shared_paths", [False, True])
def test_derivatives_of_first_and_second_order(case: str, shared_paths: bool) -> None:
    in1, in2, out, paths = CASES[case]
    layer = CPTensorProduct(in1, in2, out, paths, shared_weights=False, share_paths=shared_paths)
    x, y = (values.flatten(0, -2)[:2].requires_grad_() for values in inputs(in1, in2))
    weight = torch.randn(2, layer.weight_numel, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, y, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, (x, y, weight), fast_mode=True)


@pytest.mark.parametrize("mode", ["uvw", "uvu", "uuu", "uuw"])
def test_derivatives_through_factors(mode: str) -> None:
    layer = shared_layer("O(3)", mode, kernel="low-rank")
    x, y = inputs(str(layer.irreps_in1), str(layer.irreps_in2))
    x, y = x[0].requires_grad_(), y.requires_grad_()
    weight = torch.randn(layer.weight_numel, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, y, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, (x, y, weight), fast_mode=True)


def test_change_of_dtype_keeps_the_digits_of_the_couplings() -> None:
    in1, in2, out, paths = CASES["mixed"]
    layer = CPTensorProduct(in1, in2, out, paths)
    x, y = inputs(in1, in2)
    before = layer(x, y, layer.weight.float().double())
    assert torch.allclose(layer.float().double()(x, y), before, atol=1e-12)


def test_compiled_graph_gives_the_same_values() -> None:
    in1, in2, out, paths = CASES["mixed"]
    layer = CPTensorProduct(in1, in2, out, paths)
    x, y = inputs(in1, in2)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x, y), layer(x, y), atol=1e-12)
    exported = torch.export.export(layer, (x, y)).module()
    assert torch.allclose(exported(x, y), layer(x, y), atol=1e-12)


def test_empty_batches_and_entries() -> None:
    layer = CPTensorProduct("4x0e+0x1o", "1x0e", "4x0e+2x1o+0x2e", [(0, 0, 0, "uvu", True)])
    assert layer(torch.zeros(0, 4), torch.zeros(0, 1)).shape == (0, 10)
    assert layer(torch.ones(2, 4), torch.ones(2, 1))[:, 4:].abs().max() == 0.0


@pytest.mark.parametrize(
    ("shapes", "reason"), [(((3, 5), (3, 5), None), "components"), (((3, 4), (3, 1), (3, 4)), "shape")]
)
def test_wrong_inputs_are_refused(shapes: Sequence[tuple[int, ...] | None], reason: str) -> None:
    layer = CPTensorProduct("4x0e", "1x0e", "4x0e", [(0, 0, 0, "uvu", True)])
    with pytest.raises(ConfigError, match=reason):
        layer(*(None if shape is None else torch.ones(shape) for shape in shapes))


def test_missing_weights_are_named() -> None:
    layer = CPTensorProduct("4x0e", "1x0e", "4x0e", [(0, 0, 0, "uvu", True)], shared_weights=False)
    with pytest.raises(ConfigError, match="holds no weights"):
        layer(torch.ones(1, 4), torch.ones(1, 1))
    with pytest.raises(ConfigError, match="external"):
        CPTensorProduct("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)], shared_weights=False, internal_weights=True)
    with pytest.raises(ConfigError, match="compile_right"):
        CPTensorProduct("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)], compile_right=True)
    with pytest.raises(ConfigError, match="layout"):
        CPTensorProduct("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)], layout="mul-ir")  # type: ignore[arg-type]
