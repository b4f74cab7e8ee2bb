"""Clebsch-Gordan tensor products through exact low-rank factors, and their dense twins.

Every layer computes an equivariant bilinear map `z_k = sum_ij M_ijk x_i y_j` from a shipped factor table,
`M_ijk = sum_r A_ir B_jr C_kr`. With `exact=True` the same layer, with the same arguments and the same (empty) state
dict, contracts the dense tensor `M` of the table's path weights instead: the reference for tests and benchmarks.

Features are `[(lmax + 1)², atoms, channels]`, degree by degree, in e3nn's basis and order.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tdn.cp.couplings import PathParity
from tdn.cp.tables import FactorTable, load_table
from tdn.nn.constants import Constants
from tdn.nn.harmonics import degrees
from tdn.nn.kernels import EdgeIndex, convolve, gather, scatter_sum
from tdn.nn.radial import RadialTable


class TableModule(Constants):
    """Base of modules that compute with a factor table, which a model file stores once, in float64."""

    table: FactorTable

    @abstractmethod
    def arrays(self, table: FactorTable) -> dict[str, NDArray[np.float64]]:
        """The arrays that the module computes with."""

    def set_table(self, table: FactorTable) -> None:
        """Compute with `table` from now on; it may have another rank, but must have the same degrees."""
        self.table = table
        self.set_constants(self.arrays(table))


class Factors(TableModule):
    """The arrays of a factor table.

    The output factor is scaled by `sqrt(2 l3 + 1)`, so that component-normalised inputs give outputs of order one.

    Args:
        table: Factors and the path weights that they stand for.
        dense: Also hold the dense tensor.

    Attributes:
        in1: `[R, (lmax_in1 + 1)²]`.
        in2: `[(lmax_in2 + 1)², R]`.
        out: `[(lmax_out + 1)², R]`.
        coupling: The dense tensor `[d1, d2, d3]`, only if `dense`.
    """

    in1: Tensor
    in2: Tensor
    out: Tensor
    coupling: Tensor

    def __init__(self, table: FactorTable, dense: bool = False) -> None:
        super().__init__({})
        self.dense = dense
        self.set_table(table)

    def arrays(self, table: FactorTable) -> dict[str, NDArray[np.float64]]:
        """The factors, and the dense tensor if asked for."""
        scale = np.sqrt(2.0 * degrees(table.lmax_out).numpy() + 1.0)
        arrays = {"in1": table.in1.T.copy(), "in2": table.in2, "out": table.out * scale[:, None]}
        return arrays | ({"coupling": table.coupling() * scale} if self.dense else {})


class CPProduct(nn.Module):
    """Pairwise product of two feature tensors, channel by channel: `z = C[(A^T x) * (B^T y)]`.

    Costs `R (d1 + d2 + d3)` multiply-adds a channel where the dense product costs `d1 d2 d3` (2507.01131, section 3).

    Args:
        lmax_in1: Highest degree of the first input.
        lmax_in2: Highest degree of the second input.
        lmax_out: Highest degree of the output.
        parity: `natural` for parity `(-1)^l` features, O(3); `all` to keep every path, SO(3) only.
        exact: Contract the dense tensor instead of the factors.
        table: Factor table to use instead of the shipped one.
    """

    def __init__(
        self,
        lmax_in1: int,
        lmax_in2: int,
        lmax_out: int,
        parity: PathParity = "natural",
        exact: bool = False,
        table: FactorTable | None = None,
    ) -> None:
        super().__init__()
        self.exact = exact
        self.factors = Factors(table or load_table(lmax_in1, lmax_in2, lmax_out, parity), dense=exact)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Product of `x [d1, N, U]` and `y [d2, N, U]`, `[d3, N, U]`."""
        if self.exact:
            return torch.einsum("inu,jnu,ijk->knu", x, y, self.factors.coupling)
        ranks = (self.factors.in1 @ x.flatten(1)) * (self.factors.in2.T @ y.flatten(1))
        return (self.factors.out @ ranks).view(len(self.factors.out), *x.shape[1:])


