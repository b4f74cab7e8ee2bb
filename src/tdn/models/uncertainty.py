"""Uncertainty of one model from its last layer: a linear model on top of fixed features, whose posterior is known.

The energy is linear in the last layer's weights, `E(x; w) = w . phi(x) + ...`. Training them by least squares leaves a
Gaussian posterior of covariance `alpha² H^-1`, `H = sum_train (dE/dw)(dE/dw)^T + (dF/dw)(dF/dw)^T + ridge`, so that
`var E(x) = alpha² phi(x)^T H^-1 phi(x)` (Bigi et al., 2403.02251). `alpha` is calibrated on frames that were not
trained on, for energies and forces each. This tells how far a structure is from the training data in the network's own
features; an error that the features do not show, such as a label that is wrong everywhere, it does not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tdn.errors import DataError
from tdn.graph import AtomGraph
from tdn.models.potential import Potential

# Weights drawn from the posterior for the uncertainty of forces: their standard deviation is known to 1 / sqrt(2 k).
FORCE_SAMPLES = 16


@dataclass(frozen=True)
class LastLayerPosterior:
    """Posterior of the last layer's weights of a potential, calibrated.

    Attributes:
        names: The parameters, in the order of the features.
        root: `L^-1` with `H = L L^T`, float64 `[d, d]`: `phi^T H^-1 phi = |L^-1 phi|²`.
        energy_scale: `alpha` of energies.
        forces_scale: `alpha` of forces, NaN if it was not calibrated.
        facts: What it was made of, as JSON values.
    """

    names: tuple[str, ...]
    root: Tensor
    energy_scale: float
    forces_scale: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def samples(self, count: int) -> Tensor:
        """Weights drawn from the uncalibrated posterior, `[count, d]`; the same ones every time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, len(self.root), generator=generator, dtype=torch.float64) @ self.root


def last_layer_names(potential: Potential) -> tuple[str, ...]:
    """The parameters in which the energy is linear: the last weights of every readout, and the mean binding energies.

    Raises:
        DataError: If the architecture has no such readouts.
    """
    names = [name for name, _ in potential.named_parameters()]
    layers: dict[str, str] = {}
    for name in names:
        if name.startswith("network.readouts."):
            # `network.readouts.K.weights.M`: the highest M of every K comes last.
            layers[name.rpartition(".")[0]] = name
    if not layers:
        raise DataError(
            f"{potential.config.architecture} has no readouts that are linear in their last weights: use a committee "
            "of models for uncertainties."
        )
    return (*layers.values(), "shift")


class LastLayer:
    """A potential as a function of its last layer's weights alone.

    Args:
        potential: The model, in evaluation mode.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.names = last_layer_names(potential)
        self._energies = _AtomicEnergies(potential)
        self._fixed = {f"potential.{name}": value.detach() for name, value in potential.named_parameters()}

    def energy_features(self, graph: AtomGraph) -> Tensor:
        """`dE/dw` of one structure, float64 `[d]`, on the CPU."""
        weights = self._weights()
        energy = self._energy(graph, graph.edge_vectors().to(self.potential.dtype), weights)
        return self._flat(torch.autograd.grad(energy, weights))

    def force_feature_probes(self, graph: AtomGraph, directions: Tensor) -> Tensor:
        """`d(F . v)/dw` for directions `v [k, N, 3]`, float64 `[k, d]`; for normal `v` the mean square is `sum J J^T`.

        One derivative a direction, instead of one for each of the `3 N` forces.
        """
        weights = self._weights()
        vectors = graph.edge_vectors().to(self.potential.dtype).requires_grad_(True)
        energy = self._energy(graph, vectors, weights)
        (gradient,) = torch.autograd.grad(energy, vectors, create_graph=True)
        rows = []
        for direction in directions.to(gradient):
            along = direction[graph.senders] - direction[graph.receivers]
            rows.append(self._flat(torch.autograd.grad(-(gradient * along).sum(), weights, retain_graph=True)))
        return torch.stack(rows)

    def forces(self, graph: AtomGraph, change: Tensor) -> Tensor:
        """`sum_k change_k dF/dw_k`: forces of the energy whose last layer is `change [d]`, float64 `[N, 3]`."""
        vectors = graph.edge_vectors().to(self.potential.dtype).requires_grad_(True)
        (gradient,) = torch.autograd.grad(self._energy(graph, vectors, self._split(change)), vectors)
        forces = torch.zeros_like(graph.positions)
        gradient = gradient.to(forces)
        return forces.index_add(0, graph.senders, -gradient).index_add(0, graph.receivers, gradient)

    def _energy(self, graph: AtomGraph, vectors: Tensor, weights: list[Tensor]) -> Tensor:
        named = {f"potential.{name}": value for name, value in zip(self.names, weights, strict=True)}
        species = self.potential.element_index[graph.numbers]
        arguments = (vectors, species, graph.senders, graph.receivers)
        with torch.enable_grad():
            return torch.func.functional_call(self._energies, {**self._fixed, **named}, arguments).sum()

    def _weights(self) -> list[Tensor]:
        return [self._fixed[f"potential.{name}"].clone().requires_grad_(True) for name in self.names]

    def _flat(self, gradients: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in gradients]).detach().double().cpu()

    def _split(self, flat: Tensor) -> list[Tensor]:
        shapes = [self._fixed[f"potential.{name}"] for name in self.names]
        pieces = flat.split([weights.numel() for weights in shapes])
        return [piece.view_as(weights).to(weights) for piece, weights in zip(pieces, shapes, strict=True)]


class _AtomicEnergies(nn.Module):
    """So that parameters can be replaced while a method other than `forward` runs."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        return self.potential.atomic_energies(vectors, species, senders, receivers)


def energy_uncertainty(layer: LastLayer, posterior: LastLayerPosterior, graph: AtomGraph) -> float:
    """Standard deviation of the energy of one structure, eV."""
    return posterior.energy_scale * float((posterior.root @ layer.energy_features(graph)).norm())


def forces_uncertainty(layer: LastLayer, posterior: LastLayerPosterior, graph: AtomGraph) -> Tensor:
    """Root mean square error to be expected of the force on every atom (of the vector), eV/Å, float64 `[N]`."""
    squares = sum(layer.forces(graph, change).square().sum(-1) for change in posterior.samples(FORCE_SAMPLES))
    return posterior.forces_scale * torch.as_tensor(squares / FORCE_SAMPLES).sqrt()
