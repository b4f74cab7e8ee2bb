"""Radial functions: a Bessel basis under a smooth envelope, and the network on top of it."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


def polynomial_envelope(distance: Tensor, r_max: float) -> Tensor:
    """1 at zero distance, 0 from `r_max` on, with two continuous derivatives there (Gasteiger et al., 2003.03123, p=6).

    Args:
        distance: Å, any shape.
        r_max: Cutoff, Å.
    """
    u = (distance / r_max).clamp(max=1.0)
    # 1 - 28 u^6 + 48 u^7 - 21 u^8 with its triple zero factored out: the sum would cancel near the cutoff, in float32
    # down to a noise of 3e-6.
    return (1.0 - u).pow(3) * (1.0 + u * (3.0 + u * (6.0 + u * (10.0 + u * (15.0 + u * 21.0)))))


class BesselBasis(nn.Module):
    """`sqrt(2 / r_max) sin(k pi r / r_max) / r`, k = 1..num_basis, times the envelope (2003.03123, eq. 7).

    Args:
        r_max: Cutoff, Å.
        num_basis: Number of functions.
    """

    wave_numbers: Tensor

    def __init__(self, r_max: float, num_basis: int) -> None:
        super().__init__()
        self.r_max = r_max
        self.num_basis = num_basis
        # Whole numbers, so that a change of precision changes no frequency.
        wave_numbers = torch.arange(1, num_basis + 1, dtype=torch.get_default_dtype())
        self.register_buffer("wave_numbers", wave_numbers, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Basis values under the envelope, `[E, num_basis]`, at the distances `[E]`."""
        envelope = polynomial_envelope(distance, self.r_max)
        waves = torch.sin(self.wave_numbers * (math.pi / self.r_max * distance)[:, None])
        return waves * (math.sqrt(2.0 / self.r_max) * envelope / distance)[:, None]


class MLP(nn.Module):
    """Fully connected layers without bias, SiLU between them: zero in, zero out.

    Weights are of unit variance and scaled by `1/sqrt(fan_in)` in the forward pass, so that one learning rate suits
    every width.

    Args:
        sizes: Width of input, hidden layers and output.
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(a, b)) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., sizes[0]]` to `[..., sizes[-1]]`."""
        for k, weight in enumerate(self.weights):
            x = x @ (weight * weight.shape[0] ** -0.5)
            if k + 1 < len(self.weights):
                x = nn.functional.silu(x) * SILU_GAIN
        return x


# 1 / sqrt(E[silu(z)²]) for standard normal z: keeps activations of unit variance.
SILU_GAIN = 1.6765324703310907
