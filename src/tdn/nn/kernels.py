"""The one seam where faster kernels plug in: gathering from and summing into nodes, and the sum over neighbours.

`gather` and `scatter_sum` are each other's derivative, so the pair is closed under differentiation of any order, which
training on forces needs. As custom operators they also keep the compiler from writing sums as atomic additions, whose
order, and so the last bits of every result, would change from run to run.

The sum over neighbours in rank space is trilinear, `agg[n, r, u] = sum_{e -> n} sum_l yb[e, r, l] w[e, l, u]
xa[sender(e), r, u]`. A faster implementation replaces `aggregate` and nothing else: no layer, no parameter and no state
dict knows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@torch.library.custom_op("tdn::gather", mutates_args=())
def gather(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` along the first dimension: from nodes `[N, ...]` to edges `[E, ...]`."""
    return values.index_select(0, index)


@torch.library.custom_op("tdn::scatter_sum", mutates_args=())
def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum edge values `[E, ...]` into the `size` nodes that `index [E]` names, `[size, ...]`; deterministic on CPUs."""
    return values.new_zeros((size, *values.shape[1:])).index_add_(0, index, values.contiguous())


@gather.register_fake
def _(values: Tensor, index: Tensor) -> Tensor:
    return values.new_empty((index.shape[0], *values.shape[1:]))


@scatter_sum.register_fake
def _(values: Tensor, index: Tensor, size: int) -> Tensor:
    return values.new_empty((size, *values.shape[1:]))


def _gather_context(ctx, inputs, output) -> None:
    values, index = inputs
    ctx.save_for_backward(index)
    ctx.size = values.shape[0]


def _gather_backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
    (index,) = ctx.saved_tensors
    return scatter_sum(gradient, index, ctx.size), None


def _scatter_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1])


def _scatter_backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
    (index,) = ctx.saved_tensors
    return gather(gradient, index), None, None


gather.register_autograd(_gather_backward, setup_context=_gather_context)
scatter_sum.register_autograd(_scatter_backward, setup_context=_scatter_context)


def aggregate(
    node_factors: Tensor, edge_factors: Tensor, weights: Tensor, senders: Tensor, receivers: Tensor
) -> Tensor:
    """Sum the rank-space products of senders and edges into their receivers; plain PyTorch, any device and dtype.

    Args:
        node_factors: `xa [N, R, U]`, node features projected on the first factor.
        edge_factors: `yb [E, R, W]`, harmonics projected on the second factor, one column a radial weight.
        weights: `w [E, W, U]`, radial weights.
        senders: int64 `[E]`.
        receivers: int64 `[E]`, ascending.

    Returns:
        `[N, R, U]`.
    """
    messages = torch.bmm(edge_factors, weights) * gather(node_factors, senders)
    return scatter_sum(messages, receivers, node_factors.shape[0])


# The same functions in PyTorch's own operators; every custom operator of the package has its line here.
PLAIN_FORMS: dict[Any, Callable[..., Any]] = {
    torch.ops.tdn.gather.default: lambda values, index: values.index_select(0, index),
    torch.ops.tdn.scatter_sum.default: lambda values, index, size: values.new_zeros(
        (size, *values.shape[1:])
    ).index_add(0, index, values),
}


class PlainOperators(TorchFunctionMode):
    """Within this context custom operators run in their plain forms, derivatives included.

    What is traced there runs where `tdn` is not installed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the operators that have a plain form."""
        form: Callable[..., Any] = PLAIN_FORMS.get(func) or func
        return form(*args, **(kwargs or {}))
