"""Screened nuclear repulsion between atoms that are closer than a bond, so that no model has holes there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tdn.nn.kernels import gather, scatter_sum
from tdn.nn.radial import polynomial_envelope

# Universal screening function and length of Ziegler, Biersack and Littmark (The Stopping and Range of Ions in Solids,
# 1985): phi(x) = sum_k c_k exp(-d_k x), x = r (Z_i^0.23 + Z_j^0.23) / a.
COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)
EXPONENT = 0.23
SCREENING_LENGTH = 0.8854 * 0.529177210903  # Å
COULOMB = 14.3996454784  # e² / (4 pi epsilon_0), eV Å


class Repulsion(nn.Module):
    """`E = 1/2 sum_ij Z_i Z_j e² / (4 pi eps_0 r) phi(r) f(r)`: the ZBL potential under an envelope `f`.

    The envelope takes every pair to zero at the sum of its covalent radii, or at `r_max` if that is less, with five
    continuous derivatives. It has no parameters and adds nothing to the state dict.

    Args:
        elements: Atomic numbers in the order of the element indices.
        r_max: Cutoff of the neighbour list, Å.
    """

    numbers: Tensor
    radii: Tensor

    def __init__(self, elements: Sequence[int], r_max: float) -> None:
        super().__init__()
        from ase.data import covalent_radii

        self.r_max = r_max
        dtype = torch.get_default_dtype()
        self.register_buffer("numbers", torch.tensor(elements, dtype=dtype), persistent=False)
        radii = [float(covalent_radii[z]) for z in elements]
        self.register_buffer("radii", torch.tensor(radii, dtype=dtype), persistent=False)

    def forward(self, distance: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Energy of every atom, half of each of its pairs, eV, `[N]`.

        Args:
            distance: Å, `[E]`; both directions of every pair.
            species: Element index, int64 `[N]`.
            senders: int64 `[E]`.
            receivers: int64 `[E]`.
        """
        first, second = gather(species, senders), gather(species, receivers)
        charge = gather(self.numbers, first), gather(self.numbers, second)
        x = distance * (charge[0].pow(EXPONENT) + charge[1].pow(EXPONENT)) / SCREENING_LENGTH
        screened = sum(c * torch.exp(-d * x) for c, d in zip(COEFFICIENTS, DECAYS, strict=True))
        reach = (gather(self.radii, first) + gather(self.radii, second)).clamp(max=self.r_max)
        # Squared: bonds vibrate about the end, where a jump of the third derivative would cost accuracy in time.
        envelope = polynomial_envelope(distance / reach, 1.0).square()
        pairs = 0.5 * COULOMB * charge[0] * charge[1] / distance * screened * envelope
        return scatter_sum(pairs, receivers, species.shape[0])