class CPConvolution(nn.Module):
    """Message passing with the tensor product projected on the nodes.

    `out_n = sum_{e -> n} M(x_sender(e), Y(e); w(e))` with radial weights per filter degree. Projections on the factors
    happen once a node; only `R` multiply-adds an edge and channel remain, where the dense form needs `d1 d3`.

    Args:
        lmax_in: Highest degree of the features.
        lmax_filter: Highest degree of the spherical harmonics.
        lmax_out: Highest degree of the output.
        parity: `natural` or `all`.
        exact: Use the dense tensor, contracted with the harmonics first.
        table: Factor table to use instead of the shipped one.
        weight_per_degree: One radial weight a filter degree and channel; otherwise one a channel, so that the angular
            shape of the filter is the same at every distance.

    Attributes:
        num_weights: Radial weights a channel, `lmax_filter + 1` or 1.
    """

    degree_mask: Tensor

    def __init__(
        self,
        lmax_in: int,
        lmax_filter: int,
        lmax_out: int,
        parity: PathParity = "natural",
        exact: bool = False,
        table: FactorTable | None = None,
        weight_per_degree: bool = True,
    ) -> None:
        super().__init__()
        self.exact = exact
        self.factors = Factors(table or load_table(lmax_in, lmax_filter, lmax_out, parity), dense=exact)
        self.num_weights = lmax_filter + 1 if weight_per_degree else 1
        of_component = degrees(lmax_filter) if weight_per_degree else torch.zeros_like(degrees(lmax_filter))
        mask = nn.functional.one_hot(of_component, self.num_weights)
        self.register_buffer("degree_mask", mask.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, harmonics: Tensor, weights: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Messages summed at their receivers.

        Args:
            x: Features `[d1, N, U]`.
            harmonics: `[d2, E]`.
            weights: Radial weights `[E, num_weights, U]`.
            senders: int64 `[E]`.
            receivers: int64 `[E]`.

        Returns:
            `[d3, N, U]`.
        """
        if self.exact:
            return self._dense(x, harmonics, weights, senders, receivers)
        one = weights.new_ones(weights.shape[0], 1)
        edges = EdgeIndex.build(senders, receivers, x.shape[1])
        return self.sum_messages(x, self.project_filter(harmonics), RadialTable(one, weights, None), edges)

    def project_filter(self, harmonics: Tensor) -> Tensor:
        """Harmonics `[d2, E]` projected on the second factor, a column for every radial weight, `[E, R, num_weights]`.

        Layers with the same factors can share it.
        """
        factor = self.factors.in2[:, :, None] * self.degree_mask[:, None, :]
        return (harmonics.T @ factor.flatten(1)).unflatten(1, factor.shape[1:])

    def sum_messages(self, x: Tensor, filters: Tensor, radial: RadialTable, edges: EdgeIndex) -> Tensor:
        """The convolution from what `project_filter` gave and radial functions, `[d3, N, U]`."""
        ranks = torch.matmul(self.factors.in1, x.transpose(0, 1))
        summed = convolve(filters, radial.basis, radial.table, ranks, radial.knot, edges)
        return torch.matmul(self.factors.out, summed).transpose(0, 1)

    def _dense(self, x: Tensor, harmonics: Tensor, weights: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        # One column of harmonics a radial weight, the components that it does not scale zero: [E, d2, num_weights].
        by_degree = harmonics.T[:, :, None] * self.degree_mask
        kernels = torch.einsum("ejl,ijk->elki", by_degree, self.factors.coupling)
        messages = torch.einsum("elki,elu,eiu->eku", kernels, weights, gather(x.transpose(0, 1), senders))
        return scatter_sum(messages, receivers, x.shape[1]).transpose(0, 1)
