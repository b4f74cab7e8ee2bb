"""The paper's network for moving bodies: the blocks of `PaperTDN`, with velocities and charges in, positions out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tdn.models.paper import Block, PaperTDNConfig, make_attention
from tdn.nn.attention import ComponentLinear, DegreeEmbedding, EdgeFeatures
from tdn.nn.edge_product import EdgeProduct
from tdn.nn.gaussian import GaussianBasis
from tdn.nn.harmonics import spherical_harmonics
from tdn.nn.norm import DegreeNorm

RANGE = 10.0  # scale of the radial functions; nothing is cut off


class BodyNetwork(nn.Module):
    """Predicts where bodies go, every body seeing all others of its system.

    What the paper does not say is as in SEGNN (2110.02905): charge and speed are the scalars of a body, its velocity
    and its place relative to the mean of its system the vectors, the product of the charges goes to the edges with
    the distance, and the output is a displacement.

    Args:
        config: Shape; its products, embedding of elements, cutoff and heads for energies have no part in it.
        make_product: Makes the product of a layer.
    """

    def __init__(self, config: PaperTDNConfig, make_product: Callable[[], EdgeProduct]) -> None:
        super().__init__()
        self.config = config
        # The product of the charges is one more radial function.
        inner = config.model_copy(update={"num_gaussians": config.num_gaussians + 1})
        channels, shared = config.num_channels, config.shared_linear
        self.scalars = nn.Linear(2, channels)
        self.vectors = nn.Linear(2, channels, bias=False)
        self.basis = GaussianBasis(RANGE, config.num_gaussians)
        self.degree_embedding = DegreeEmbedding(
            config.lmax, channels, inner.num_gaussians, make_product(), config.avg_degree, shared
        )
        self.blocks = nn.ModuleList(Block(inner, (make_product(), make_product())) for _ in range(config.num_layers))
        self.norm = DegreeNorm(config.lmax, channels)
        self.head = make_attention(inner, (make_product(), make_product()))
        self.out = ComponentLinear(1, channels, 1, shared=shared)

    def forward(self, charges: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:
        """Displacements `[S, B, 3]` of charges `[S, B]` at positions and with velocities `[S, B, 3]`."""
        systems, bodies = charges.shape
        edges = self.edges(charges, positions)
        speeds = velocities.square().sum(-1).sqrt()
        scalars = self.scalars(torch.stack([charges, speeds], dim=-1).flatten(0, 1))
        places = positions - positions.mean(1, keepdim=True)
        vectors = self.vectors(torch.stack([velocities, places], dim=-1).flatten(0, 1))
        embedded = self.degree_embedding(edges, systems * bodies)
        x = torch.cat([embedded[:, :1] + scalars[:, None], embedded[:, 1:4] + vectors, embedded[:, 4:]], dim=1)
        for block in self.blocks:
            x = block(x, edges)
        # Components 1 to 3 are x, y, z.
        moved = self.out(self.head(self.norm(x), edges)[:, :4]).squeeze(-1)[:, 1:]
        return moved.view(systems, bodies, 3)

    def edges(self, charges: Tensor, positions: Tensor) -> EdgeFeatures:
        """Every ordered pair of bodies of a system."""
        systems, bodies = charges.shape
        receivers, senders = (~torch.eye(bodies, dtype=torch.bool, device=charges.device)).nonzero().unbind(1)
        first = bodies * torch.arange(systems, device=charges.device)[:, None]
        senders, receivers = (first + senders).flatten(), (first + receivers).flatten()
        charges, positions = charges.flatten(), positions.flatten(0, 1)
        vectors = positions[senders] - positions[receivers]
        distance = vectors.square().sum(-1).sqrt()
        harmonics = spherical_harmonics(vectors / distance[:, None], self.config.lmax).T
        products = {module.key: module for module in self.modules() if isinstance(module, EdgeProduct)}
        kernels = {key: product.kernel(harmonics) for key, product in products.items()}
        pairs = (charges[senders] * charges[receivers])[:, None]
        basis = torch.cat([self.basis(distance), pairs], dim=1)
        return EdgeFeatures(kernels, basis, None, senders, receivers)
