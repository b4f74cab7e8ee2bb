"""Equivariant layer normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tdn.nn.harmonics import degrees


class DegreeNorm(nn.Module):
    """Divides every degree by the root mean square of its components and channels, then scales channels.

    Scalars lose their mean over channels first and gain a learned shift (Equiformer's norm as in 2507.01131).
    Features are `[N, (lmax + 1)², C]` here, component second.

    Args:
        lmax: Highest degree.
        num_channels: Channels.
    """

    EPSILON = 1e-5
    average: Tensor
    of_component: Tensor

    def __init__(self, lmax: int, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(lmax + 1, num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        of_component = nn.functional.one_hot(degrees(lmax), lmax + 1).to(torch.get_default_dtype())
        # Mean over the components of a degree, given back to each of them.
        average = of_component / of_component.sum(0) @ of_component.T
        self.register_buffer("average", average, persistent=False)
        self.register_buffer("of_component", of_component, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised `x [N, d, C]`."""
        scalars = x[:, :1] - x[:, :1].mean(-1, keepdim=True)
        x = torch.cat([scalars, x[:, 1:]], dim=1)
        square = x.square().mean(-1) @ self.average
        x = x * (square + self.EPSILON).rsqrt()[..., None] * (self.of_component @ self.weight)
        return torch.cat([x[:, :1] + self.bias, x[:, 1:]], dim=1)
