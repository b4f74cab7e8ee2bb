"""Equivariant linear maps over channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tdn.nn.harmonics import expand_degrees


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
