"""Graph attention of the paper's network: Equiformer's, with one product for both of its steps (2507.01131, 4.1).

Features are `[N, (lmax + 1)², C]` here, component second and channels last, as gathering along edges likes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tdn.nn.edge_product import EdgeProduct, Kernel
from tdn.nn.gaussian import RadialProfile
from tdn.nn.harmonics import degrees
from tdn.nn.kernels import gather, largest, scatter_sum

NEGATIVE_SLOPE = 0.2
RADIAL_HIDDEN = 64


class ComponentLinear(nn.Module):
    """Mixes channels: one matrix for every degree ("PS-Linear"), or one a degree; scalars may have a bias.

    Args:
        lmax: Highest degree.
        in_channels: Channels in.
        out_channels: Channels out.
        bias: Add a learned bias to the scalars.
        shared: One matrix for all degrees.
    """

    def __init__(self, lmax: int, in_channels: int, out_channels: int, bias: bool = True, shared: bool = True) -> None:
        super().__init__()
        shape = (out_channels, in_channels) if shared or lmax == 0 else (lmax + 1, out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-(in_channels**-0.5), in_channels**-0.5))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, d, in_channels]` to `[N, d, out_channels]`."""
        if self.weight.dim() == 2:
            y = nn.functional.linear(x, self.weight)
        else:
            blocks = [x[:, l * l : (l + 1) ** 2] @ weight.T for l, weight in enumerate(self.weight)]
            y = torch.cat(blocks, dim=1)
        return y if self.bias is None else torch.cat([y[:, :1] + self.bias, y[:, 1:]], dim=1)

    def scalars(self, x: Tensor) -> Tensor:
        """Map the scalars alone, `[N, in_channels]` to `[N, out_channels]`."""
        weight = self.weight if self.weight.dim() == 2 else self.weight[0]
        return nn.functional.linear(x, weight, self.bias)


