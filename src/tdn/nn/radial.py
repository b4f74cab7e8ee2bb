"""Radial functions: a Bessel basis under a smooth envelope, and the network on top of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

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


class RadialTable(NamedTuple):
    """Radial weights of edges from the rows of a table, `w_e = sum_p basis[e, p] table[knot_e + p]`.

    Attributes:
        basis: `[E, P]`.
        table: `[K, W, U]`, or `[E, W, U]` without `knot`.
        knot: First row of every edge, int64 `[E]`; None if row e belongs to edge e, `P` = 1.
    """

    basis: Tensor
    table: Tensor
    knot: Tensor | None

    def weights(self) -> Tensor:
        """The radial weights themselves, `[E, W, U]`."""
        if self.knot is None:
            return self.basis[:, :, None] * self.table
        rows = self.table[self.knot[:, None] + torch.arange(self.basis.shape[1], device=self.knot.device)]
        return torch.einsum("ep,epwu->ewu", self.basis, rows)


class UniformSpline:
    """B-splines on equal intervals from 0 to `r_max`: `degree + 1` terms at every distance.

    A cubic spline has two continuous derivatives, a quintic one four; an integrator of order two conserves its energy
    without noise only where the fourth is continuous too (`benchmarks/nve.py`).

    Row k of the table is the value of the radial network at knot k, and the coefficient of the spline function that is
    centred `(degree - 1) / 2` knots further in: the network vanishes at the cutoff, so the last `degree` coefficients
    are zero, and the spline goes to zero there with all its continuous derivatives.

    Args:
        r_max: Cutoff, Å.
        intervals: Number of intervals, K.
        degree: 3 or 5.
    """

    def __init__(self, r_max: float, intervals: int, degree: int = 5) -> None:
        self.r_max = r_max
        self.intervals = intervals
        self.degree = degree

    def knots(self, like: Tensor) -> Tensor:
        """Distances at which the coefficients are values of the network, Å, `[K + degree]`; none is zero."""
        fractions = torch.arange(self.intervals + self.degree, dtype=like.dtype, device=like.device) / self.intervals
        return self.r_max * fractions.clamp(1e-3 / self.intervals, 1.0)

    def basis(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """The functions that do not vanish at the distances `[E]`, `[E, degree + 1]`, and the index of the first."""
        position = (distance * (self.intervals / self.r_max)).clamp(max=float(self.intervals))
        knot = position.detach().long().clamp(max=self.intervals - 1)
        t = position - knot
        pieces = _CUBIC if self.degree == 3 else _QUINTIC
        # The functions are mirror images of each other: the second half are the first ones seen from the other end.
        rising, falling = ([_polynomial(piece, u) for piece in pieces] for u in (1.0 - t, t))
        return torch.stack([*rising, *falling[::-1]], dim=1), knot


# Pieces of the uniform B-splines as polynomials in the distance to the far end of the interval, highest power first.
_CUBIC = ((1 / 6, 0.0, 0.0, 0.0), (-1 / 2, 1 / 2, 1 / 2, 1 / 6))
_QUINTIC = (
    (1 / 120, 0.0, 0.0, 0.0, 0.0, 0.0),
    (-1 / 24, 1 / 24, 1 / 12, 1 / 12, 1 / 24, 1 / 120),
    (1 / 12, -1 / 6, -1 / 6, 1 / 6, 5 / 12, 13 / 60),
)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """By Horner's rule, from the highest power down."""
    value = coefficients[0] * x
    for coefficient in coefficients[1:-1]:
        value = (value + coefficient) * x
    return value + coefficients[-1]


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
