"""Export to metatomic: one TorchScript file for LAMMPS, GROMACS, PLUMED, i-PI, EON, chemiscope and ASE.

The network is traced in PyTorch's own operators, and a small scripted module around it speaks metatomic's language, so
that no engine needs `tdn`. Engines differentiate the energy themselves.
"""

# No `from __future__ import annotations`: TorchScript reads these annotations as types.

import copy
import json
import os
import warnings
from collections.abc import Sequence
from typing import Any, Dict, List, Optional, Tuple  # noqa: UP035 - TorchScript knows these

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tdn.errors import ConfigError, ExportError
from tdn.files import atomic_write, require_space
from tdn.interfaces.agreement import EXPORT_BYTES, Agreement, Array, Evaluate, comparable, require_agreement
from tdn.interfaces.engine import EngineCore, describe
from tdn.models.compiled import EXAMPLE_ATOMS, EXAMPLE_EDGES
from tdn.models.potential import Potential
from tdn.nn.kernels import PlainOperators
from tdn.structure import Structure

try:
    from metatensor.torch import Labels, TensorBlock, TensorMap  # pyright: ignore[reportAttributeAccessIssue]
    from metatomic.torch import (
        AtomisticModel,
        ModelCapabilities,
        ModelMetadata,
        ModelOutput,
        NeighborListOptions,
        System,
    )
except ImportError as error:
    raise ConfigError(f"metatomic is not installed ({error}): pip install 'tdn[metatomic]'.") from error


class MetatomicModel(nn.Module):
    """Energies of systems, or of their atoms, in metatomic's interface.

    Positions are in the precision that the engine uses; the network computes in its own.

    Args:
        potential: The model.
    """

    element_index: Tensor
    reference_energies: Tensor

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        core = EngineCore(potential)
        self.core = _trace(potential)
        self.cutoff = potential.r_max
        self.register_buffer("element_index", core.element_index)
        self.register_buffer("reference_energies", core.reference_energies)
        # Only tells the precision, wherever the model goes.
        self.register_buffer("precision", torch.zeros(0, dtype=potential.dtype))

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        """Every ordered pair within the cutoff; longer lists do no harm."""
        return [NeighborListOptions(cutoff=self.cutoff, full_list=True, strict=False)]

    def atomic_energies(self, system: System) -> Tensor:
        """Energies of all atoms of one system, float64 `[N]`."""
        numbers = system.types.to(torch.int64)
        neighbors = system.get_neighbor_list(self.requested_neighbor_lists()[0])
        vectors = neighbors.values.reshape(-1, 3).to(self.precision.dtype)
        receivers = neighbors.samples.column("first_atom").to(torch.int64)
        senders = neighbors.samples.column("second_atom").to(torch.int64)
        energies = self.core(vectors, self.element_index[numbers], senders, receivers)
        return energies.to(torch.float64) + self.reference_energies[numbers]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """The energies that `outputs` asks for, of the atoms in `selected_atoms`, all if None."""
        results: Dict[str, TensorMap] = {}  # noqa: UP006
        if "energy" not in outputs:
            return results
        of_atoms = outputs["energy"].sample_kind == "atom"
        device = systems[0].positions.device
        values: List[Tensor] = []  # noqa: UP006
        samples: List[Tensor] = []  # noqa: UP006
        for index, system in enumerate(systems):
            energies = self.atomic_energies(system)
            atoms = torch.arange(len(system), device=device)
            if selected_atoms is not None:
                chosen = selected_atoms.column("system").to(torch.int64) == index
                atoms = selected_atoms.column("atom").to(torch.int64)[chosen]
                energies = energies[atoms]
            if of_atoms:
                values.append(energies)
                samples.append(torch.stack([torch.full_like(atoms, index), atoms], dim=1))
            else:
                values.append(energies.sum().reshape(1))
                samples.append(torch.full((1, 1), index, device=device))
        names = ["system", "atom"] if of_atoms else ["system"]
        block = TensorBlock(
            values=torch.cat(values).reshape(-1, 1).to(systems[0].positions.dtype),
            samples=Labels(names, torch.cat(samples).to(torch.int32)),
            components=torch.jit.annotate(List[Labels], []),  # noqa: UP006
            properties=Labels(["energy"], torch.zeros(1, 1, dtype=torch.int32, device=device)),
        )
        key = Labels(["_"], torch.zeros(1, 1, dtype=torch.int32, device=device))
        results["energy"] = TensorMap(keys=key, blocks=[block])
        return results


