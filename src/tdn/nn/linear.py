"""Equivariant linear maps over channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tdn.nn.harmonics import expand_degrees
from tdn.nn.kernels import gather


class DegreeLinear(nn.Module):
    """Mixes channels, one matrix per degree, or one for all degrees (the paper's path-shared linear, 2507.01131 §3.3).

    Weights are of unit variance and scaled by `1/sqrt(in_channels)` in the forward pass.

    Args:
        lmax: Highest degree.
        in_channels: Channels in.
        out_channels: Channels out.
        shared: One matrix for every degree.
    """

    def __init__(self, lmax: int, in_channels: int, out_channels: int, shared: bool = False) -> None:
        super().__init__()
        self.shared = shared
        self.weight = nn.Parameter(torch.randn(1 if shared else lmax + 1, in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[d, N, in_channels]` to `[d, N, out_channels]`."""
        weight = self.weight * self.weight.shape[1] ** -0.5
        if self.shared:
            return x @ weight[0]
        return torch.bmm(x, expand_degrees(weight))


class ElementCopies(nn.Module):
    """Several copies of every channel, each weighted by the atom's element.

    A linear map of them has a matrix for every element, `W_Z = sum_b diag(weight[Z, b]) W_b`. MACE has one of its own
    for each (2206.07697, eq. 11); here elements share a few, so that the cost does not grow with their number.

    Args:
        num_elements: Elements that have their own weights.
        num_copies: Copies; a single one is the channels as they are.
        num_channels: Channels, U.
    """

    def __init__(self, num_elements: int, num_copies: int, num_channels: int) -> None:
        super().__init__()
        self.num_copies = num_copies
        self.weight = None
        if num_copies > 1:
            # Every element starts with one of the matrices alone.
            own = torch.eye(num_copies)[torch.arange(num_elements) % num_copies]
            self.weight = nn.Parameter(num_copies**0.5 * own.repeat_interleave(num_channels, dim=1))

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        """Map `x [d, N, U]` of atoms of the elements `species [N]` to `[d, N, num_copies * U]`."""
        if self.weight is None:
            return x
        return x.repeat(1, 1, self.num_copies) * gather(self.weight, species)
