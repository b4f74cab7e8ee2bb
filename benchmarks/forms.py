"""Forms of the network, and of its optimiser, that are no options: without a part, or with another one.

`ablation.py` trains them as `form=NAME`. A form takes the place of a class of `tdn.models.tdn` as long as a run takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import tdn.models.potential as potential
import tdn.models.tdn as network
import tdn.nn.tensor_product as products
import tdn.training.loop as loop
import tdn.training.muon as muon
import tdn.training.optimisation as optimisation
from tdn.cp.tables import FactorTable, load_table
from tdn.models.tdn import TDN, Edges, Gate, Interaction, NodeProducts, TDNConfig
from tdn.nn.harmonics import degrees, spherical_harmonics
from tdn.nn.linear import DegreeLinear, ElementCopies
from tdn.nn.norm import DegreeNorm
from tdn.nn.radial import MLP, BesselBasis
from tdn.training.config import TrainingConfig


class NoGate(Gate):
    """Hands on what it gets."""

    def __init__(self, lmax: int, lmax_out: int, num_channels: int) -> None:
        nn.Module.__init__(self)
        self.lmax_out = lmax_out

    def forward(self, x: Tensor) -> Tensor:
        """The degrees that are handed on."""
        return x[: (self.lmax_out + 1) ** 2]


class ScalarGate(Gate):
    """Gates by functions of the scalars alone, not of the norms of the other degrees."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate as if all norms were zero."""
        gates = self.mlp(torch.cat([x[0], *[torch.zeros_like(x[0])] * self.lmax], dim=-1))
        gates = gates.view(x.shape[1], self.lmax_out + 2, x.shape[2]).transpose(0, 1)
        gated = x[: (self.lmax_out + 1) ** 2] * (1.0 + network.expand_degrees(gates[:-1]))
        return torch.cat([gated[:1] + gates[-1:], gated[1:]])


class DeepGate(Gate):
    """Gates by a network with two hidden layers."""

    def __init__(self, lmax: int, lmax_out: int, num_channels: int) -> None:
        super().__init__(lmax, lmax_out, num_channels)
        self.mlp = MLP([(lmax + 1) * num_channels, num_channels, num_channels, (lmax_out + 2) * num_channels])


class WideGate(Gate):
    """Gates by a network whose hidden layer is as wide as what goes in."""

    def __init__(self, lmax: int, lmax_out: int, num_channels: int) -> None:
        super().__init__(lmax, lmax_out, num_channels)
        width = (lmax + 1) * num_channels
        self.mlp = MLP([width, width, (lmax_out + 2) * num_channels])


class VectorGate(Gate):
    """Hands on scalars and vectors only, whatever the degree of filters and messages, as MACE does by default."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate and forget the higher degrees."""
        gated = super().forward(x)
        return torch.cat([gated[:4], torch.zeros_like(gated[4:])])


class Attention(Interaction):
    """Weights every neighbour by a function of the scalars of both atoms, from the second layer on."""

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        super().__init__(config, lmax_in, lmax_out, num_elements)
        self.query = nn.Parameter(torch.randn(config.num_channels, config.num_channels)) if lmax_in else None

    def forward(self, x: Tensor, edges: Edges, filters: Tensor | None, species: Tensor) -> Tensor:
        """New features from neighbours that count between nothing and twice as much as without."""
        if self.query is not None:
            asked = (x[0] @ self.query)[edges.index.receivers] * x[0][edges.index.senders]
            weight = 2.0 * torch.sigmoid(asked.sum(-1, keepdim=True) / x.shape[2])
            edges = edges._replace(basis=edges.basis * weight)
        return super().forward(x, edges, filters, species)


class WideMessages(Interaction):
    """Twice as many channels between the matrices before and behind the convolution."""

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        super().__init__(config, lmax_in, lmax_out, num_elements)
        channels, copies = config.num_channels, config.element_matrices
        wide = 2 * channels
        self.linear_in = DegreeLinear(lmax_in, channels, wide)
        self.radial = MLP([config.num_radial_basis, *config.radial_hidden, self.convolution.num_weights * wide])
        self.message_copies = ElementCopies(num_elements, copies, wide)
        self.linear_message = DegreeLinear(config.lmax, copies * wide, channels)


class ElementPairs(Interaction):
    """Weights messages by the receiver's element before channels are mixed: with the sender's, a weight a pair."""

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        super().__init__(config, lmax_in, lmax_out, num_elements)
        self.receiver = nn.Parameter(torch.randn(num_elements, config.num_channels))

    def forward(self, x: Tensor, edges: Edges, filters: Tensor | None, species: Tensor) -> Tensor:
        """New features."""
        scale = self.message_scale
        self.message_scale = scale * self.receiver[species]
        try:
            return super().forward(x, edges, filters, species)
        finally:
            self.message_scale = scale


