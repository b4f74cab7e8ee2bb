"""How terms are computed: four kernels, each for any number of terms on the same inputs, chosen by cost.

All of them are plain PyTorch, differentiable any number of times. `z` counts samples, `u`, `v`, `w` copies, `i`, `j`,
`k` components of the inputs and the output.

| kernel | for | first step | multiply-adds a sample |
|---|---|---|---|
| `FilterFirst` | `uv*` | `K_ik = sum_j M_ijk y_j`, then `K x`: one matrix product a sample | `d1 d3 (d2 V + U V)` |
| `Scalars` | `uv*`, a scalar second input | `x_i y` | `d1 U V` |
| `PairsFirst` | `uu*` | `x_i y_j`, then `M`: one matrix product | `d1 d2 d3 U` |
| `LowRank` | any term with factors | `(A^T x) (B^T y)`, then `C`: three matrix products | `R (d1 U + d2 V + d3 U)` |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tdn.cp.couplings import Array
from tdn.nn.constants import Constants
from tdn.plug.irreps import Irreps
from tdn.plug.terms import Term

Layout = Literal["mul_ir", "ir_mul"]
Kernel = Literal["auto", "low-rank", "dense"]
Weights = Sequence[Tensor | None]  # one a term


class Entries:
    """Takes stacked entries of equal multiplicity out of a feature tensor, and writes them back.

    Args:
        irreps: Irreps of the tensor.
        layout: `mul_ir` or `ir_mul`.
    """

    def __init__(self, irreps: Irreps, layout: Layout) -> None:
        self.slices = irreps.slices()
        self.sizes = [entry.dim for entry in irreps]
        self.muls = [entry.mul for entry in irreps]
        self.layout = layout

    def read(self, features: Tensor, entries: Sequence[int]) -> Tensor:
        """`[z, mul, components]` of `entries`, a view wherever the layout allows it."""
        mul = self.muls[entries[0]]
        if self.layout == "mul_ir":
            parts = [features[:, self.slices[i]].unflatten(1, (mul, self.sizes[i] // mul)) for i in entries]
            return parts[0] if len(parts) == 1 else torch.cat([part.mT for part in parts], dim=1).mT
        first, last = self.slices[entries[0]], self.slices[entries[-1]]
        if last.stop - first.start == sum(self.sizes[i] for i in entries):
            return features[:, first.start : last.stop].unflatten(1, (-1, mul)).mT
        return torch.cat([features[:, self.slices[i]].unflatten(1, (-1, mul)) for i in entries], dim=1).mT

    def write(self, values: Tensor, entries: Sequence[int], into: dict[int, list[Tensor]]) -> None:
        """Add `values [z, mul, components]` to the list of every entry, each flattened to `[z, mul * components]`."""
        mul, start = self.muls[entries[0]], 0
        for i in entries:
            components = self.sizes[i] // mul
            part = values if len(entries) == 1 else values[:, :, start : start + components]
            into.setdefault(i, []).append((part if self.layout == "mul_ir" else part.mT).flatten(1))
            start += components

    def collect(self, parts: dict[int, list[Tensor]], like: Tensor) -> Tensor:
        """The output `[z, dim]`: sums of the parts of every entry, zeros where there are none."""
        columns = []
        for i, size in enumerate(self.sizes):
            found = parts.get(i)
            if not found:
                columns.append(like.new_zeros((like.shape[0], size)))
                continue
            total = found[0]
            for part in found[1:]:
                total = total + part
            columns.append(total)
        return torch.cat(columns, dim=1) if len(columns) != 1 else columns[0]


def connect(mode: str, products: Tensor, weight: Tensor | None) -> Tensor:
    """Connect the copies of products `[z, u, v, k]` (or `[z, u, k]` in `uu` modes) as the mode says.

    Args:
        mode: One of `tdn.plug.instructions.MODES`.
        products: Products of every copy with every copy, or of equal copies.
        weight: Of the mode's shape, with a leading `z` if every sample has its own.

    Returns:
        `[z, copies, k]`.
    """
    if mode == "uuw":
        return products.sum(1, keepdim=True) if weight is None else mix(products, weight)
    if mode == "uvw":
        assert weight is not None
        return mix(products.flatten(1, 2), weight.flatten(-3, -2))
    if mode == "uvu" and weight is not None and products.shape[2] > 1:
        return torch.matmul(weight.unsqueeze(-2), products).squeeze(2)
    if weight is not None:
        products = products * weight.unsqueeze(-1)
    if mode == "uvu":
        return products.squeeze(2) if products.shape[2] == 1 else products.sum(2)
    if mode == "uvv":
        return products.sum(1)
    return products.flatten(1, 2) if mode == "uvuv" else products


def mix(values: Tensor, weight: Tensor) -> Tensor:
    """`out[z, w, k] = sum_u weight[(z,) u, w] values[z, u, k]`; shared weights in one large matrix product."""
    if weight.dim() == 3:
        return torch.matmul(weight.mT, values)
    return torch.matmul(values.mT, weight).mT


class TermKernel(Constants):
    """Terms on the same inputs, computed together.

    Attributes:
        terms: The terms.
        in1: Entries of the first input.
        in2: Entries of the second input.
    """

    def __init__(
        self, terms: Sequence[Term], in1: tuple[int, ...], in2: tuple[int, ...], constants: Mapping[str, Array]
    ) -> None:
        super().__init__(constants)
        self.terms, self.in1, self.in2 = list(terms), in1, in2


def _connected(terms: Sequence[Term], products: Sequence[Tensor], weights: Weights) -> list[Tensor]:
    return [connect(t.mode, product, weight) for t, product, weight in zip(terms, products, weights, strict=True)]


class FilterFirst(TermKernel):
    """`uv` terms of one first input: contract every second input with the couplings first (see the module).

    Args:
        terms: Terms with the same `in1`, whose second inputs have one multiplicity.
        in2: Reader of the second input.
    """

    coupling: Tensor

    def __init__(self, terms: Sequence[Term], in2: Entries) -> None:
        seconds = tuple(sorted({i for term in terms for i in term.in2}))
        mul = in2.muls[seconds[0]]
        sizes = {i: in2.sizes[i] // mul for i in seconds}
        starts = dict(zip(seconds, np.cumsum([0, *sizes.values()]), strict=False))
        widths = [term.coupling.shape[2] for term in terms]
        stacked = np.zeros((sum(sizes.values()), terms[0].coupling.shape[0], sum(widths)))
        for term, stop in zip(terms, np.cumsum(widths), strict=True):
            read = 0
            for i in term.in2:
                block = term.coupling[:, read : read + sizes[i], :].transpose(1, 0, 2)
                stacked[starts[i] : starts[i] + sizes[i], :, stop - block.shape[2] : stop] = block
                read += sizes[i]
        super().__init__(terms, terms[0].in1, seconds, {"coupling": stacked})
        self.widths = widths
        self.mixes = any(term.mode == "uvw" for term in terms)  # copies are contracted next: keep them innermost

    def forward(self, x: Tensor, y: Tensor, weights: Weights) -> list[Tensor]:
        """Outputs `[z, copies, k]` of every term, from `x [z, u, i]` and `y [z, v, j]`."""
        size, copies, _ = y.shape
        d1 = self.coupling.shape[1]
        # Without copies a plain matrix product, also where `y` is a transposed view.
        filters = torch.matmul(y.squeeze(1), self.coupling.flatten(1)).view(size, copies, -1)
        if d1 == 1:  # the first input is scalar: nothing to sum
            return [
                self._scalar_input(term.mode, x, part, weight)
                for term, part, weight in zip(self.terms, filters.split(self.widths, dim=2), weights, strict=True)
            ]
        if copies > 1:
            filters = filters.view(size, copies, d1, -1).transpose(1, 2)
        products = matmul(x, filters.reshape(size, d1, -1), self.mixes).unflatten(2, (copies, -1))
        return _connected(self.terms, products.split(self.widths, dim=3), weights)

    def _scalar_input(self, mode: str, x: Tensor, filters: Tensor, weight: Tensor | None) -> Tensor:
        if mode == "uvu" and weight is not None and filters.shape[1] == 1:
            return (x * weight) * filters  # weights before there are components to weight
        return connect(mode, x.unsqueeze(3) * filters.unsqueeze(1), weight)


def matmul(x: Tensor, filters: Tensor, copies_last: bool) -> Tensor:
    """`x [z, u, i] @ filters [z, i, k]`, with the copies innermost in memory if asked or if they are so in `x`."""
    if copies_last or (x.stride(1) == 1 and x.shape[2] > 1):
        return torch.matmul(filters.mT, x.mT).mT
    return torch.matmul(x, filters)


class Scalars(TermKernel):
    """`uv` terms whose second input is a scalar: the components of the first, scaled."""

    scale: Tensor

    def __init__(self, terms: Sequence[Term], in2: Entries) -> None:
        scale = np.stack([np.diagonal(term.coupling[:, 0, :]) for term in terms])
        super().__init__(terms, terms[0].in1, terms[0].in2, {"scale": scale})

    def forward(self, x: Tensor, y: Tensor, weights: Weights) -> list[Tensor]:
        """Outputs `[z, copies, k]` of every term."""
        outputs = []
        for term, scale, weight in zip(self.terms, self.scale.unbind(0), weights, strict=True):
            if term.mode == "uvw" and weight is not None and weight.dim() == 3 and self._weight_first(x, y):
                mixing = torch.matmul(y.squeeze(2), weight.transpose(0, 1).flatten(1)).unflatten(1, weight.shape[::2])
                outputs.append(torch.matmul(mixing.mT, x * scale))
            else:
                outputs.append(connect(term.mode, (x * scale).unsqueeze(2) * y.unsqueeze(1), weight))
        return outputs

    def _weight_first(self, x: Tensor, y: Tensor) -> bool:
        """Whether a matrix of weights a sample is cheaper than products of all copies; it is bound by memory."""
        return x.shape[2] * y.shape[1] > 32


class PairsFirst(TermKernel):
    """`uu` terms of one pair of inputs: products of components first, then all couplings at once."""

    coupling: Tensor

    def __init__(self, terms: Sequence[Term], in2: Entries) -> None:
        d1, d2, _ = terms[0].coupling.shape
        stacked = np.concatenate([term.coupling.reshape(d1 * d2, -1) for term in terms], axis=1)
        super().__init__(terms, terms[0].in1, terms[0].in2, {"coupling": stacked})
        self.widths = [term.coupling.shape[2] for term in terms]

    def forward(self, x: Tensor, y: Tensor, weights: Weights) -> list[Tensor]:
        """Outputs `[z, copies, k]` of every term, from `x [z, u, i]` and `y [z, u, j]`."""
        pairs = (x.unsqueeze(3) * y.unsqueeze(2)).flatten(2)
        return _connected(self.terms, torch.matmul(pairs, self.coupling).split(self.widths, dim=2), weights)


class LowRank(TermKernel):
    """One term through its factors; `uvu` and `uvv` terms connect their copies in rank space."""

    a: Tensor
    b: Tensor
    c: Tensor

    def __init__(self, terms: Sequence[Term], in2: Entries) -> None:
        (term,) = terms
        assert term.factors is not None
        first, second, out = term.factors.matrices
        super().__init__(terms, term.in1, term.in2, {"a": first, "b": second, "c": out.T.copy()})

    def forward(self, x: Tensor, y: Tensor, weights: Weights) -> list[Tensor]:
        """Output `[z, copies, k]`, in a list."""
        mode, (weight,) = self.terms[0].mode, weights
        x, y = torch.matmul(x, self.a), torch.matmul(y, self.b)
        if mode == "uuw":
            return [connect(mode, torch.matmul(x * y, self.c), weight)]
        if mode == "uuu":
            return [torch.matmul(connect(mode, x * y, weight), self.c)]
        if mode == "uvu":
            filters = y.sum(1, keepdim=True) if weight is None else contract(weight, y)
            return [torch.matmul(x * filters, self.c)]
        if mode == "uvv":
            filters = x.sum(1, keepdim=True) if weight is None else contract(weight.mT, x)
            return [torch.matmul(filters * y, self.c)]
        return [connect(mode, torch.matmul(x.unsqueeze(2) * y.unsqueeze(1), self.c), weight)]


def contract(weight: Tensor, values: Tensor) -> Tensor:
    """`weight [(z,) u, v] @ values [z, v, r]`, a plain product where `v` is one."""
    return weight * values if values.shape[1] == 1 else torch.matmul(weight, values)


def prefers_factors(term: Term, kernel: Kernel, in1: Entries, in2: Entries) -> bool:
    """Whether a term is cheaper through its factors than through its dense coupling (counts of multiply-adds)."""
    if term.factors is None or kernel == "dense":
        return False
    if kernel == "low-rank":
        return True
    d1, d2, d3 = term.coupling.shape
    u, v, rank = in1.muls[term.in1[0]], in2.muls[term.in2[0]], term.factors.rank
    if term.mode[:2] == "uu":
        return rank * (d1 + d2 + d3 + 1) < d1 * d2 * (1 + d3)
    if is_scalar(term):
        return False
    pairs = u * v if term.mode in ("uvw", "uvuv") else max(u, v)
    low_rank = rank * (d1 * u + d2 * v + (1 + d3) * pairs)
    # A small matrix product a sample runs at about half the speed of one large matrix product.
    return low_rank < d1 * d3 * v * (d2 + 2 * u)


def is_scalar(term: Term) -> bool:
    """Whether the second input is one scalar component that scales the components of the first."""
    matrix = term.coupling[:, 0, :]
    return term.coupling.shape[1] == 1 and matrix.shape[0] == matrix.shape[1] and _is_diagonal(matrix)


def _is_diagonal(matrix: Array) -> bool:
    return bool(np.all(matrix == np.diag(np.diagonal(matrix))))


def build_kernels(terms: Sequence[Term], in1: Entries, in2: Entries, kernel: Kernel) -> nn.ModuleList:
    """Kernels of a list of terms, terms of the same inputs together."""
    groups: dict[tuple[object, ...], list[Term]] = {}
    for n, term in enumerate(terms):
        if prefers_factors(term, kernel, in1, in2):
            key: tuple[object, ...] = (LowRank, n)
        elif term.mode[:2] == "uu":
            key = (PairsFirst, term.in1, term.in2)
        elif is_scalar(term) and _is_alone(term, terms):
            key = (Scalars, term.in1, term.in2)
        else:
            key = (FilterFirst, term.in1, in2.muls[term.in2[0]])
        groups.setdefault(key, []).append(term)
    return nn.ModuleList([key[0](members, in2) for key, members in groups.items()])  # type: ignore[operator]


def _is_alone(term: Term, terms: Sequence[Term]) -> bool:
    """Whether no other second input is coupled to the same first one, which would share its matrix product."""
    return all(other.in2 == term.in2 or other.in1 != term.in1 for other in terms)
