"""`TDN`: the flagship network, an O(3)-equivariant, body-ordered message-passing network in rank space.

Read top to bottom: `TDNConfig`, `NodeProducts`, `Gate`, `Interaction`, `TDN`. The network maps edge vectors and
elements to one energy an atom, in units of its output scale; `tdn.models.potential` makes total energies, forces and
stress of it. Everything vanishes for an atom without neighbours, so that a lone atom has exactly its reference energy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from tdn.models.config import ModelConfig
from tdn.nn.constants import Constants
from tdn.nn.harmonics import expand_degrees, spherical_harmonics
from tdn.nn.kernels import EdgeIndex, gather
from tdn.nn.linear import DegreeLinear, ElementCopies
from tdn.nn.radial import MLP, BesselBasis, RadialTable, UniformSpline
from tdn.nn.tensor_product import CPConvolution, CPProduct


class TDNConfig(ModelConfig):
    """Shape of a `TDN`.

    Attributes:
        architecture: `TDN`.
        lmax: Highest degree of features and filters.
        num_channels: Channels of every degree.
        num_layers: Message-passing layers.
        product_order: Highest power of the messages in an atom's update; body order is `product_order + 1` a layer.
        r_max: Cutoff, Å.
        num_radial_basis: Bessel functions.
        radial_hidden: Widths of the hidden layers of the radial networks.
        radial_knots: Intervals of the splines whose coefficients are values of the radial networks; null evaluates the
            networks at every edge instead, which is slower.
        radial_degree: Of these splines; 5 is smooth enough for dynamics whose energy does not wander.
        avg_num_neighbors: Scale of the sums over neighbours; training sets it from its data.
        parity: `natural` keeps mirror symmetry, O(3); `all` adds the odd paths, SO(3) only.
        weight_per_degree: Radial weights for every filter degree, instead of one for all.
        shared_linear: One channel matrix for all degrees, as in the paper, instead of one a degree.
        element_matrices: Matrices of which every element makes its own, which mixes the channels of messages and
            residuals; 1 has all elements share one. Training takes as many as there are elements, 4 at most.
        products: `cp` for factors, `exact` for the dense twin (same parameters, same function, slower).
        zbl: Add the ZBL repulsion of nuclei closer than a bond, so that simulations do not fall into holes there.
    """

    architecture: Literal["TDN"] = "TDN"
    lmax: int = Field(default=2, ge=1, le=6)
    num_channels: int = Field(default=64, ge=1)
    num_layers: int = Field(default=2, ge=1)
    product_order: int = Field(default=3, ge=1, le=6)
    r_max: float = Field(default=5.0, gt=0)
    num_radial_basis: int = Field(default=8, ge=1)
    radial_hidden: tuple[int, ...] = (64, 64)
    radial_knots: int | None = Field(default=64, ge=8)
    radial_degree: Literal[3, 5] = 5
    avg_num_neighbors: float = Field(default=16.0, gt=0)
    parity: Literal["natural", "all"] = "natural"
    weight_per_degree: bool = True
    shared_linear: bool = False
    element_matrices: int = Field(default=1, ge=1)
    products: Literal["cp", "exact"] = "cp"
    zbl: bool = False

    STATISTICS: ClassVar[Mapping[str, str]] = {
        "avg_num_neighbors": "mean_neighbors",
        "element_matrices": "few_elements",
    }

    @property
    def repulsive(self) -> bool:
        """As asked."""
        return self.zbl

    @property
    def not_claimed(self) -> Mapping[str, str]:
        """Mirror symmetry, where the odd paths are kept."""
        if self.parity == "natural":
            return {}
        return {"reflection": "no mirror symmetry: mirror images may get different energies (SO(3), parity: all)"}

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """Order of the products, and the symmetry."""
        symmetry = {"natural": "O(3): rotations and reflections", "all": "SO(3): rotations only"}[self.parity]
        return ("Product order", str(self.product_order)), ("Symmetry", symmetry)


# Root mean square of a channel's components that messages approach but never exceed.
SATURATION = 2.0


def saturate(x: Tensor) -> Tensor:
    """Scale every channel of `x [d, N, U]` down smoothly so that its components' root mean square stays below a limit.

    Polynomials of unbounded messages grow without end where atoms come closer than in any training frame: energies,
    and the rounding errors of their sums, would explode there. The scale depends on norms only, so it is equivariant.
    """
    return x * (1.0 + x.square().mean(0) / SATURATION**2).rsqrt()


class NodeProducts(nn.Module):
    """Polynomials of an atom's messages, `sum_k c_k m^k`, by repeated products `m^(k+1) = m^k x m`.

    The weights `c_k` depend on element, degree and channel. These are the body-ordered invariants and equivariants of
    ACE and MACE (2206.07697, eq. 10) at the cost of small matrix products.

    Args:
        config: Network shape.
        num_elements: Elements that have their own weights.
    """

    def __init__(self, config: TDNConfig, num_elements: int) -> None:
        super().__init__()
        lmax, order = config.lmax, config.product_order
        self.products = nn.ModuleList(
            CPProduct(lmax, lmax, lmax, config.parity, config.products == "exact") for _ in range(order - 1)
        )
        self.weight = nn.Parameter(torch.randn(num_elements, order, lmax + 1, config.num_channels))

    def forward(self, message: Tensor, species: Tensor) -> Tensor:
        """Polynomial of `message [d, N, U]`, of the same shape."""
        # [order, lmax + 1, N, U] -> per power [d, N, U]
        weight = [expand_degrees(power) for power in gather(self.weight, species).permute(1, 2, 0, 3)]
        power, result = message, weight[0] * message
        for k, product in enumerate(self.products, start=1):
            power = product(power, message)
            # Powers are not normalised: start each a good deal smaller than the one before.
            result = result + weight[k] * power * 0.5**k
        return result


class Gate(nn.Module):
    """Scales every degree by a function of the atom's invariants and adds an invariant to the scalars.

    The invariants are the scalars and functions of the norms of the other degrees; all vanish without neighbours.

    Args:
        lmax: Highest degree that the invariants are taken of.
        lmax_out: Highest degree that is handed on.
        num_channels: Channels.
    """

    def __init__(self, lmax: int, lmax_out: int, num_channels: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.lmax_out = lmax_out
        self.mlp = MLP([(lmax + 1) * num_channels, num_channels, (lmax_out + 2) * num_channels])

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x [(lmax + 1)², N, U]`, giving `[(lmax_out + 1)², N, U]`."""
        norms = [x[l * l : (l + 1) ** 2].square().mean(0) for l in range(1, self.lmax + 1)]
        # sqrt(1 + v) - 1 is smooth at zero, zero there, and grows as the norm itself does.
        invariants = torch.cat([x[0], *((1.0 + norm).sqrt() - 1.0 for norm in norms)], dim=-1)
        gates = self.mlp(invariants).view(x.shape[1], self.lmax_out + 2, x.shape[2]).transpose(0, 1)
        gated = x[: (self.lmax_out + 1) ** 2] * (1.0 + expand_degrees(gates[:-1]))
        return torch.cat([gated[:1] + gates[-1:], gated[1:]])