class GatedLinear(nn.Module):
    """A linear map followed by a gate: SiLU on scalars, other degrees scaled by the sigmoid of learned scalars.

    The gates are computed from the scalars only: the public code's other rows of them have no effect.

    Args:
        lmax: Highest degree.
        num_channels: Channels.
        shared: One matrix for all degrees.
    """

    def __init__(self, lmax: int, num_channels: int, shared: bool = True) -> None:
        super().__init__()
        self.value = ComponentLinear(lmax, num_channels, num_channels, shared=shared)
        self.gate = ComponentLinear(0, num_channels, num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, d, C]` to the same shape."""
        value = self.value(x)
        gate = torch.sigmoid(self.gate.scalars(x[:, 0]))
        return torch.cat([nn.functional.silu(value[:, :1]), value[:, 1:] * gate[:, None]], dim=1)


class EdgeFeatures(NamedTuple):
    """What every layer needs of the edges, computed once.

    Attributes:
        kernels: By the key of a product, its kernel of the harmonics.
        basis: Radial functions `[E, K]`.
        envelope: `[E, 1]` smooth factor of all that an edge contributes, or None.
        senders: int64 `[E]`.
        receivers: int64 `[E]`, ascending.
    """

    kernels: Mapping[str, Kernel]
    basis: Tensor
    envelope: Tensor | None
    senders: Tensor
    receivers: Tensor


def segment_softmax(logits: Tensor, factor: Tensor | None, receivers: Tensor, num_nodes: int) -> Tensor:
    """`f_e exp(a_e)` over its sum over the edges of the same receiver.

    Args:
        logits: `[E, H]`.
        factor: `[E, 1]`, not negative; one where None.
        receivers: int64 `[E]`.
        num_nodes: `N`.
    """
    powers = torch.exp(logits - largest(logits, receivers, num_nodes).index_select(0, receivers))
    if factor is not None:
        powers = powers * factor
    sums = scatter_sum(powers, receivers, num_nodes)
    # A sum is zero where all neighbours are at the very cutoff.
    return powers / (gather(sums, receivers) + 1e-16)


class RadialWeights(nn.Module):
    """The weights of a layer's products from the radial functions, under the envelope if there is one.

    Args:
        num_basis: Radial functions.
        num_weights: Width of the output.
    """

    def __init__(self, num_basis: int, num_weights: int) -> None:
        super().__init__()
        self.profile = RadialProfile(num_basis, RADIAL_HIDDEN, num_weights)

    def forward(self, edges: EdgeFeatures) -> Tensor:
        """`[E, num_weights]`."""
        weights = self.profile(edges.basis)
        return weights if edges.envelope is None else weights * edges.envelope


class GraphAttention(nn.Module):
    """Messages of sender and receiver, twice multiplied with the harmonics, summed with attention weights.

    Args:
        lmax: Highest degree.
        num_channels: Channels.
        num_heads: Attention heads; each has `num_channels / num_heads` channels.
        num_basis: Radial functions.
        products: The two products; they share their radial weights.
        shared: One matrix for all degrees in the linear maps.
        dropout: Of the attention weights, in training.
    """

    def __init__(
        self,
        lmax: int,
        num_channels: int,
        num_heads: int,
        num_basis: int,
        products: tuple[EdgeProduct, EdgeProduct],
        shared: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.product1, self.product2 = products
        self.sender = ComponentLinear(lmax, num_channels, num_channels, shared=shared)
        self.receiver = ComponentLinear(lmax, num_channels, num_channels, bias=False, shared=shared)
        self.radial = RadialWeights(num_basis, self.product1.num_weights * num_channels)
        self.alpha = ComponentLinear(0, num_channels, num_channels)
        limit = (6.0 / (num_heads + num_channels / num_heads)) ** 0.5
        self.alpha_dot = nn.Parameter(torch.empty(num_heads, num_channels // num_heads).uniform_(-limit, limit))
        self.value = GatedLinear(lmax, num_channels, shared)
        self.out = ComponentLinear(lmax, num_channels, num_channels, shared=shared)

    def forward(self, x: Tensor, edges: EdgeFeatures) -> Tensor:
        """New features `[N, d, C]` from `x [N, d, C]`."""
        senders, receivers = edges.senders, edges.receivers
        # The linear maps of both ends are taken on the nodes.
        message = gather(self.sender(x), senders) + gather(self.receiver(x), receivers)
        weights = self.radial(edges)
        message = self.product1(message, edges.kernels[self.product1.key], weights)
        attention = self.attention(message[:, 0], edges, x.shape[0])
        value = self.value(message) * attention[:, None]
        value = self.product2(value, edges.kernels[self.product2.key], weights)
        return self.out(scatter_sum(value, receivers, x.shape[0]))

    def attention(self, scalars: Tensor, edges: EdgeFeatures, num_nodes: int) -> Tensor:
        """Attention weight of every channel, `[E, C]`, from the scalars of the messages `[E, C]`."""
        heads = smooth_leaky_relu(self.alpha.scalars(scalars)).view(-1, *self.alpha_dot.shape)
        logits = (heads * self.alpha_dot).sum(-1)
        attention = segment_softmax(logits, edges.envelope, edges.receivers, num_nodes)
        attention = nn.functional.dropout(attention, self.dropout, self.training)
        return attention.repeat_interleave(self.alpha_dot.shape[1], dim=1)


def smooth_leaky_relu(x: Tensor) -> Tensor:
    """`(1 + s) / 2 x + (1 - s) / 2 x (2 sigmoid(x) - 1)` with slope `s` on the negative side."""
    return x * (NEGATIVE_SLOPE + (1.0 - NEGATIVE_SLOPE) * torch.sigmoid(x))


class DegreeEmbedding(nn.Module):
    """Sum of the harmonics of an atom's edges, weighted by radial functions and channels, `[N, d, C]`.

    A constant scalar vector takes the place of the senders' features.

    Args:
        lmax: Highest degree.
        num_channels: Channels.
        num_basis: Radial functions.
        product: Product with the harmonics.
        avg_degree: Mean number of neighbours; the sum is divided by its root.
        shared: One matrix for all degrees in the linear map.
    """

    def __init__(
        self, lmax: int, num_channels: int, num_basis: int, product: EdgeProduct, avg_degree: float, shared: bool
    ) -> None:
        super().__init__()
        self.scale = avg_degree**-0.5
        self.num_components = len(degrees(lmax))
        self.product = product
        self.constant = ComponentLinear(0, num_channels, num_channels)
        self.radial = RadialWeights(num_basis, product.num_weights * num_channels)
        self.out = ComponentLinear(lmax, num_channels, num_channels, shared=shared)

    def forward(self, edges: EdgeFeatures, num_nodes: int) -> Tensor:
        """`[N, d, C]`."""
        channels = self.constant.weight.shape[1]
        constant = self.constant.scalars(self.constant.weight.new_ones(1, channels))
        weights = self.radial(edges)
        x = constant.expand(weights.shape[0], 1, channels)
        values = self.product(x, edges.kernels[self.product.key], weights)
        # The linear map commutes with the sum, but its bias counts for every edge.
        summed = self.out(scatter_sum(values, edges.receivers, num_nodes))
        presence = weights.new_ones(weights.shape[0], 1) if edges.envelope is None else edges.envelope
        missing = scatter_sum(presence, edges.receivers, num_nodes) - 1.0
        scalars = summed[:, :1] + missing[:, None] * self.out.bias
        return torch.cat([scalars, summed[:, 1:]], dim=1) * self.scale
