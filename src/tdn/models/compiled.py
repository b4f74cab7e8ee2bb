"""Energies and edge forces as one compiled graph: the force derivative is traced, not taken at run time.

The trace holds the network and its derivative as plain tensor operations with dynamic numbers of atoms and edges, so
that the compiler fuses across both, and training can differentiate the result once more. Compilation happens on the
first call, once for training and once for evaluation; PyTorch caches its result on disk for later processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

Physics = Callable[..., tuple[Tensor, Tensor]]

# Sizes of the example that is traced: any that coincide with no other dimension of the network.
EXAMPLE_ATOMS, EXAMPLE_EDGES = 11, 29


def compiler_available() -> bool:
    """Whether this machine has the C++ compiler that PyTorch's CPU code generation needs."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


class CompiledCore:
    """Compiled form of a module's function from edges to energies and edge forces, for one device and precision.

    Args:
        module: Owner of the parameters; they are read at every call, so that training them is seen.
        function: One of its methods, as `Potential.eager_energies_and_edge_forces`: takes edge vectors `[E, 3]`,
            species `[N]`, senders and receivers `[E]`, and returns energies `[N]` and edge forces `[E, 3]`.
    """

    def __init__(self, module: nn.Module, function: Physics) -> None:
        from torch._decomp import core_aten_decompositions
        from torch.fx.experimental.proxy_tensor import make_fx

        self.module = module
        names = [f"module.{name}" for name, _ in module.named_parameters()]

        def core(parameters: list[Tensor], *arguments: Tensor) -> tuple[Tensor, Tensor]:
            return torch.func.functional_call(
                _Bound(module, function), dict(zip(names, parameters, strict=True)), arguments
            )

        first = next(module.parameters())
        index = torch.arange(EXAMPLE_EDGES, device=first.device)
        example = (
            torch.randn(EXAMPLE_EDGES, 3, dtype=first.dtype, device=first.device),
            torch.zeros(EXAMPLE_ATOMS, dtype=torch.int64, device=first.device),
            index % EXAMPLE_ATOMS,
            (index * EXAMPLE_ATOMS) // EXAMPLE_EDGES,
        )
        trace = make_fx(
            core,
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
            decomposition_table=core_aten_decompositions(),  # pyright: ignore[reportArgumentType]
        )
        self.run = torch.compile(trace(list(module.parameters()), *example), dynamic=True)

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """Energies `[N]` and edge forces `[E, 3]`, differentiable in the parameters where gradients are enabled."""
        return self.run(list(self.module.parameters()), *arguments)


class _Bound(nn.Module):
    """A module whose forward is a method of another one, so that the parameters can be made inputs of a trace."""

    def __init__(self, module: nn.Module, function: Physics) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        return self.function(*arguments, create_graph=True)
