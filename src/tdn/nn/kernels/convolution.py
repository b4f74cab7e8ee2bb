"""The convolution in rank space, as three operators that are closed under differentiation.

Everything is a derivative of one form that is linear in each of five arguments,

    S(g, y, b, T, x) = sum_e sum_{j r l p u}  g[n_e, r, u]  y[e, r, j, l]  b[e, j, p]  T[k_e + p, l, u]  x[s_e, r, u],

over edges e from node `s_e` to node `n_e`, with ranks r, filter degrees l and channels u. `y` are spherical harmonics
projected on the second factor, `T` radial functions at knots, `b` the few spline functions that do not vanish at the
edge's length: `w_l(r_e)[u] = sum_p b[e, p] T[k_e + p, l, u]` are the radial weights, which never exist in memory. Where
every edge has its own weights, `k` is None, there is one p, and `T` has a row for every edge. j counts pairs (y, b)
that share all else; it is one until derivatives of derivatives need more.

    aggregate       dS/dg, the convolution itself; on the transposed graph, with g in the place of x, it is dS/dx
    edge_gradients  dS/dy and dS/db
    table_gradient  dS/dT

The derivative of any of them is S with a cotangent in the place of one argument, differentiated in another: one of the
three again. A cotangent in the place of y and another in that of b make two pairs, so j doubles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tdn.nn.kernels import reference
from tdn.nn.kernels.graph import EdgeIndex


def convolve(y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: EdgeIndex) -> Tensor:
    """Sum the rank-space products of senders and edges into their receivers.

    Differentiable to any order in the first four arguments.

    Args:
        y: Harmonics projected on the second factor, a column for every radial weight, `[E, R, W]`.
        basis: Spline functions that do not vanish at the edge's length, `[E, P]`.
        table: Radial functions at the knots, `[K, W, U]`, or radial weights of the edges, `[E, W, U]`, without `knot`.
        x: Node features projected on the first factor, `[N, R, U]`.
        knot: First of the edge's `P` rows of `table`, int64 `[E]`; None if row e is the weights of edge e, `P` = 1.
        edges: The graph.

    Returns:
        `[N, R, U]`.
    """
    return aggregate(y[:, :, None], basis[:, None], table, x, knot, list(edges))


@torch.library.custom_op("tdn::aggregate", mutates_args=())
def aggregate(
    y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor]
) -> Tensor:
    """`dS/dg`, `[N, R, U]`: the sum over the edges of every receiver.

    Args:
        y: `[E, R, J, W]`.
        basis: `[E, J, P]`.
        table: `[K, W, U]`.
        x: `[N, R, U]`.
        knot: int64 `[E]`, or None.
        edges: Fields of an `EdgeIndex`.
    """
    return reference.aggregate(y, basis, table, x, knot, edges)


@torch.library.custom_op("tdn::edge_gradients", mutates_args=())
def edge_gradients(
    g: Tensor, y: Tensor, basis: Tensor, table: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """`dS/dy`, `[E, R, J, W]`, and `dS/db`, `[E, J, P]`, with `g [N, R, U]` and the rest as in `aggregate`."""
    return reference.edge_gradients(g, y, basis, table, x, knot, edges)


@torch.library.custom_op("tdn::table_gradient", mutates_args=())
def table_gradient(
    g: Tensor, y: Tensor, basis: Tensor, x: Tensor, knot: Tensor | None, edges: Sequence[Tensor], rows: int
) -> Tensor:
    """`dS/dT`, `[rows, W, U]`, with `g [N, R, U]` and the rest as in `aggregate`."""
    return reference.table_gradient(g, y, basis, x, knot, edges, rows)


@aggregate.register_fake
def _(y, basis, table, x, knot, edges):
    return x.new_empty(x.shape)


@edge_gradients.register_fake
def _(g, y, basis, table, x, knot, edges):
    return y.new_empty(y.shape), basis.new_empty(basis.shape)


@table_gradient.register_fake
def _(g, y, basis, x, knot, edges, rows):
    return x.new_empty(rows, y.shape[3], x.shape[2])


def _transposed(edges: Sequence[Tensor]) -> list[Tensor]:
    return list(EdgeIndex(*edges).transposed)


def _aggregate_context(ctx, inputs, output) -> None:
    y, basis, table, x, knot, edges = inputs
    ctx.save_for_backward(y, basis, table, x, knot, *edges)


def _aggregate_backward(ctx, g: Tensor) -> tuple:
    y, basis, table, x, knot, *edges = ctx.saved_tensors
    need_y, need_basis, need_table, need_x, *_ = ctx.needs_input_grad
    to_y = to_basis = to_table = to_x = None
    if need_y or need_basis:
        to_y, to_basis = edge_gradients(g, y, basis, table, x, knot, edges)
    if need_table:
        to_table = table_gradient(g, y, basis, x, knot, edges, table.shape[0])
    if need_x:
        to_x = aggregate(y, basis, table, g, knot, _transposed(edges))
    return to_y, to_basis, to_table, to_x, None, [None] * len(edges)


def _edge_context(ctx, inputs, output) -> None:
    g, y, basis, table, x, knot, edges = inputs
    ctx.save_for_backward(g, y, basis, table, x, knot, *edges)


def _edge_backward(ctx, at_y: Tensor, at_basis: Tensor) -> tuple:
    g, y, basis, table, x, knot, *edges = ctx.saved_tensors
    need_g, need_y, need_basis, need_table, need_x, *_ = ctx.needs_input_grad
    to_g = to_y = to_basis = to_table = to_x = None
    # S with the cotangent in the place of y, plus S with the other one in the place of b.
    pairs_y, pairs_basis = torch.cat([at_y, y], 2), torch.cat([basis, at_basis], 1)
    if need_g:
        to_g = aggregate(pairs_y, pairs_basis, table, x, knot, edges)
    if need_y or need_basis:
        to_y, to_basis = edge_gradients(g, at_y, at_basis, table, x, knot, edges)
    if need_table:
        to_table = table_gradient(g, pairs_y, pairs_basis, x, knot, edges, table.shape[0])
    if need_x:
        to_x = aggregate(pairs_y, pairs_basis, table, g, knot, _transposed(edges))
    return to_g, to_y, to_basis, to_table, to_x, None, [None] * len(edges)


def _table_context(ctx, inputs, output) -> None:
    g, y, basis, x, knot, edges, _ = inputs
    ctx.save_for_backward(g, y, basis, x, knot, *edges)


def _table_backward(ctx, at_table: Tensor) -> tuple:
    g, y, basis, x, knot, *edges = ctx.saved_tensors
    need_g, need_y, need_basis, need_x, *_ = ctx.needs_input_grad
    to_g = to_y = to_basis = to_x = None
    if need_g:
        to_g = aggregate(y, basis, at_table, x, knot, edges)
    if need_y or need_basis:
        to_y, to_basis = edge_gradients(g, y, basis, at_table, x, knot, edges)
    if need_x:
        to_x = aggregate(y, basis, at_table, g, knot, _transposed(edges))
    return to_g, to_y, to_basis, to_x, None, [None] * len(edges), None


aggregate.register_autograd(_aggregate_backward, setup_context=_aggregate_context)
edge_gradients.register_autograd(_edge_backward, setup_context=_edge_context)
table_gradient.register_autograd(_table_backward, setup_context=_table_context)