class Edges(NamedTuple):
    """What every layer needs of the edges, computed once.

    Attributes:
        harmonics: `[(lmax + 1)², E]`.
        inputs: Of the radial networks: Bessel functions at the knots, or at the edges if there are none.
        basis: Spline functions at the edges' lengths `[E, degree + 1]`, or ones `[E, 1]`.
        knot: First of them, int64 `[E]`, or None.
        index: Both ends.
    """

    harmonics: Tensor
    inputs: Tensor
    basis: Tensor
    knot: Tensor | None
    index: EdgeIndex


class Ghosts(Protocol):
    """Copies of atoms that another process owns, behind the atoms of this one: what domain decomposition needs.

    Ghosts send messages and receive none; their features after every layer come from their owners.
    """

    @property
    def num_local(self) -> int:
        """How many atoms, the first ones, are no ghosts."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Features of all atoms `[d, N, U]` from those of the local ones `[d, num_local, U]`; differentiable."""
        ...


class Interaction(Constants):
    """One layer: convolution, polynomial of the messages, residual, gate.

    Args:
        config: Network shape.
        lmax_in: Highest degree of the incoming features.
        lmax_out: Highest degree that the layer hands on.
        num_elements: Elements that have their own weights.
    """

    message_scale: Tensor

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        # A buffer, so that compiled code of one data set serves the next one.
        super().__init__({"message_scale": np.array(config.avg_num_neighbors**-0.5)})
        channels, lmax = config.num_channels, config.lmax
        self.linear_in = DegreeLinear(lmax_in, channels, channels, config.shared_linear)
        self.convolution = CPConvolution(
            lmax_in, lmax, lmax, config.parity, config.products == "exact", weight_per_degree=config.weight_per_degree
        )
        self.radial = MLP([config.num_radial_basis, *config.radial_hidden, self.convolution.num_weights * channels])
        copies = config.element_matrices
        self.message_copies = ElementCopies(num_elements, copies, channels)
        self.linear_message = DegreeLinear(lmax, copies * channels, channels, config.shared_linear)
        self.products = NodeProducts(config, num_elements)
        self.linear_out = DegreeLinear(lmax, channels, channels, config.shared_linear)
        # The first layer's input does not vanish for an atom without neighbours, so it has no residual.
        self.skip_copies = ElementCopies(num_elements, copies if lmax_in else 1, channels)
        self.linear_skip = DegreeLinear(lmax, copies * channels, channels, config.shared_linear) if lmax_in else None
        self.gate = Gate(lmax, lmax_out, channels)

    def forward(self, x: Tensor, edges: Edges, filters: Tensor | None, species: Tensor) -> Tensor:
        """New features `[(lmax_out + 1)², N, U]` from `x [(lmax_in + 1)², N, U]` and the convolution's `filters`.

        Where `species` holds the first atoms only, the others are ghosts and get no new features.
        """
        local = species.shape[0]
        table = self.radial(edges.inputs).unflatten(-1, (self.convolution.num_weights, -1))
        radial = RadialTable(edges.basis, table, edges.knot)
        if filters is None:
            ends = edges.index.senders, edges.index.receivers
            summed = self.convolution(self.linear_in(x), edges.harmonics, radial.weights(), *ends)
        else:
            summed = self.convolution.sum_messages(self.linear_in(x), filters, radial, edges.index)
        message = saturate(self.linear_message(self.message_copies(summed[:, :local] * self.message_scale, species)))
        update = self.linear_out(self.products(message, species))
        if self.linear_skip is not None:
            update = update + self.linear_skip(self.skip_copies(x[:, :local], species))
        return self.gate(update)


