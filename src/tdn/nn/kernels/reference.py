"""The operators in plain, differentiable PyTorch: what every other implementation is tested against.

Deterministic on CPUs and on every device where `index_add` is. Arrays of `[E, R, U]` and `[E, W, U]` numbers exist.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """See `nodes.scatter_sum`."""
    return values.new_zeros((size, *values.shape[1:])).index_add(0, index, values)


def largest(values: Tensor, index: Tensor, size: int) -> Tensor:
    """See `nodes.largest`."""
    start = values.new_full((size, values.shape[1]), -torch.inf)
    return start.scatter_reduce(0, index[:, None].expand_as(values), values.detach(), "amax")


def group_by(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """See `graph.group_by`."""
    ordered, order = torch.sort(index, stable=True)
    return order, torch.searchsorted(ordered, torch.arange(size + 1, device=index.device))


def aggregate(
    y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor]
) -> Tensor:
    """See `convolution.aggregate`."""
    senders, receivers, *_ = edges
    weights = torch.einsum("ejp,eplu->ejlu", basis, _rows(table, knot, basis.shape[2]))
    coefficients = torch.bmm(y.flatten(2), weights.flatten(1, 2))
    return scatter_sum(coefficients * x[senders], receivers, x.shape[0])


def edge_gradients(
    g: Tensor, y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """See `convolution.edge_gradients`."""
    products = _products(g, x, edges)
    rows = _rows(table, knot, basis.shape[2])
    weights = torch.einsum("ejp,eplu->ejlu", basis, rows)
    to_y = torch.bmm(products, weights.flatten(1, 2).mT).view(y.shape)
    to_weights = torch.bmm(y.flatten(2).mT, products).view(weights.shape)
    return to_y, torch.einsum("ejlu,eplu->ejp", to_weights, rows).contiguous()


def table_gradient(
    g: Tensor, y: Tensor, basis: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor], rows: int
) -> Tensor:
    """See `convolution.table_gradient`."""
    to_weights = torch.bmm(y.flatten(2).mT, _products(g, x, edges)).unflatten(1, y.shape[2:])
    to_rows = torch.einsum("ejlu,ejp->eplu", to_weights, basis)
    if knot is None:
        return to_rows[:, 0].contiguous()
    return scatter_sum(to_rows.flatten(0, 1), _row_index(knot, basis.shape[2]).flatten(), rows)


def _products(g: Tensor, x: Tensor, edges: Sequence[Tensor]) -> Tensor:
    senders, receivers, *_ = edges
    return g[receivers] * x[senders]


def _row_index(knot: Tensor, count: int) -> Tensor:
    return knot[:, None] + torch.arange(count, device=knot.device)


def _rows(table: Tensor, knot: Tensor | None, count: int) -> Tensor:
    """The rows of `table` that every edge needs, `[E, P, W, U]`."""
    return table[:, None] if knot is None else table[_row_index(knot, count)]
