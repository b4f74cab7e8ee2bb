"""Energies and edge forces as one compiled graph: the force derivative is traced, not taken at run time.

The trace holds the network and its derivative as plain tensor operations with dynamic numbers of atoms and edges, so
that the compiler fuses across both, and training can differentiate the result once more. Compilation happens on the
first call, once for training and once for evaluation; PyTorch caches its result on disk for later processes.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tdn.models.potential import Potential

# Sizes of the example that is traced: any that coincide with no other dimension of the network.
EXAMPLE_ATOMS, EXAMPLE_EDGES = 11, 29


def compiler_available() -> bool:
    """Whether this machine has the C++ compiler that PyTorch's CPU code generation needs."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


class CompiledCore:
    """Compiled form of `Potential.energies_and_edge_forces`, for one device and precision.

    Args:
        potential: The potential; its parameters are read at every call, so training and averaging them is seen.
    """

    def __init__(self, potential: Potential) -> None:
        from torch._decomp import core_aten_decompositions
        from torch.fx.experimental.proxy_tensor import make_fx

        self.names = [name for name, _ in potential.named_parameters()]
        self.potential = potential

        def core(parameters: list[Tensor], *arguments: Tensor) -> tuple[Tensor, Tensor]:
            bound = _Bound(potential)
            weights = {f"potential.{name}": value for name, value in zip(self.names, parameters, strict=True)}
            return torch.func.functional_call(bound, weights, arguments)

        device = potential.device
        index = torch.arange(EXAMPLE_EDGES, device=device)
        example = (
            torch.randn(EXAMPLE_EDGES, 3, dtype=potential.dtype, device=device),
            torch.zeros(EXAMPLE_ATOMS, dtype=torch.int64, device=device),
            index % EXAMPLE_ATOMS,
            (index * EXAMPLE_ATOMS) // EXAMPLE_EDGES,
        )
        trace = make_fx(
            core,
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
            decomposition_table=core_aten_decompositions(),  # pyright: ignore[reportArgumentType]
        )
        self.run = torch.compile(trace(self._parameters(), *example), dynamic=True)

    def _parameters(self) -> list[Tensor]:
        parameters = dict(self.potential.named_parameters())
        return [parameters[name] for name in self.names]

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """Energies above reference `[N]` and edge forces `[E, 3]`; see `Potential.energies_and_edge_forces`."""
        return self.run(self._parameters(), *arguments)


class _Bound(torch.nn.Module):
    """A module whose forward is the eager physics, so that its parameters can be made inputs of the trace."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> tuple[Tensor, Tensor]:
        return self.potential.eager_energies_and_edge_forces(vectors, species, senders, receivers, create_graph=True)