class TDN(nn.Module):
    """Tensor Decomposition Network: energies of atoms from edge vectors and elements.

    Args:
        config: Network shape.
        num_elements: Number of elements it knows.
    """

    def __init__(self, config: TDNConfig, num_elements: int) -> None:
        super().__init__()
        self.config = config
        channels, last = config.num_channels, config.num_layers - 1
        self.embedding = nn.Parameter(torch.randn(num_elements, channels))
        self.basis = BesselBasis(config.r_max, config.num_radial_basis)
        knots = config.radial_knots
        self.spline = UniformSpline(config.r_max, knots, config.radial_degree) if knots else None
        # Elements enter as scalars, so the first product is rectangular; only scalars are read out of the last layer.
        self.layers = nn.ModuleList(
            Interaction(config, config.lmax if k else 0, config.lmax if k < last else 0, num_elements)
            for k in range(config.num_layers)
        )
        self.readouts = nn.ModuleList(
            MLP([channels, 1]) if k < last else MLP([channels, channels // 2, 1]) for k in range(config.num_layers)
        )

    def forward(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, ghosts: Ghosts | None = None
    ) -> Tensor:
        """Energy of every atom in units of the potential's scale, `[N]`; zero for an atom without neighbours.

        Args:
            vectors: From receiver to sender, Å, `[E, 3]`.
            species: Element index, int64 `[N]`.
            senders: int64 `[E]`.
            receivers: int64 `[E]`, ascending.
            ghosts: If the last atoms are ghosts; energies are then those of the local ones, `[num_local]`.
        """
        edges = self._edges(vectors, senders, receivers, species.shape[0])
        filters = self._filters(edges.harmonics)
        x = gather(self.embedding, species)[None]
        if ghosts is not None:
            species = species[: ghosts.num_local]
        energy = vectors.new_zeros(species.shape[0])
        for k, (layer, readout, of_layer) in enumerate(zip(self.layers, self.readouts, filters, strict=True)):
            if ghosts is not None and k:
                x = ghosts(x)
            x = layer(x, edges, of_layer, species)
            energy = energy + readout(x[0]).squeeze(-1)
        return energy

    def _edges(self, vectors: Tensor, senders: Tensor, receivers: Tensor, num_atoms: int) -> Edges:
        distance = vectors.square().sum(-1).sqrt()
        if self.spline is None:
            inputs, basis, knot = self.basis(distance), torch.ones_like(distance)[:, None], None
        else:
            inputs = self.basis(self.spline.knots(distance))
            basis, knot = self.spline.basis(distance)
        harmonics = spherical_harmonics(vectors / distance[:, None], self.config.lmax)
        return Edges(harmonics, inputs, basis, knot, EdgeIndex.build(senders, receivers, num_atoms))

    def _filters(self, harmonics: Tensor) -> list[Tensor | None]:
        """The harmonics as each layer's convolution takes them; all but the first share their factors."""
        if self.config.products == "exact":
            return [None] * len(self.layers)
        first: Any = self.layers[:2]
        projected = [layer.convolution.project_filter(harmonics) for layer in first]
        return projected + projected[1:] * (len(self.layers) - 2)
