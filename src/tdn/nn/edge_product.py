"""Tensor products of edge features with spherical harmonics, contracted with the harmonics first.

`z_k = w sum_i K_ki x_i` with `K_ki = sum_j M_ijk Y_j(e)`: for harmonics of one channel this costs `d²` multiply-adds a
channel, where CP factors evaluated on the edge cost `2 d R`. It is the same bilinear map, whatever `M` is: rebuilt from
fitted or exact factors, or the exact Clebsch-Gordan tensor itself. Raw `wigner_3j`, no normalisation (2507.01131).

Features are `[E, (lmax + 1)², C]`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tdn.cp.couplings import Path, PathParity, coupling_paths, coupling_tensor
from tdn.cp.tables import FactorTable, load_table
from tdn.nn.constants import Constants
from tdn.nn.tensor_product import TableModule

Products = Literal["cp", "exact", "cg", "cg_paths"]
Kernel = tuple[Tensor, ...]

# Ranks of the shipped exact tables of all paths with unit weights, which is what the fits stand for.
UNIT_RANKS = {1: 8, 2: 32, 3: 104}


class EdgeProduct(nn.Module):
    """A product with harmonics of one channel.

    Attributes:
        num_weights: Radial weights an edge and channel.
        key: Products with equal keys have equal kernels; None if there is no other.
    """

    num_weights = 1

    @property
    @abstractmethod
    def key(self) -> str:
        """What tells apart kernels of different tensors."""

    @abstractmethod
    def kernel(self, harmonics: Tensor) -> Kernel:
        """What `forward` needs of the harmonics `[E, d]`, computed once for all products with the same key."""

    @abstractmethod
    def forward(self, x: Tensor, kernel: Kernel, weights: Tensor) -> Tensor:
        """Product of `x [E, k, C]`, the lowest `k` components (the rest zero), and the harmonics: `[E, d, C]`.

        Args:
            x: Features.
            kernel: From `kernel`.
            weights: `[E, num_weights * C]`.
        """


def _contract(coupling: Tensor, harmonics: Tensor) -> Tensor:
    """`K [E, d3, d1]` from `M [d1, d2, d3]` and `Y [E, d2]`."""
    d1, d2, d3 = coupling.shape
    return (harmonics @ coupling.permute(1, 2, 0).reshape(d2, d3 * d1)).view(-1, d3, d1)


def _apply_kernel(kernel: Tensor, x: Tensor) -> Tensor:
    return torch.bmm(kernel[:, :, : x.shape[1]], x)


class TableProduct(TableModule, EdgeProduct):
    """Product with the tensor that a factor table stands for; its errors, if it is a fit, included.

    Args:
        table: The factors.
    """

    coupling: Tensor

    def __init__(self, table: FactorTable) -> None:
        super().__init__({})
        self.set_table(table)

    def arrays(self, table: FactorTable) -> dict[str, NDArray[np.float64]]:
        """The tensor `[d1, d2, d3]`."""
        return {"coupling": table.reconstruct()}

    @property
    def key(self) -> str:
        """Digest of the table."""
        return self.table.digest

    def kernel(self, harmonics: Tensor) -> Kernel:
        """`K [E, d, d]`."""
        return (_contract(self.coupling, harmonics),)

    def forward(self, x: Tensor, kernel: Kernel, weights: Tensor) -> Tensor:
        """See `EdgeProduct`."""
        return _apply_kernel(kernel[0], x) * weights[:, None]


class CouplingProduct(Constants, EdgeProduct):
    """Product with the exact Clebsch-Gordan tensor of unit path weights: the ablation "w/o CP".

    Args:
        lmax: Highest degree of features and harmonics.
        parity: `natural` or `all`.
    """

    coupling: Tensor

    def __init__(self, lmax: int, parity: PathParity = "all") -> None:
        super().__init__({})
        paths = dict.fromkeys(coupling_paths(lmax, lmax, lmax, parity=parity), 1.0)
        self.set_constants({"coupling": coupling_tensor(lmax, lmax, lmax, paths)})

    @property
    def key(self) -> str:
        """The same for all of a network."""
        return "cg"

    def kernel(self, harmonics: Tensor) -> Kernel:
        """`K [E, d, d]`."""
        return (_contract(self.coupling, harmonics),)

    def forward(self, x: Tensor, kernel: Kernel, weights: Tensor) -> Tensor:
        """See `EdgeProduct`."""
        return _apply_kernel(kernel[0], x) * weights[:, None]


class PathProduct(Constants, EdgeProduct):
    """Exact product with a radial weight for every path and channel: the ablation "w/o CP+PS".

    Args:
        lmax: Highest degree of features and harmonics.
        parity: `natural` or `all`.
    """

    def __init__(self, lmax: int, parity: PathParity = "all") -> None:
        super().__init__({})
        self.lmax = lmax
        # By output degree, so that the sums of one degree are made in one piece.
        self.paths: tuple[Path, ...] = tuple(
            sorted(coupling_paths(lmax, lmax, lmax, parity=parity), key=lambda p: p[::-1])
        )
        self.num_weights = len(self.paths)
        blocks = {}
        for path in self.paths:
            block = [slice(l * l, (l + 1) ** 2) for l in path]
            blocks[self._name(path)] = coupling_tensor(lmax, lmax, lmax, {path: 1.0})[tuple(block)]
        self.set_constants(blocks)

    @staticmethod
    def _name(path: Path) -> str:
        return "coupling_{}_{}_{}".format(*path)

    @property
    def key(self) -> str:
        """The same for all of a network."""
        return "cg_paths"

    def kernel(self, harmonics: Tensor) -> Kernel:
        """One `[E, 2 l3 + 1, 2 l1 + 1]` a path."""
        return tuple(
            _contract(getattr(self, self._name(path)), harmonics[:, path[1] ** 2 : (path[1] + 1) ** 2])
            for path in self.paths
        )

    def forward(self, x: Tensor, kernel: Kernel, weights: Tensor) -> Tensor:
        """See `EdgeProduct`."""
        weight = weights.view(x.shape[0], self.num_weights, 1, x.shape[2])
        sums: dict[int, Tensor] = {}
        for k, (l1, _, l3) in enumerate(self.paths):
            if l1 * l1 < x.shape[1]:
                term = torch.bmm(kernel[k], x[:, l1 * l1 : (l1 + 1) ** 2]) * weight[:, k]
                sums[l3] = sums[l3] + term if l3 in sums else term
        return torch.cat([sums[l] for l in range(self.lmax + 1)], dim=1)


def make_product(kind: Products, lmax: int, parity: PathParity = "all") -> EdgeProduct:
    """The product of an ablation.

    Args:
        kind: `cp` (fit of rank 7 L²), `exact` (exact factors, of unit path weights where such are shipped), `cg` or
            `cg_paths`.
        lmax: Highest degree.
        parity: `natural` or `all`.

    Raises:
        FactorTableError: If no such factors are shipped.
    """
    if kind == "cg":
        return CouplingProduct(lmax, parity)
    if kind == "cg_paths":
        return PathProduct(lmax, parity)
    unit = UNIT_RANKS.get(lmax) if parity == "all" else None
    return TableProduct(load_table(lmax, lmax, lmax, parity, rank="paper" if kind == "cp" else unit))
