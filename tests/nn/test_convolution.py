"""The convolution's operators: the form that they are derivatives of, on every kind of graph, to second order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tdn.nn.kernels import EdgeIndex, PlainOperators, convolution, convolve, cpu, reference
from tdn.nn.kernels.convolution import aggregate, edge_gradients, table_gradient
from tdn.nn.kernels.graph import group_by

N, R, W, U, K = 5, 7, 3, 5, 9
GRAPHS = {
    "ragged": ([1, 2, 0, 0, 1, 3, 4, 1], [0, 0, 1, 3, 3, 3, 3, 4]),
    "isolated nodes": ([3, 3], [3, 3]),
    "receivers in any order": ([1, 2, 0, 4], [3, 0, 3, 1]),
    "no edges": ([], []),
}


def graph(name: str) -> EdgeIndex:
    senders, receivers = (torch.tensor(ends, dtype=torch.int64) for ends in GRAPHS[name])
    return EdgeIndex.build(senders, receivers, N)


def arguments(edges: EdgeIndex, spline: bool, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor | None]:
    """Arguments y, basis, table, x of `convolve`, and knots."""
    torch.manual_seed(0)
    count = len(edges.senders)
    width, rows = (4, K) if spline else (1, count)
    shapes = ((count, R, W), (count, width), (rows, W, U), (N, R, U))
    knot = torch.randint(0, K - 3, (count,)) if spline else None
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in shapes], knot


def term_by_term(y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: EdgeIndex) -> Tensor:
    result = torch.zeros_like(x)
    for e, (s, n) in enumerate(zip(edges.senders.tolist(), edges.receivers.tolist(), strict=True)):
        first = e if knot is None else int(knot[e])
        weights = torch.einsum("p,pwu->wu", basis[e], table[first : first + basis.shape[1]])
        result[n] += torch.einsum("rw,wu,ru->ru", y[e], weights, x[s])
    return result


@pytest.mark.parametrize("spline", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_convolution_is_its_sum(name: str, spline: bool) -> None:
    edges = graph(name)
    tensors, knot = arguments(edges, spline)
    expected = term_by_term(*(t.detach() for t in tensors), knot, edges)
    torch.testing.assert_close(convolve(*tensors, knot, edges), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "no compiler"])
@pytest.mark.parametrize("spline", [False, True])
@pytest.mark.parametrize("name", ["ragged", "isolated nodes", "receivers in any order"])
def test_derivatives_of_both_orders(name: str, spline: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(cpu, "library", lambda *_: None)
    edges = graph(name)
    tensors, knot = arguments(edges, spline)

    def function(*tensors: Tensor) -> Tensor:
        return convolve(*tensors, knot, edges)

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def force_training(run: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """An energy, its derivative in what depends on positions, and the derivative of both in everything."""
    energy = run(*tensors).sin().sum()
    forces = torch.autograd.grad(energy, tensors, create_graph=True)
    loss = energy + sum(f.square().sum() for f in forces)
    return [energy, *forces, *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("spline", [False, True])
def test_operators_agree_with_plain_pytorch_through_the_double_backward(spline: bool) -> None:
    edges = graph("ragged")
    tensors, knot = arguments(edges, spline)
    custom = force_training(lambda *t: convolve(*t, knot, edges), tensors)
    with PlainOperators():
        plain = force_training(lambda *t: convolve(*t, knot, edges), tensors)
    for a, b in zip(custom, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("spline", [False, True])
def test_empty_graph_trains_on_forces(spline: bool) -> None:
    edges = graph("no edges")
    tensors, knot = arguments(edges, spline)
    energy, *derivatives = force_training(lambda *t: convolve(*t, knot, edges), tensors)
    assert energy == 0.0
    assert not any(derivative.any() for derivative in derivatives)


def big_problem(dtype: torch.dtype, rank: int, degrees: int, channels: int, pairs: int, spline: bool) -> tuple:
    generator = torch.Generator().manual_seed(1)
    nodes, count = 11, 90
    senders = torch.randint(0, nodes, (count,), generator=generator)
    receivers = torch.randint(0, nodes - 1, (count,), generator=generator).sort().values
    width, rows = (4, 20) if spline else (1, count)
    shapes = ((nodes, rank, channels), (count, rank, pairs, degrees), (count, pairs, width), (rows, degrees, channels),
              (nodes, rank, channels))  # fmt: skip
    tensors = [torch.randn(*shape, dtype=dtype, generator=generator) for shape in shapes]
    knot = torch.randint(0, 17, (count,), generator=generator) if spline else None
    return tensors, knot, list(EdgeIndex.build(senders, receivers, nodes))


def all_operators(g: Tensor, y: Tensor, basis: Tensor, table: Tensor, x: Tensor, *graph: Any) -> tuple[Tensor, ...]:
    return (
        aggregate(y, basis, table, x, *graph),
        *edge_gradients(g, y, basis, table, x, *graph),
        table_gradient(g, y, basis, x, *graph, table.shape[0]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rank", "degrees", "channels", "pairs", "spline"),
    [(17, 3, 64, 1, True), (17, 3, 64, 2, True), (32, 4, 128, 1, False), (6, 2, 7, 4, True), (9, 3, 100, 1, True),
     (1, 1, 1, 1, False), (58, 5, 16, 2, True), (123, 7, 24, 1, True), (13, 1, 40, 2, False),
     (5, 8, 16, 8, True), (5, 9, 16, 8, True)],
)  # fmt: skip
def test_every_size_agrees_with_the_reference(
    dtype: torch.dtype, rank: int, degrees: int, channels: int, pairs: int, spline: bool
) -> None:
    (g, y, basis, table, x), knot, edges = big_problem(dtype, rank, degrees, channels, pairs, spline)
    rows = table.shape[0]
    results = all_operators(g, y, basis, table, x, knot, edges)
    expected = (
        reference.aggregate(y, basis, table, x, knot, edges),
        *reference.edge_gradients(g, y, basis, table, x, knot, edges),
        reference.table_gradient(g, y, basis, x, knot, edges, rows),
    )
    rounding = 1e-5 if dtype == torch.float32 else 1e-13
    for a, b in zip(results, expected, strict=True):
        assert a.is_contiguous()
        torch.testing.assert_close(a, b, rtol=0, atol=rounding * float(b.abs().max()))


@pytest.mark.parametrize("kernels", [convolution, reference], ids=["compiled", "plain"])
def test_indices_beyond_32_bits_reach_their_elements(huge_and_small: tuple[Any, Any], kernels: Any) -> None:
    results = []
    for problem in huge_and_small:
        tensors, edges = problem.tensors, problem.edges
        assert (tensors["x"].numel() > 2**31) == (problem is huge_and_small[0])
        few_nodes = {**tensors, "x": huge_and_small[1].tensors["x"], "edges": huge_and_small[1].edges}
        few_rows = {**tensors, "knot": huge_and_small[1].tensors["knot"]}
        few_nodes.pop("g")  # the convolution itself writes as many nodes as it reads: here only its table is huge
        few_rows.pop("table")
        results.append([
            kernels.aggregate(**few_nodes), *kernels.edge_gradients(**tensors, edges=edges),
            kernels.table_gradient(**few_rows, edges=edges, rows=problem.rows),
        ])  # fmt: skip
    for huge, small in zip(*results, strict=True):
        assert small.abs().max() > 0
        torch.testing.assert_close(huge, small, rtol=1e-6, atol=1e-5)


def test_layout_of_the_input_changes_nothing() -> None:
    tensors, knot, edges = big_problem(torch.float32, 17, 3, 20, 1, True)
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    assert not any(t.is_contiguous() for t in strided)
    pairs = zip(all_operators(*strided, knot, edges), all_operators(*tensors, knot, edges), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)


def test_bfloat16_is_as_exact_as_its_storage() -> None:
    tensors, knot, edges = big_problem(torch.bfloat16, 17, 3, 20, 1, True)
    exact = all_operators(*(t.double() for t in tensors), knot, edges)
    for found, expected in zip(all_operators(*tensors, knot, edges), exact, strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_same_result_in_every_run() -> None:
    (g, y, basis, table, x), knot, edges = big_problem(torch.float32, 17, 3, 64, 1, True)
    for run in (
        lambda: aggregate(y, basis, table, x, knot, edges),
        lambda: edge_gradients(g, y, basis, table, x, knot, edges)[0],
        lambda: table_gradient(g, y, basis, x, knot, edges, table.shape[0]),
    ):
        first = run()
        assert all(torch.equal(run(), first) for _ in range(5))


@pytest.mark.parametrize("name", GRAPHS)
def test_edges_are_grouped_in_order(name: str) -> None:
    edges = graph(name)
    for ends in (edges.senders, edges.receivers):
        order, offsets = group_by(ends, N)
        assert torch.equal(order, torch.argsort(ends, stable=True))
        assert [offsets[k + 1] - offsets[k] for k in range(N)] == [(ends == k).sum() for k in range(N)]


def test_threads_change_sums_over_edges_not_at_all_and_the_table_by_rounding() -> None:
    (g, y, basis, table, x), knot, edges = big_problem(torch.float64, 17, 3, 64, 1, True)

    def run(threads: int) -> tuple[Tensor, ...]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            gradients = edge_gradients(g, y, basis, table, x, knot, edges)
            return (
                aggregate(y, basis, table, x, knot, edges),
                *gradients,
                table_gradient(g, y, basis, x, knot, edges, table.shape[0]),
            )
        finally:
            torch.set_num_threads(before)

    *one, one_table = run(1)
    *many, many_table = run(3)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))
    torch.testing.assert_close(one_table, many_table, rtol=1e-12, atol=1e-12)