class ElementLinear(DegreeLinear):
    """A matrix for every element of the receiving atom; `species` is set before every use."""

    def __init__(self, lmax: int, channels: int, num_elements: int) -> None:
        super().__init__(lmax, channels, channels)
        self.weight = nn.Parameter(torch.randn(num_elements, lmax + 1, channels, channels))
        self.species: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[d, N, U]` to `[d, N, U]`."""
        assert self.species is not None
        scaled = self.weight * x.shape[2] ** -0.5
        result = torch.zeros_like(x)
        for k, weight in enumerate(scaled):
            chosen = (self.species == k).to(x.dtype)[:, None]
            result = result + torch.bmm(x * chosen, network.expand_degrees(weight))
        return result


class ElementMaps(Interaction):
    """Mixes the channels of messages and of the residual by matrices of the receiver's element, as MACE does."""

    mapped = ("message", "skip")

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        super().__init__(config, lmax_in, lmax_out, num_elements)
        for name in self.mapped:
            if getattr(self, f"linear_{name}") is not None:
                setattr(self, f"linear_{name}", ElementLinear(config.lmax, config.num_channels, num_elements))
                setattr(self, f"{name}_copies", ElementCopies(num_elements, 1, config.num_channels))

    def forward(self, x: Tensor, edges: Edges, filters: Tensor | None, species: Tensor) -> Tensor:
        """New features."""
        for module in self.children():
            if isinstance(module, ElementLinear):
                module.species = species
        return super().forward(x, edges, filters, species)


class ElementMessages(ElementMaps):
    """Of the messages only."""

    mapped = ("message",)


class ElementSkips(ElementMaps):
    """Of the residual only."""

    mapped = ("skip",)


class MixedProducts(NodeProducts):
    """Mixes the channels of every power before the next product, and adds up powers through matrices of their own."""

    def __init__(self, config: TDNConfig, num_elements: int) -> None:
        super().__init__(config, num_elements)
        size = config.lmax, config.num_channels, config.num_channels
        self.mix = nn.ModuleList(DegreeLinear(*size) for _ in self.products)
        self.out = nn.ModuleList(DegreeLinear(*size) for _ in self.products)

    def forward(self, message: Tensor, species: Tensor) -> Tensor:
        """Polynomial of `message [d, N, U]`, of the same shape."""
        weight = [network.expand_degrees(power) for power in network.gather(self.weight, species).permute(1, 2, 0, 3)]
        power, result = message, weight[0] * message
        for k, (product, mix, out) in enumerate(zip(self.products, self.mix, self.out, strict=True), start=1):
            power = product(mix(power), message)
            result = result + out(weight[k] * power) * 0.5**k
        return result


class TwoGates(Interaction):
    """Gates the messages too, before their products."""

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        super().__init__(config, lmax_in, lmax_out, num_elements)
        gate = Gate(config.lmax, config.lmax, config.num_channels)
        self.linear_message: nn.Module = nn.Sequential(self.linear_message, gate)


class NoResidual(Interaction):
    """Hands on the polynomials of the messages only."""

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        super().__init__(config, lmax_in, lmax_out, num_elements)
        self.linear_skip = None


class Identity(Interaction):
    """Adds the features as they are, instead of a linear map of them."""

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        super().__init__(config, lmax_in, lmax_out, num_elements)
        self.linear_skip: nn.Module | None = nn.Identity() if lmax_in else None
        self.skip_copies = ElementCopies(num_elements, 1, config.num_channels)


class Normalised(Interaction):
    """Normalises every degree of the features before they are sent."""

    def __init__(self, config: TDNConfig, lmax_in: int, lmax_out: int, num_elements: int) -> None:
        super().__init__(config, lmax_in, lmax_out, num_elements)
        if lmax_in:
            self.linear_in: nn.Module = nn.Sequential(Norm(lmax_in, config.num_channels), self.linear_in)


class Norm(DegreeNorm):
    """With the component first, as in `TDN`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised `x [d, N, U]`."""
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class LinearReadouts(TDN):
    """Reads energies out linearly after every layer, the last one too."""

    def __init__(self, config: TDNConfig, num_elements: int) -> None:
        super().__init__(config, num_elements)
        self.readouts = nn.ModuleList(MLP([config.num_channels, 1]) for _ in range(config.num_layers))


class LastReadout(TDN):
    """Reads energies out of the last layer only."""

    def __init__(self, config: TDNConfig, num_elements: int) -> None:
        super().__init__(config, num_elements)
        self.readouts = nn.ModuleList([*(Nothing() for _ in self.readouts[:-1]), self.readouts[-1]])


class Nothing(nn.Module):
    """No energy."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros `[N, 1]`."""
        return torch.zeros_like(x[:, :1])


def unsaturated(x: Tensor) -> Tensor:
    """Messages as they are."""
    return x


class DampedBessel(BesselBasis):
    """Bessel functions that are the smaller the faster they vary, `1/k`: radial functions start smooth."""

    def forward(self, distance: Tensor) -> Tensor:
        """Values as the basis has them on the average, `[E, num_basis]`."""
        share = self.wave_numbers.reciprocal()
        return super().forward(distance) * (share / share.square().mean().sqrt())


def damped_harmonics(directions: Tensor, lmax: int) -> Tensor:
    """Harmonics of which all degrees have the norm one, instead of `sqrt(2 l + 1)`."""
    degree = degrees(lmax).to(directions)
    return spherical_harmonics(directions, lmax) * (2.0 * degree + 1.0).rsqrt()[:, None]


class EvenProducts(NodeProducts):
    """Powers that all start at the same weight."""

    def __init__(self, config: TDNConfig, num_elements: int) -> None:
        super().__init__(config, num_elements)
        with torch.no_grad():
            for k in range(1, config.product_order):
                self.weight[:, k] *= 2.0**k


class SlowAdam(muon.Muon):
    """A quarter of the rate for what Muon does not take."""

    def step(self, closure: None = None) -> None:
        """Set the rates of these groups, as the loop has set them for all."""
        for group in self.param_groups:
            group["lr"] *= 1.0 if group["orthogonal"] else 0.25
        super().step(closure)


def linear_rate(config: TrainingConfig, step: int, fraction: float, *rest: float) -> float:
    """A learning rate that falls linearly to nothing."""
    return config.lr * min(1.0, (step + 1) / config.warmup_steps) * (1.0 - fraction)


def late_rate(config: TrainingConfig, step: int, fraction: float, *rest: float) -> float:
    """A learning rate that is constant in the first half and falls linearly in the second."""
    return config.lr * min(1.0, (step + 1) / config.warmup_steps) * min(1.0, 2.0 * (1.0 - fraction))


def fitted_table(lmax_in1: int, lmax_in2: int, lmax_out: int, *rest: Any) -> FactorTable:
    """The factors of the paper's rank, which are not exact, where there are any; take `parity=all` with them."""
    if lmax_in1 == lmax_in2 == lmax_out:
        return load_table(lmax_in1, lmax_in2, lmax_out, "all", "paper")
    return load_table(lmax_in1, lmax_in2, lmax_out, *rest)


FORMS: dict[str, tuple[Any, str, Any]] = {
    "no-gate": (network, "Gate", NoGate),
    "gate-scalars": (network, "Gate", ScalarGate),
    "gate-deep": (network, "Gate", DeepGate),
    "gate-wide": (network, "Gate", WideGate),
    "wide-messages": (network, "Interaction", WideMessages),
    "hidden-vectors": (network, "Gate", VectorGate),
    "element-pairs": (network, "Interaction", ElementPairs),
    "attention": (network, "Interaction", Attention),
    "element-maps": (network, "Interaction", ElementMaps),
    "element-messages": (network, "Interaction", ElementMessages),
    "element-skips": (network, "Interaction", ElementSkips),
    "mixed-products": (network, "NodeProducts", MixedProducts),
    "two-gates": (network, "Interaction", TwoGates),
    "no-residual": (network, "Interaction", NoResidual),
    "identity-residual": (network, "Interaction", Identity),
    "normalised": (network, "Interaction", Normalised),
    "unsaturated": (network, "saturate", unsaturated),
    "readouts-linear": (potential, "TDN", LinearReadouts),
    "readout-last": (potential, "TDN", LastReadout),
    "fitted-factors": (products, "load_table", fitted_table),
    "damped-degrees": (network, "spherical_harmonics", damped_harmonics),
    "damped-radial": (network, "BesselBasis", DampedBessel),
    "even-products": (network, "NodeProducts", EvenProducts),
    "slow-adam": (optimisation, "Muon", SlowAdam),
    "linear-rate": (loop, "learning_rate", linear_rate),
    "late-rate": (loop, "learning_rate", late_rate),
    "muon-published": (muon, "COEFFICIENTS", ((3.4445, -4.7750, 2.0315),) * 5),
    "muon-three": (
        muon,
        "COEFFICIENTS",
        ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)),
    ),
    "muon-two": (muon, "COEFFICIENTS", ((6.7525, -18.3513, 13.2636), (2.5379, -1.8747, 0.4413))),
}
"""Name -> module, name in it, what stands there instead."""


@contextlib.contextmanager
def use(name: str | None) -> Iterator[None]:
    """Networks built within this context have that form; as they are if there is no name."""
    if name is None:
        yield
        return
    with mock.patch.object(*FORMS[name]):
        yield
