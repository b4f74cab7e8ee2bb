"""`Potential`: a network plus reference energies, as total energies, forces and stress in eV, eV/Å and eV/Å³."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tdn.errors import DataError
from tdn.graph import AtomGraph, Prediction
from tdn.memory import keep_freed_memory
from tdn.models.compiled import CompiledCore, compiler_available
from tdn.models.config import ModelConfig
from tdn.models.tdn import TDN, Ghosts, TDNConfig
from tdn.nn.constants import Constants
from tdn.nn.kernels import gather, scatter_sum
from tdn.nn.radial import polynomial_envelope
from tdn.nn.repulsion import Repulsion

if TYPE_CHECKING:
    from tdn.models.uncertainty import LastLayerPosterior

# An atom counts as bound once a neighbour is well inside the cutoff; see `Potential.forward`.
BINDING_SHARPNESS = 4.0


class Potential(Constants):
    """Conservative potential of a network of atomic energies.

    `E = sum_i [E0(Z_i) + b(i) shift(Z_i) + scale * network(i)]`, where `b(i)` goes smoothly from 0 for a lone atom to 1
    for a bound one, so that the energies of isolated atoms stay exactly at their references while the network need
    not learn the mean binding energy. With `zbl` in the configuration the ZBL repulsion of close nuclei is added
    (`tdn.nn.repulsion`). Forces and stress are the derivatives of E.

    Args:
        config: Network shape.
        reference_energies: E0 in eV by atomic number; its keys are the elements that the potential knows.
        scale: Output scale of the network, eV; usually the RMS force component of the training data.
        shifts: Mean binding energy in eV by atomic number; zero where missing.
    """

    element_index: Tensor
    reference_energies: Tensor
    network_scale: Tensor

    def __init__(
        self,
        config: ModelConfig,
        reference_energies: Mapping[int, float],
        scale: float = 1.0,
        shifts: Mapping[int, float] | None = None,
    ) -> None:
        # A buffer besides the number, so that compiled code of one data set serves the next one.
        super().__init__({"network_scale": np.array(float(scale))})
        self.config = config
        # Set by `tdn calibrate`; new weights need a new one.
        self.uncertainty: LastLayerPosterior | None = None
        self._compile = False
        self._core: CompiledCore | None = None
        self.elements: tuple[int, ...] = tuple(sorted(reference_energies))
        self.network = self.build_network()
        self.repulsion = Repulsion(self.elements, config.r_max) if config.repulsive else None
        self.scale = float(scale)
        start = [(shifts or {}).get(z, 0.0) / self.scale for z in self.elements]
        self.shift = nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))
        index = torch.full((119,), -1, dtype=torch.int64)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("element_index", index, persistent=False)
        energies = torch.tensor([reference_energies[z] for z in self.elements], dtype=torch.float64)
        self.register_buffer("reference_energies", energies, persistent=False)

    def build_network(self) -> nn.Module:
        """The network with fresh weights; potentials of other architectures build their own."""
        if not isinstance(self.config, TDNConfig):
            raise TypeError(f"Potential takes a TDNConfig, got {type(self.config).__name__}: use build_potential.")
        return TDN(self.config, len(self.elements))

    def _apply(self, fn, recurse: bool = True) -> nn.Module:
        energies = self.reference_energies
        super()._apply(fn, recurse)
        # Compiled code holds copies of the factors in the old precision, on the old device.
        self._core = None
        # Total energies reach 1e5 eV: they stay in float64 whatever the network's precision.
        self.reference_energies = energies.to(self.reference_energies.device)
        return self

    def __getstate__(self) -> dict[str, object]:
        # Compiled code belongs to this object's parameters; a copy compiles its own.
        return {**self.__dict__, "_core": None}

    @property
    def r_max(self) -> float:
        """Cutoff of the neighbour list, Å."""
        return self.config.r_max

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return self.shift.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.shift.device

    def check_elements(self, numbers: Tensor | NDArray[np.int64] | Sequence[int]) -> None:
        """Refuse elements that the potential was not trained on.

        Raises:
            DataError: Naming the unknown elements and the known ones.
        """
        unknown = set(torch.as_tensor(numbers).unique().tolist()) - set(self.elements)
        if unknown:
            from ase.data import chemical_symbols

            names = ", ".join(chemical_symbols[z] for z in sorted(unknown))
            known = ", ".join(chemical_symbols[z] for z in self.elements)
            raise DataError(
                f"This potential knows {known}; the structure also has {names}. Train one that covers them."
            )

    def atomic_energies(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, ghosts: Ghosts | None = None
    ) -> Tensor:
        """Energy of every atom above its reference, eV, `[N]`, from edge vectors `[E, 3]` and element indices `[N]`.

        With `ghosts`, those of the local atoms, `[num_local]`.
        """
        energies = self.network(vectors, species, senders, receivers, ghosts)
        local = energies.shape[0]
        distance = vectors.square().sum(-1).sqrt()
        envelope = polynomial_envelope(distance, self.r_max)
        bound = -torch.expm1(-BINDING_SHARPNESS * scatter_sum(envelope, receivers, local))
        energies = self.network_scale * (energies + bound * gather(self.shift, species[:local]))
        if self.repulsion is None:
            return energies
        return energies + self.repulsion(distance, species, senders, receivers)[:local]

    def energies_above_reference(self, graph: AtomGraph) -> Tensor:
        """Energy of every atom of `graph` above its reference, eV, `[N]`: what `forward` adds the references to."""
        vectors = graph.edge_vectors().to(self.dtype)
        return self.atomic_energies(vectors, self.element_index[graph.numbers], graph.senders, graph.receivers)

    def compile(self) -> None:
        """Run compiled code from now on, forces included; the first call of training and of evaluation compiles.

        On a CPU the process also keeps the memory that it frees (`tdn.memory`). Without a C++ compiler the eager code
        keeps running, with a warning.
        """
        if self.device.type == "cpu" and not compiler_available():
            warnings.warn("No C++ compiler found (g++ or clang++): running eager code, which is slower.", stacklevel=2)
            return
        if self.device.type == "cpu":
            keep_freed_memory()
        self._compile = True

    def energies_and_edge_forces(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Energies above reference `[N]` and `-dE/d(vector)` `[E, 3]`: the whole physics, in tensors only.

        Forces and stress are both linear in the edge forces, so one derivative gives everything; compilers and
        simulation engines that work on edges start from here.
        """
        # Compilers specialise on sizes 0 and 1; such graphs cost nothing in eager mode.
        if not self._compile or vectors.shape[0] < 2 or species.shape[0] < 2:
            return self.eager_energies_and_edge_forces(vectors, species, senders, receivers, create_graph)
        if self._core is None:
            self._core = CompiledCore(self, self.eager_energies_and_edge_forces)
        with torch.set_grad_enabled(create_graph):
            return self._core(vectors.detach(), species, senders, receivers)

    def eager_energies_and_edge_forces(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The same without the compiler: the reference."""
        with torch.enable_grad(), contextlib.nullcontext() if create_graph else without_parameter_gradients(self):
            vectors = vectors.detach().requires_grad_(True)
            energies = self.atomic_energies(vectors, species, senders, receivers)
            if not vectors.shape[0]:
                return energies, torch.zeros_like(vectors)
            (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=create_graph)
        return energies, -gradient

    def forward(self, graph: AtomGraph) -> Prediction:
        """Energies, forces and stress of the structures in `graph`; differentiable in the parameters if training."""
        species = self.element_index[graph.numbers]
        vectors = graph.edge_vectors()
        energies, edge_forces = self.energies_and_edge_forces(
            vectors.to(self.dtype), species, graph.senders, graph.receivers, create_graph=self.training
        )
        if not self.training:
            energies = energies.detach()
        return assemble(graph, vectors, energies, edge_forces, self.reference_energies[species])


@contextlib.contextmanager
def without_parameter_gradients(module: nn.Module) -> Iterator[None]:
    """Within this context only other derivatives are computed.

    Custom operators compute every derivative that could be asked for, whether it is or not.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def assemble(
    graph: AtomGraph, vectors: Tensor, energies: Tensor, edge_forces: Tensor, reference_energies: Tensor
) -> Prediction:
    """Total energies, forces and stress from atomic energies and edge forces.

    With `v_e = r_sender - r_receiver` and `f_e = -dE/dv_e`, the force on atom `i` is the sum of `f_e` over the edges
    that it sends less those that it receives, and the stress is `-(1/V) sum_e v_e f_e^T`.

    Args:
        graph: The structures.
        vectors: Edge vectors, Å, float64 `[E, 3]`.
        energies: Above reference, eV, `[N]`.
        edge_forces: `-dE/dv`, eV/Å, `[E, 3]`.
        reference_energies: Of each atom, eV, float64 `[N]`.
    """
    forces = edge_forces.new_zeros(graph.num_atoms, 3)
    forces = forces.index_add(0, graph.senders, edge_forces).index_add(0, graph.receivers, -edge_forces)
    total = energies.double() + reference_energies
    virial = torch.einsum("ea,eb->eab", vectors.to(edge_forces.dtype), edge_forces)
    edge_graph = graph.batch[graph.receivers]
    virial = virial.new_zeros(graph.num_graphs, 3, 3).index_add(0, edge_graph, virial)
    # A volume of one where there is none keeps the gradients of the branch not taken finite.
    volume = torch.where(graph.periodic, torch.linalg.det(graph.cell).abs(), 1.0)
    # The virial of a pair potential is symmetric only up to rounding; the stress is symmetric by definition.
    stress = -0.5 * (virial + virial.transpose(1, 2)) / volume[:, None, None].to(virial.dtype)
    stress = torch.where(graph.periodic[:, None, None], stress, torch.full_like(stress, torch.nan))
    energy = total.new_zeros(graph.num_graphs).index_add(0, graph.batch, total)
    return Prediction(energy=energy, energies=total, forces=forces, stress=stress)
