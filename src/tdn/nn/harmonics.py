"""Real spherical harmonics in e3nn's order and component normalisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spherical_harmonics(directions: Tensor, lmax: int) -> Tensor:
    """Real spherical harmonics of unit vectors, polynomial in x, y, z and smooth everywhere.

    With the polar axis y, `Y_lm = N_lm Q_l^|m|(y) * {s_|m| (m < 0), c_|m| (m >= 0)}` where `c_m + i s_m = (z + i x)^m`
    and `Q_l^m` are the associated Legendre functions without their `sin^m` factor, computed by their recurrence in l.
    The values equal `e3nn.o3.spherical_harmonics(..., normalize=True, normalization="component")`: the squares of a
    degree's components sum to `2 l + 1`.

    Args:
        directions: Unit vectors `[E, 3]`.
        lmax: Highest degree.

    Returns:
        `[(lmax + 1)², E]`, degree by degree, `m = -l .. l`.
    """
    x, y, z = directions.unbind(-1)
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(lmax):
        cosines.append(z * cosines[-1] - x * sines[-1])
        sines.append(x * cosines[-2] + z * sines[-1])

    legendre: dict[tuple[int, int], Tensor] = {(0, 0): torch.ones_like(x)}
    for m in range(lmax + 1):
        if m > 0:
            legendre[m, m] = (2 * m - 1) * legendre[m - 1, m - 1]
        if m < lmax:
            legendre[m + 1, m] = (2 * m + 1) * y * legendre[m, m]
        for l in range(m + 2, lmax + 1):
            legendre[l, m] = ((2 * l - 1) * y * legendre[l - 1, m] - (l + m - 1) * legendre[l - 2, m]) / (l - m)

    components = []
    for l in range(lmax + 1):
        for m in range(-l, l + 1):
            norm = math.sqrt((2 * l + 1) * (2 if m else 1) * math.factorial(l - abs(m)) / math.factorial(l + abs(m)))
            components.append(norm * legendre[l, abs(m)] * (sines[-m] if m < 0 else cosines[m]))
    return torch.stack(components)


def degrees(lmax: int) -> Tensor:
    """Degree `l` of each of the `(lmax + 1)²` components, int64."""
    return torch.tensor([l for l in range(lmax + 1) for _ in range(2 * l + 1)])


def expand_degrees(values: Tensor) -> Tensor:
    """Repeat the value of each degree for its components: `[lmax + 1, ...]` to `[(lmax + 1)², ...]`.

    By concatenation, not by indexing: its derivative is a plain sum, fast and the same in every run.
    """
    return torch.cat([values[l : l + 1].expand(2 * l + 1, *values.shape[1:]) for l in range(values.shape[0])])
