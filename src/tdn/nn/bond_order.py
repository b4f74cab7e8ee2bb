"""Bond-orientational order of an atom's neighbours: which angles they stand at, as invariants."""

from __future__ import annotations

import torch
from torch import Tensor

from tdn.nn.harmonics import spherical_harmonics
from tdn.nn.kernels import scatter_sum

# As published: the root of a number below this has too large a derivative.
SMALLEST_SQUARE = 1e-6


def bond_order(directions: Tensor, receivers: Tensor, num_nodes: int, lmax: int) -> Tensor:
    """Norms of the mean spherical harmonics of each atom's neighbours, `q_0 .. q_lmax`.

    `q_l² = 4π/(2l+1) sum_m |mean_j Y_lm(r_ij)|² = mean_jk P_l(cos θ_jik)`, so that `q_0 = 1` and `0 <= q_l <= 1`
    (Steinhardt, Nelson, Ronchetti, doi:10.1103/PhysRevB.28.784; as a feature of atoms: 2410.24169). All neighbours
    count the same, so the values jump where one enters or leaves the list.

    Args:
        directions: Unit vectors to the neighbours, `[E, 3]`.
        receivers: int64 `[E]`, ascending.
        num_nodes: Number of atoms `N`.
        lmax: Highest degree.

    Returns:
        `[N, lmax + 1]`; all 0.001 for an atom without neighbours.
    """
    harmonics = spherical_harmonics(directions, lmax).T
    counts = torch.bincount(receivers, minlength=num_nodes).clamp(min=1)
    mean = scatter_sum(harmonics, receivers, num_nodes) / counts[:, None].to(harmonics.dtype)
    squares = [mean[:, l * l : (l + 1) ** 2].square().sum(-1) / (2 * l + 1) for l in range(lmax + 1)]
    return torch.stack(squares, dim=-1).clamp(min=SMALLEST_SQUARE).sqrt()
