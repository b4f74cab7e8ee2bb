"""Export to an AOTInductor package: compiled code and weights in one `.pt2` file that PyTorch runs without `tdn`.

The function inside is `EngineCore`; `docs/howto/export.md` states its inputs and outputs.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tdn.errors import ExportError
from tdn.files import atomic_write, require_space
from tdn.interfaces.agreement import EXPORT_BYTES, Agreement, Array, Evaluate, comparable, require_agreement
from tdn.interfaces.engine import EngineCore, describe, engine_arguments
from tdn.models.compiled import EXAMPLE_ATOMS, EXAMPLE_EDGES, compiler_available
from tdn.models.potential import Potential
from tdn.nn.kernels import PlainOperators
from tdn.structure import Structure

# Key of our JSON among the package's own metadata.
METADATA_KEY = "tdn"


def export_aoti(
    potential: Potential, path: str | os.PathLike[str], structures: Sequence[Structure] | None = None
) -> Agreement:
    """Compile `potential` to `path` for the device and precision that it has, and compare the two.

    Args:
        potential: The model.
        path: Destination, `*.pt2`; written only if the package agrees with the model.
        structures: What to compare on, displaced a little; made of the model's elements if None.

    Raises:
        DataError: If the model cannot compute one of the structures.
        ExportError: If there is no C++ compiler or the package differs from the model.
        OSError: If the file cannot be written or the disk is nearly full.
    """
    if not compiler_available():
        raise ExportError("AOTInductor needs a C++ compiler: install g++ or clang++ and export again.")
    structures = comparable(potential, structures)
    require_space(path, EXPORT_BYTES)  # PyTorch ends the process where the disk is full
    program = torch.export.export(trace(potential), _example(potential.device), dynamic_shapes=_dynamic_shapes())
    metadata = {METADATA_KEY: json.dumps(describe(potential))}
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, about itself
        package = temporary.with_suffix(".pt2")
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(package), inductor_configs={"aot_inductor.metadata": metadata}
            )
            agreement = require_agreement(run_package(package, potential), potential, structures)
            shutil.move(package, temporary)
        finally:
            package.unlink(missing_ok=True)
    return agreement


def trace(potential: Potential) -> nn.Module:
    """`EngineCore` and the derivative in it as one graph of PyTorch's own operators.

    Raises:
        ExportError: If a custom operator is left in it.
    """
    from torch._decomp import core_aten_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    core = EngineCore(potential.eval())
    with PlainOperators():
        graph = make_fx(
            core,
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
            decomposition_table=core_aten_decompositions(),  # pyright: ignore[reportArgumentType]
        )(*_example(potential.device))
    foreign = sorted({str(node.target) for node in graph.graph.nodes if str(node.target).startswith("tdn.")})
    if foreign:
        raise ExportError(f"The operators {', '.join(foreign)} have no plain form in tdn.nn.kernels.PLAIN_FORMS.")
    return graph


def run_package(path: str | os.PathLike[str], potential: Potential) -> Evaluate:
    """The package at `path` as a function of a structure."""
    package: Any = torch._inductor.aoti_load_package(str(path))

    def evaluate(structure: Structure) -> tuple[float, Array, Array | None]:
        arguments = engine_arguments(structure, potential.r_max)
        energies, forces, virials = package(*(argument.to(potential.device) for argument in arguments))
        stress = None if structure.volume is None else -virials.sum(0).cpu().numpy() / structure.volume
        return float(energies.sum()), forces.cpu().numpy(), stress

    return evaluate


def _example(device: torch.device) -> tuple[Tensor, ...]:
    """Arguments to trace with; the sizes coincide with no other dimension, the elements need not be known."""
    index = torch.arange(EXAMPLE_EDGES, device=device)
    return (
        torch.randn(EXAMPLE_ATOMS, 3, dtype=torch.float64, device=device),
        torch.ones(EXAMPLE_ATOMS, dtype=torch.int64, device=device),
        index % EXAMPLE_ATOMS,
        (index * EXAMPLE_ATOMS) // EXAMPLE_EDGES,
        torch.zeros(EXAMPLE_EDGES, 3, dtype=torch.float64, device=device),
    )


def _dynamic_shapes() -> tuple[dict[int, Any], ...]:
    atoms, edges = torch.export.Dim("atoms"), torch.export.Dim("edges")
    return {0: atoms}, {0: atoms}, {0: edges}, {0: edges}, {0: edges}
