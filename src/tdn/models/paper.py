"""`PaperTDN`: the network of 2507.01131 as published, its ablations, and repairs of what it breaks, each an option.

Read top to bottom: `PaperTDNConfig`, `Block`, `PaperTDN`. An Equiformer whose tensor products are CP decompositions of
shared path weights. The defaults are the published network; `tdn.models.paper_potential` makes energies and forces of
it. Features are `[N, (lmax + 1)², C]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tdn.errors import ConfigError
from tdn.models.config import ModelConfig
from tdn.nn.attention import ComponentLinear, DegreeEmbedding, EdgeFeatures, GatedLinear, GraphAttention
from tdn.nn.bond_order import bond_order
from tdn.nn.edge_product import EdgeProduct, Products, make_product
from tdn.nn.gaussian import GaussianBasis
from tdn.nn.harmonics import spherical_harmonics
from tdn.nn.kernels import gather
from tdn.nn.norm import DegreeNorm
from tdn.nn.radial import polynomial_envelope


class PaperTDNConfig(ModelConfig):
    """Shape of a `PaperTDN`; the defaults are the network of the paper's Table 1.

    Attributes:
        architecture: `PaperTDN`.
        lmax: Highest degree of features and harmonics.
        num_channels: Channels of every degree.
        num_layers: Attention blocks; a direct force head has one more attention.
        num_heads: Attention heads.
        num_gaussians: Radial functions.
        r_max: Cutoff, Å.
        max_neighbors: Neighbours that an atom sees; null for all of them.
        truncation: Which ones: the `first` in the order of the atoms, as the public code, or the `nearest`.
        avg_num_nodes: Scale of the sum over atoms where energies are `per_atom`; training sets it from its data.
        avg_degree: Scale of the degree embedding; training sets it from its data.
        num_atom_types: Elements of the embedding: atomic numbers below this.
        energy: `per_atom` as published: the sum over the atoms of a structure stands for its energy per atom;
            `per_fragment`: the same for every fragment that no neighbours connect to others; `per_structure`: it stands
            for the energy, such as an adsorption energy, normalised by `energy_mean` and `energy_std`; or `extensive`.
        energy_mean: Of the energies above their references, eV; for `per_structure`.
        energy_std: Output scale, eV; null takes it from the training data. For `per_structure`.
        forces: `direct` by a head of their own as published; `gradient` of the network's output, which with energies
            per atom lacks their number, as in the public code; `conservative`, the gradient of the energy; or `none`
            for energies that are none of the structure itself, such as those of relaxed structures from initial ones.
        products: `cp` for the fits of rank 7 L², `exact` for exact factors, `cg` for exact Clebsch-Gordan tensors with
            shared path weights ("w/o CP"), `cg_paths` with a weight for every path ("w/o CP+PS").
        parity: `all` paths as published, SO(3), or `natural` ones, O(3).
        mirror_average: Average over the structure and its mirror image, which makes any network blind to the
            difference, at twice the cost.
        shared_linear: One channel matrix for all degrees ("PS-Linear"), or one a degree.
        bond_order_lmax: Add bond-orientational order parameters up to this degree to the embedding of an atom, as the
            paper does for OC22; null for none.
        envelope: Let all that an edge contributes vanish smoothly at the cutoff; published without.
        lone_atoms: `deleted` as published: an atom counts as soon as it has a neighbour; or `kept`, which leads its
            energy to the reference smoothly.
        dropout: Of the attention weights, in training.
    """

    architecture: Literal["PaperTDN"] = "PaperTDN"
    lmax: int = Field(default=1, ge=1, le=6)
    num_channels: int = Field(default=256, ge=1)
    num_layers: int = Field(default=6, ge=1)
    num_heads: int = Field(default=4, ge=1)
    num_gaussians: int = Field(default=256, ge=1)
    r_max: float = Field(default=4.5, gt=0)
    max_neighbors: int | None = Field(default=100, ge=1)
    truncation: Literal["first", "nearest"] = "first"
    avg_num_nodes: float = Field(default=36.6, gt=0)
    avg_degree: float = Field(default=18.6, gt=0)
    num_atom_types: int = Field(default=80, ge=2, le=119)
    energy: Literal["per_atom", "per_fragment", "per_structure", "extensive"] = "per_atom"
    energy_mean: float = 0.0
    energy_std: float | None = Field(default=None, gt=0)
    forces: Literal["direct", "gradient", "conservative", "none"] = "direct"
    products: Products = "cp"
    parity: Literal["natural", "all"] = "all"
    mirror_average: bool = False
    shared_linear: bool = True
    bond_order_lmax: int | None = Field(default=None, ge=0, le=12)
    envelope: bool = False
    lone_atoms: Literal["deleted", "kept"] = "deleted"
    dropout: float = Field(default=0.2, ge=0, lt=1)

    STATISTICS: ClassVar[Mapping[str, str]] = {"avg_num_nodes": "mean_atoms", "avg_degree": "mean_neighbors"}
    TRAINING: ClassVar[Mapping[str, Any]] = {"lr": 5e-4, "optimizer": "adamw"}

    @model_validator(mode="after")
    def _consistent(self) -> PaperTDNConfig:
        if self.num_channels % self.num_heads:
            raise ValueError(f"num_channels {self.num_channels} must be a multiple of num_heads {self.num_heads}")
        if self.parity == "natural" and self.products == "cp":
            raise ValueError("parity: natural has exact factors of lower rank than any fit: set products: exact")
        if self.lone_atoms == "kept" and self.energy != "extensive":
            raise ValueError("lone_atoms: kept needs energy: extensive")
        if self.energy != "per_structure" and (self.energy_mean or self.energy_std):
            raise ValueError("energy_mean and energy_std belong to energy: per_structure")
        return self

    @property
    def conservative(self) -> bool:
        """Whether forces are minus the gradient of the total energy."""
        total = self.energy in ("extensive", "per_structure")
        return self.forces == "conservative" or (self.forces == "gradient" and total)

    @property
    def predicts_stress(self) -> bool:
        """A head of forces has no virial."""
        return self.forces not in ("direct", "none")

    @property
    def predicts_forces(self) -> bool:
        """A network of energies alone has none."""
        return self.forces != "none"

    @property
    def nearest_neighbors(self) -> int | None:
        """The limit, if it is one of the nearest."""
        return self.max_neighbors if self.truncation == "nearest" else None

    @property
    def intensive(self) -> bool:
        """As an adsorption energy."""
        return self.energy == "per_structure"

    @property
    def output_scale(self) -> float | None:
        """The given standard deviation."""
        return self.energy_std

    @property
    def not_claimed(self) -> Mapping[str, str]:
        """What the options leave as published, and what that breaks."""
        broken: dict[str, str] = {}
        if self.products == "cp":
            fit = "fitted factors: turned structures get slightly different energies (products: cp)"
            broken |= {"rotation": fit, "reflection": fit}
        if self.parity == "all" and not self.mirror_average:
            broken["reflection"] = "no mirror symmetry: mirror images get different energies (parity: all)"
        if self.forces == "direct":
            head = "forces are not the gradient of the energy: dynamics do not conserve it (forces: direct)"
            broken |= {"forces": head, "stress": "no stress (forces: direct)", "NVE drift": head}
        elif self.forces == "none":
            head = "no forces: energies are not those of the structure itself (forces: none)"
            broken |= {"forces": head, "stress": head, "NVE drift": head}
        elif not self.conservative:
            scale = "forces are the gradient of the energy per atom, not of the energy (forces: gradient)"
            broken |= {"forces": scale, "stress": scale, "NVE drift": scale}
        if self.intensive or self.energy == "per_atom":
            sizes = f"energies are not size-extensive: far fragments feel each other (energy: {self.energy})"
            broken |= {"extensivity": sizes}
        if self.energy_mean:
            broken["lone atoms"] = "the mean is added to every structure, a lone atom too (energy_mean)"
        if self.bond_order_lmax is not None:
            order = "all neighbours count the same in the bond order (bond_order_lmax)"
            broken.setdefault("smooth cutoff", f"energies jump where atoms cross the cutoff: {order}")
        if not self.envelope or self.lone_atoms == "deleted" or self.max_neighbors is not None:
            jump = "energy and forces jump where atoms cross the cutoff"
            options = (("envelope: false", not self.envelope), ("lone_atoms: deleted", self.lone_atoms == "deleted"))
            options = (*options, (f"max_neighbors: {self.max_neighbors}", self.max_neighbors is not None))
            jump += f" ({', '.join(name for name, is_set in options if is_set)})"
            broken["smooth cutoff"] = jump
            broken.setdefault("NVE drift", jump)
        if self.max_neighbors is not None:
            seen = f"an atom sees {self.max_neighbors} neighbours at most (max_neighbors)"
            broken |= {"no neighbor truncation": seen}
            if self.truncation == "first":
                broken["permutation"] = f"{seen}, the first in the order of the atoms (truncation: first)"
                broken["translation"] = broken["permutation"]
        return broken

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """Products, symmetry, energies and forces."""
        mirror = self.parity == "natural" or self.mirror_average
        symmetry = "O(3): rotations and reflections" if mirror else "SO(3): rotations only"
        if self.products == "cp":
            symmetry += ", approximately"
        return (
            ("Products", self.products),
            ("Symmetry", symmetry),
            ("Energy", self.energy.replace("_", " ")),
            ("Forces", self.forces),
        )


class Block(nn.Module):
    """Attention and a gated two-layer network, each after a norm and with a residual.

    Args:
        config: Network shape.
        products: Of the attention.
    """

    def __init__(self, config: PaperTDNConfig, products: tuple[EdgeProduct, EdgeProduct]) -> None:
        super().__init__()
        lmax, channels, shared = config.lmax, config.num_channels, config.shared_linear
        self.norm1 = DegreeNorm(lmax, channels)
        self.attention = make_attention(config, products)
        self.norm2 = DegreeNorm(lmax, channels)
        self.hidden = GatedLinear(lmax, channels, shared)
        self.out = ComponentLinear(lmax, channels, channels, shared=shared)

    def forward(self, x: Tensor, edges: EdgeFeatures) -> Tensor:
        """New features `[N, d, C]`."""
        x = x + self.attention(self.norm1(x), edges)
        return x + self.out(self.hidden(self.norm2(x)))


def make_attention(config: PaperTDNConfig, products: tuple[EdgeProduct, EdgeProduct]) -> GraphAttention:
    """The attention of a block or of the force head."""
    return GraphAttention(
        config.lmax,
        config.num_channels,
        config.num_heads,
        config.num_gaussians,
        products,
        shared=config.shared_linear,
        dropout=config.dropout,
    )


class PaperTDN(nn.Module):
    """The network: an energy and, with a direct head, a force for every atom, in units of the potential's scale.

    Args:
        config: Network shape.
        elements: Atomic number of every element index.

    Raises:
        ConfigError: If an element has no place in the embedding.
    """

    numbers: Tensor

    def __init__(self, config: PaperTDNConfig, elements: Sequence[int]) -> None:
        super().__init__()
        if max(elements) >= config.num_atom_types:
            raise ConfigError(
                f"The embedding of PaperTDN holds atomic numbers below {config.num_atom_types} and the data have "
                f"{max(elements)}: set model.num_atom_types to {max(elements) + 1} or more."
            )
        self.config = config
        channels, shared = config.num_channels, config.shared_linear
        self.register_buffer("numbers", torch.tensor(elements, dtype=torch.int64), persistent=False)
        self.embedding = nn.Parameter(torch.empty(config.num_atom_types, channels).uniform_(-1.0, 1.0))
        limit = config.num_atom_types**-0.5
        self.embedding_bias = nn.Parameter(torch.empty(channels).uniform_(-limit, limit))
        self.basis = GaussianBasis(config.r_max, config.num_gaussians)
        orders = None if config.bond_order_lmax is None else config.bond_order_lmax + 1
        self.bond_order = None if orders is None else nn.Linear(orders, channels, bias=False)
        self.degree_embedding = DegreeEmbedding(
            config.lmax, channels, config.num_gaussians, self._product(), config.avg_degree, shared
        )
        self.blocks = nn.ModuleList(Block(config, (self._product(), self._product())) for _ in range(config.num_layers))
        self.norm = DegreeNorm(config.lmax, channels)
        self.energy_hidden = ComponentLinear(0, channels, channels)
        self.energy_out = ComponentLinear(0, channels, 1)
        self.force_attention: GraphAttention | None = None
        if config.forces == "direct":
            self.force_attention = make_attention(config, (self._product(), self._product()))
            self.force_out = ComponentLinear(1, channels, 1, shared=shared)

    def _product(self) -> EdgeProduct:
        return make_product(self.config.products, self.config.lmax, self.config.parity)

    def forward(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Energies `[N]` and forces `[N, 3]` of the atoms; no forces without a head for them.

        Args:
            vectors: From receiver to sender, Å, `[E, 3]`.
            species: Element index, int64 `[N]`.
            senders: int64 `[E]`.
            receivers: int64 `[E]`, ascending.
        """
        edges = self.edge_features(vectors, senders, receivers)
        x = self.degree_embedding(edges, species.shape[0])
        scalars = gather(self.embedding, self.numbers[species]) + self.embedding_bias
        if self.bond_order is not None:
            directions = vectors / vectors.square().sum(-1).sqrt()[:, None]
            orders = bond_order(directions, receivers, species.shape[0], self.bond_order.in_features - 1)
            scalars = scalars + self.bond_order(orders)
        x = torch.cat([x[:, :1] + scalars[:, None], x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x, edges)
        x = self.norm(x)
        energies = self.energy_out.scalars(nn.functional.silu(self.energy_hidden.scalars(x[:, 0]))).squeeze(-1)
        if self.force_attention is None:
            return energies, None
        # Components 1 to 3 are x, y, z.
        return energies, self.force_out(self.force_attention(x, edges)[:, :4]).squeeze(-1)[:, 1:]

    def edge_features(self, vectors: Tensor, senders: Tensor, receivers: Tensor) -> EdgeFeatures:
        """What all layers need of the edges."""
        distance = vectors.square().sum(-1).sqrt()
        harmonics = spherical_harmonics(vectors / distance[:, None], self.config.lmax).T
        products = {module.key: module for module in self.modules() if isinstance(module, EdgeProduct)}
        kernels = {key: product.kernel(harmonics) for key, product in products.items()}
        envelope = polynomial_envelope(distance, self.config.r_max)[:, None] if self.config.envelope else None
        return EdgeFeatures(kernels, self.basis(distance), envelope, senders, receivers)