class _Energies(nn.Module):
    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        return self.potential.atomic_energies(vectors, species, senders, receivers)


class _ConstantShapes(TorchFunctionMode):
    """Sizes of parameters are numbers, not results of the trace, which computes with them in single precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        getter: Any = torch.Tensor.shape
        if func == getter.__get__ and isinstance(args[0], nn.Parameter):
            return torch.Size(int(size) for size in result)
        return result


def _trace(potential: Potential) -> torch.jit.ScriptModule:
    """Energies of atoms above their references as a TorchScript graph, for any number of atoms and edges."""
    index = torch.arange(EXAMPLE_EDGES, device=potential.device)
    example = (
        torch.randn(EXAMPLE_EDGES, 3, dtype=potential.dtype, device=potential.device),
        torch.zeros(EXAMPLE_ATOMS, dtype=torch.int64, device=potential.device),
        index % EXAMPLE_ATOMS,
        (index * EXAMPLE_ATOMS) // EXAMPLE_EDGES,
    )
    with PlainOperators(), _ConstantShapes(), warnings.catch_warnings():
        # PyTorch advises against TorchScript, which metatomic is made of, and against loops over constant dimensions.
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(_Energies(potential), example, check_trace=False)
    foreign = sorted({node.kind() for node in traced.inlined_graph.nodes() if node.kind().startswith("tdn::")})
    if foreign:
        raise ExportError(f"The operators {', '.join(foreign)} have no plain form in tdn.nn.kernels.PLAIN_FORMS.")
    return traced


def metatomic_model(potential: Potential, name: str = "tdn") -> AtomisticModel:
    """A potential as a metatomic model in memory.

    Engines hand over positions in float64 whatever the precision of the network, so that total energies keep their
    digits.
    """
    model = copy.deepcopy(potential).eval()
    message_passing = getattr(model.config, "num_layers", 1)
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom", description="energy with references")},
        atomic_types=list(model.elements),
        interaction_range=message_passing * model.r_max,
        length_unit="angstrom",
        supported_devices=["cuda", "cpu"],
        dtype="float64",
    )
    metadata = ModelMetadata(
        name=name,
        references={"architecture": ["https://arxiv.org/abs/2507.01131"]},
        extra={"tdn": json.dumps(describe(model))},
    )
    module: Any = MetatomicModel(model).eval()
    return AtomisticModel(module, metadata, capabilities)


def export_metatomic(
    potential: Potential, path: str | os.PathLike[str], structures: Sequence[Structure] | None = None
) -> Agreement:
    """Write `potential` to `path`, usually `*.pt`, and compare the two through metatomic's ASE calculator.

    Raises:
        DataError: If the model cannot compute one of the structures.
        ExportError: If the file differs from the model; nothing is written then.
        OSError: If the file cannot be written or the disk is nearly full.
    """
    structures = comparable(potential, structures)
    require_space(path, EXPORT_BYTES)  # PyTorch ends the process where the disk is full
    model = metatomic_model(potential, os.path.splitext(os.path.basename(path))[0])
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # metatomic warns about other suffixes.
        file = temporary.with_suffix(".pt")
        try:
            model.save(str(file))
            agreement = require_agreement(_run(str(file), potential), potential, structures)
            file.replace(temporary)
        finally:
            file.unlink(missing_ok=True)
    return agreement


def _run(path: str, potential: Potential) -> Evaluate:
    from metatomic_ase import MetatomicCalculator

    calculator = MetatomicCalculator(path, device=str(potential.device))

    def evaluate(structure: Structure) -> Tuple[float, Array, Optional[Array]]:  # noqa: UP006, UP045
        atoms = structure.to_ase()
        atoms.calc = calculator
        stress = atoms.get_stress(voigt=False) if structure.pbc.all() else None
        return float(atoms.get_potential_energy()), atoms.get_forces(), stress

    return evaluate
