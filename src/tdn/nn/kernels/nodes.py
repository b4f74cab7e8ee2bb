"""Gathering from nodes to edges and summing back.

`gather` and `scatter_sum` are each other's derivative, so the pair is closed under differentiation of any order, which
training on forces needs. As custom operators they also keep the compiler from writing sums as atomic additions, whose
order, and so the last bits of every result, would change from run to run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tdn.nn.kernels import reference


@torch.library.custom_op("tdn::gather", mutates_args=())
def gather(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` along the first dimension: from nodes `[N, ...]` to edges `[E, ...]`."""
    return values.index_select(0, index)


@torch.library.custom_op("tdn::scatter_sum", mutates_args=())
def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum edge values `[E, ...]` into the `size` nodes that `index [E]` names, `[size, ...]`; deterministic on CPUs."""
    return values.new_zeros((size, *values.shape[1:])).index_add_(0, index, values.contiguous())


@torch.library.custom_op("tdn::largest", mutates_args=())
def largest(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Largest of the edge values `[E, H]` of each node, `[size, H]`; minus infinity without edges.

    Its derivative counts as zero: it is for shifts that have no effect on a result. `detach` would say so too, but a
    trace (`tdn.models.compiled`) forgets it, and the compiler's derivative of a maximum compares values computed twice.
    """
    return reference.largest(values, index, size)


@largest.register_fake
def _(values: Tensor, index: Tensor, size: int) -> Tensor:
    return values.new_empty((size, values.shape[1]))


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
largest.register_autograd(lambda ctx, gradient: (None, None, None))
