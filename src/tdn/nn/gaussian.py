"""Radial functions of the paper's network: learned Gaussians, and the network on top of them (2507.01131, 4.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GaussianBasis(nn.Module):
    """`exp(-(t - mu_k)² / (2 s_k²)) / (sqrt(2 pi) s_k)` with `t = w r / r_max + b`; all but `r_max` is learned.

    There is no envelope: the functions do not vanish at the cutoff.

    Args:
        r_max: Cutoff, Å.
        num_basis: Number of functions.
    """

    SMALLEST_WIDTH = 1e-5

    def __init__(self, r_max: float, num_basis: int) -> None:
        super().__init__()
        self.r_max = r_max
        self.mean = nn.Parameter(torch.rand(num_basis))
        self.std = nn.Parameter(torch.empty(num_basis).uniform_(1.0 / num_basis, 1.0))
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, distance: Tensor) -> Tensor:
        """Values `[E, num_basis]` at the distances `[E]`."""
        width = self.std.abs() + self.SMALLEST_WIDTH
        position = (self.scale / self.r_max * distance + self.shift)[:, None]
        return torch.exp(-0.5 * ((position - self.mean) / width).square()) / (math.sqrt(2.0 * math.pi) * width)


class PlainLayerNorm(nn.Module):
    """Layer normalisation written out.

    PyTorch's fused one has mean and deviation as outputs without a derivative, and a trace of forces in which they are
    inputs of the backward pass (`tdn.models.compiled`) would lose a part of the second derivative, without a word.

    Args:
        num_features: Length of the last dimension.
    """

    EPSILON = 1e-5

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x [..., num_features]`."""
        x = x - x.mean(-1, keepdim=True)
        return x * (x.square().mean(-1, keepdim=True) + self.EPSILON).rsqrt() * self.weight + self.bias


class RadialProfile(nn.Module):
    """Fully connected layers with layer norms and SiLU between them, and an offset (Equiformer, 2206.11990).

    Args:
        num_basis: Width of the input.
        hidden: Width of the two hidden layers.
        num_out: Width of the output.
    """

    def __init__(self, num_basis: int, hidden: int, num_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(num_basis, hidden), PlainLayerNorm(hidden), nn.SiLU()),
            *(nn.Linear(hidden, hidden), PlainLayerNorm(hidden), nn.SiLU()),
            nn.Linear(hidden, num_out, bias=False),
        )
        self.offset = nn.Parameter(torch.empty(num_out).uniform_(-(hidden**-0.5), hidden**-0.5))

    def forward(self, basis: Tensor) -> Tensor:
        """Weights `[E, num_out]` from basis values `[E, num_basis]`."""
        return self.layers(basis) + self.offset
