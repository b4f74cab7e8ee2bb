"""Gathering and summing are each other's derivative, to any order, on every kind of graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tdn.nn.attention import segment_softmax
from tdn.nn.kernels import PlainOperators, gather, largest, scatter_sum

INDEX = {
    "ragged": torch.tensor([0, 0, 0, 2, 4, 4]),
    "isolated nodes": torch.tensor([3, 3]),
    "no edges": torch.zeros(0, dtype=torch.int64),
}


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", INDEX)
def test_gather_and_scatter_sum_are_adjoint(name: str) -> None:
    index = INDEX[name]
    x, y = values(5, 2, 3), values(len(index), 2, 3)
    assert torch.allclose((gather(x, index) * y).sum(), (x * scatter_sum(y, index, 5)).sum())


@pytest.mark.parametrize("name", ["ragged", "isolated nodes"])
def test_derivatives_of_both_orders(name: str) -> None:
    index = INDEX[name]
    for function, argument in (
        (lambda v: gather(v, index).square(), values(5, 3)),
        (lambda v: scatter_sum(v, index, 5).square(), values(len(index), 3)),
    ):
        assert torch.autograd.gradcheck(function, argument)
        assert torch.autograd.gradgradcheck(function, argument)


def test_non_contiguous_values_are_summed_right() -> None:
    index = INDEX["ragged"]
    y = torch.randn(3, len(index)).T
    assert torch.equal(scatter_sum(y, index, 5), scatter_sum(y.contiguous(), index, 5))


def test_sums_are_the_same_in_every_run() -> None:
    torch.manual_seed(0)
    index = torch.randint(0, 10, (1000,)).sort()[0]
    y = torch.randn(1000, 16)
    assert all(torch.equal(scatter_sum(y, index, 10), scatter_sum(y, index, 10)) for _ in range(5))


def test_plain_forms_give_the_same_values_and_derivatives() -> None:
    index = INDEX["ragged"]
    x, y = values(5, 2, 3), values(len(index), 2, 3)

    def derivatives() -> tuple[Tensor, ...]:
        result = (gather(x, index) * y).square().sum() + scatter_sum(y, index, 5).pow(3).sum()
        first = torch.autograd.grad(result, (x, y), create_graph=True)
        return (result, *first, *torch.autograd.grad(sum(f.square().sum() for f in first), (x, y)))

    custom = derivatives()
    with PlainOperators():
        plain = derivatives()
    for a, b in zip(custom, plain, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_plain_forms_leave_no_custom_operator_in_a_trace() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    index = INDEX["ragged"]

    def derivative(x: Tensor) -> Tensor:
        return torch.autograd.grad(scatter_sum(gather(x, index).square(), index, 5).sum(), x)[0]

    with PlainOperators():
        trace = make_fx(derivative)(values(5, 3))
    assert [node for node in trace.graph.nodes if "tdn" in str(node.target)] == []


def test_largest_has_no_derivative_and_leaves_the_one_of_a_softmax_right() -> None:
    logits = values(12, 3)
    index = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 3, 3, 3, 3])
    found = largest(logits, index, 4)
    assert torch.equal(found[1], logits[3:8].max(0).values)
    assert found[2].eq(-torch.inf).all()
    weight = torch.randn(12, 3, dtype=torch.float64)
    plain = torch.cat([torch.softmax(part, 0) for part in logits.split([3, 5, 4])])
    ours = segment_softmax(logits, None, index, 4)
    gradients = [torch.autograd.grad((form * weight).sum(), logits)[0] for form in (ours, plain)]
    assert torch.allclose(ours, plain)
    assert torch.allclose(*gradients, atol=1e-12)
