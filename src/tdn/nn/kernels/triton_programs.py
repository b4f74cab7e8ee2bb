"""The convolution's three operators as Triton programs; see `convolution.py` for the sums, `gpu.py` for the launches.

No program adds to what another one writes: sums over edges run within a program in the order of the graph's index, so
results are the same in every run. Everything is accumulated in `ACC`, float32 for storage of 16 or 32 bits. Tiles are
`[BR, BU]`, ranks by channels; what reaches beyond the arrays is masked. Numbers of nodes, edges and rows are loaded
from int64 arrays or made 64 bits wide, and so is every offset that grows with them: arrays may have more than 2³¹
elements.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportArgumentType=false
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def radial_weights(basis, table, e, row, j: tl.constexpr, l: tl.constexpr, u, in_u, U, P: tl.constexpr,
                   J: tl.constexpr, W: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """`sum_p b[e, j, p] T[row + p, l, u]`, the radial weights of edge e that belong to the pair j and degree l."""
    weights = tl.zeros_like(u).to(ACC)
    for p in tl.static_range(P):
        value = tl.load(basis + (e * J + j) * P + p).to(ACC)
        weights += value * tl.load(table + ((row + p) * W + l) * U + u, mask=in_u, other=0.0).to(ACC)
    return weights


@triton.jit
def aggregate_program(y, basis, table, x, knot, senders, order, offsets, out, R, U, HAS_KNOT: tl.constexpr,
                      P: tl.constexpr, J: tl.constexpr, W: tl.constexpr, BR: tl.constexpr, BU: tl.constexpr,
                      ACC: tl.constexpr):  # fmt: skip
    """One node, one block of channels, one block of ranks: its edges one by one, the sum in registers."""
    node = tl.program_id(0).to(tl.int64)
    u = tl.program_id(1) * BU + tl.arange(0, BU)
    r = tl.program_id(2) * BR + tl.arange(0, BR)
    in_u, in_r = u < U, r < R
    inside = in_r[:, None] & in_u[None, :]
    tile = r[:, None] * U + u[None, :]
    total = tl.zeros((BR, BU), dtype=ACC)
    for i in range(tl.load(offsets + node), tl.load(offsets + node + 1)):
        e = tl.load(order + i)
        row = tl.load(knot + e) if HAS_KNOT else e
        features = tl.load(x + tl.load(senders + e) * R * U + tile, mask=inside, other=0.0).to(ACC)
        coefficients = tl.zeros((BR, BU), dtype=ACC)
        for j in tl.static_range(J):
            for l in tl.static_range(W):
                weights = radial_weights(basis, table, e, row, j, l, u, in_u, U, P, J, W, ACC)
                angular = tl.load(y + ((e * R + r) * J + j) * W + l, mask=in_r, other=0.0).to(ACC)
                coefficients += angular[:, None] * weights[None, :]
        total += coefficients * features
    tl.store(out + node * R * U + tile, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def edge_program(g, y, basis, table, x, knot, senders, receivers, order, to_y, to_basis, R, U, HAS_KNOT: tl.constexpr,
                 P: tl.constexpr, J: tl.constexpr, W: tl.constexpr, BR: tl.constexpr, BU: tl.constexpr,
                 BC: tl.constexpr, BP: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """One edge: products of both its nodes, contracted over channels and over ranks.

    Edges are taken by receiver, so that programs that run together read the same rows of `g`.
    """
    e = tl.load(order + tl.program_id(0))
    row = tl.load(knot + e) if HAS_KNOT else e
    of_x, of_g = x + tl.load(senders + e) * R * U, g + tl.load(receivers + e) * R * U
    column, entry = tl.arange(0, BC), tl.arange(0, BP)
    total_basis = tl.zeros((BP,), dtype=ACC)
    for first_r in range(0, R, BR):
        r = first_r + tl.arange(0, BR)
        in_r = r < R
        total_y = tl.zeros((BR, BC), dtype=ACC)
        for first_u in range(0, U, BU):
            u = first_u + tl.arange(0, BU)
            in_u = u < U
            inside = in_r[:, None] & in_u[None, :]
            tile = r[:, None] * U + u[None, :]
            products = tl.load(of_x + tile, mask=inside, other=0.0).to(ACC)
            products *= tl.load(of_g + tile, mask=inside, other=0.0).to(ACC)
            for j in tl.static_range(J):
                for l in tl.static_range(W):
                    weights = radial_weights(basis, table, e, row, j, l, u, in_u, U, P, J, W, ACC)
                    over_channels = tl.sum(products * weights[None, :], axis=1)
                    total_y += tl.where(column[None, :] == j * W + l, over_channels[:, None], 0.0)
                    angular = tl.load(y + ((e * R + r) * J + j) * W + l, mask=in_r, other=0.0).to(ACC)
                    over_ranks = tl.sum(products * angular[:, None], axis=0)
                    for p in tl.static_range(P):
                        values = tl.load(table + ((row + p) * W + l) * U + u, mask=in_u, other=0.0).to(ACC)
                        total_basis += tl.where(entry == j * P + p, tl.sum(over_ranks * values), 0.0)
        out = to_y + (e * R + r[:, None]) * (J * W) + column[None, :]
        tl.store(out, total_y.to(to_y.dtype.element_ty), mask=in_r[:, None] & (column[None, :] < J * W))
    out = to_basis + e * (J * P) + entry
    tl.store(out, total_basis.to(to_basis.dtype.element_ty), mask=entry < J * P)


@triton.jit
def table_program(g, y, basis, x, senders, receivers, order, offsets, partial, R, U, SPLITS: tl.constexpr,
                  P: tl.constexpr, J: tl.constexpr, W: tl.constexpr, BR: tl.constexpr, BU: tl.constexpr,
                  BC: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """One share of the edges that begin at one row of the table, one block of channels: their part of `P` rows."""
    share = tl.program_id(0).to(tl.int64)
    u = tl.program_id(1) * BU + tl.arange(0, BU)
    in_u = u < U
    column = tl.arange(0, BC)
    # Columns are (row of the share, degree); those beyond P W stay zero.
    of_row, of_degree = column // W, column % W
    total = tl.zeros((BC, BU), dtype=ACC)
    begin, end = tl.load(offsets + share // SPLITS), tl.load(offsets + share // SPLITS + 1)
    length = (end - begin + SPLITS - 1) // SPLITS
    first = begin + (share % SPLITS) * length
    for i in range(first, tl.minimum(first + length, end)):
        e = tl.load(order + i)
        of_x, of_g = x + tl.load(senders + e) * R * U, g + tl.load(receivers + e) * R * U
        for first_r in range(0, R, BR):
            r = first_r + tl.arange(0, BR)
            in_r = r < R
            inside = in_r[:, None] & in_u[None, :]
            tile = r[:, None] * U + u[None, :]
            products = tl.load(of_x + tile, mask=inside, other=0.0).to(ACC)
            products *= tl.load(of_g + tile, mask=inside, other=0.0).to(ACC)
            for j in tl.static_range(J):
                place = basis + (e * J + j) * P + of_row
                values = tl.load(place, mask=of_row < P, other=0.0).to(ACC)
                for l in tl.static_range(W):
                    angular = tl.load(y + ((e * R + r) * J + j) * W + l, mask=in_r, other=0.0).to(ACC)
                    over_ranks = tl.sum(products * angular[:, None], axis=0)
                    total += tl.where(of_degree == l, values, 0.0)[:, None] * over_ranks[None, :]
    out = partial + (share * (P * W) + column[:, None]) * U + u[None, :]
    tl.store(out, total, mask=(column[:, None] < P * W) & in_u[None, :])
