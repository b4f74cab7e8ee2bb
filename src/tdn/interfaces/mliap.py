"""LAMMPS through its ML-IAP package, `pair_style mliap unified`: domain decomposition over many ranks and GPUs.

LAMMPS finds the pairs and moves the atoms. Atoms of other ranks, and periodic images, are ghosts: after every layer of
the network their features come from the rank that owns them, and in the derivative their gradients go back there. That
needs a LAMMPS with the packages ML-IAP, PYTHON and KOKKOS; see `docs/howto/lammps.md`.
"""

from __future__ import annotations

import copy
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tdn.errors import ConfigError, DataError, ExportError
from tdn.files import atomic_write
from tdn.interfaces.agreement import Agreement, comparable, require_agreement
from tdn.modelfile import load_model, save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDN
from tdn.neighbors import SHORTEST_DISTANCE
from tdn.structure import Structure


class MLIAPPotential:
    """A potential as what LAMMPS calls a unified ML-IAP model.

    It has the attributes and methods of `lammps.mliap.mliap_unified_abc.MLIAPUnified`, which LAMMPS asks for by name,
    and needs no LAMMPS to be made.

    Args:
        potential: The model, which is copied; the copy follows LAMMPS to its device.

    Attributes:
        interface: Set by LAMMPS.
        element_types: Chemical symbols; `pair_coeff * *` names one for every LAMMPS type.
        ndescriptors: LAMMPS wants one.
        nparams: LAMMPS wants one.
        rcutfac: Half the cutoff, Å: LAMMPS multiplies it by the sum of two radii of one.

    Raises:
        ConfigError: If the network cannot run on several ranks.
    """

    def __init__(self, potential: Potential) -> None:
        from ase.data import chemical_symbols

        if not isinstance(potential.network, TDN):
            raise ConfigError(
                f"ML-IAP needs a model of the architecture TDN, got {potential.config.architecture}: its layers do not "
                "exchange features between ranks."
            )
        # Custom operators compute every derivative that could be asked for: those of parameters would be for nothing.
        self.potential = copy.deepcopy(potential).eval().requires_grad_(False)
        self.interface: Any = None
        self.element_types = [chemical_symbols[z] for z in potential.elements]
        self.ndescriptors = 1
        self.nparams = 1
        self.rcutfac = 0.5 * potential.r_max

    def __reduce__(self) -> tuple[Any, ...]:
        # What LAMMPS unpickles is one call with a model file: no class of ours, and so no version of it.
        return from_bytes, (_to_bytes(self.potential),)

    def compute_gradients(self, data: Any) -> None:
        """Nothing: `compute_forces` does it all."""

    def compute_descriptors(self, data: Any) -> None:
        """Nothing: `compute_forces` does it all."""

    def compute_forces(self, data: Any) -> None:
        """Give LAMMPS the energies of its own atoms and the derivatives by all its pair vectors.

        Every rank takes part in every exchange, also one without atoms: the others wait for it.

        Args:
            data: `MLIAPDataPy` of LAMMPS: `ntotal` atoms, of which `nlistatoms` are no ghosts; `npairs` pairs of a
                receiver `pair_i`, always local, and a sender `pair_j`, at `rij = r_j - r_i`.

        Raises:
            ConfigError: For a LAMMPS without KOKKOS, or types that `pair_coeff` maps to NULL.
            DataError: For atoms on top of each other.
        """
        kokkos = "kokkos" in type(data).__module__
        if not kokkos and self.potential.config.num_layers > 1:
            raise ConfigError(
                "This LAMMPS hands no features over to ghosts, which networks of several layers need: run it with the "
                "KOKKOS package (-k on -sf kk), of a version from 2025 or later."
            )
        species = self._species(data)
        vectors, senders, receivers = self._pairs(data, species.device)
        ghosts = _LammpsGhosts(data) if kokkos else _NoGhosts(data.nlistatoms)
        with torch.enable_grad():
            vectors.requires_grad_(True)
            energies = self.potential.atomic_energies(vectors, species, senders, receivers, ghosts)
            # A rank without pairs has no forces, but its derivative answers those of the other ranks.
            (pair_forces,) = torch.autograd.grad(energies.sum(), vectors, allow_unused=True, materialize_grads=True)
        references = self.potential.reference_energies[species[: data.nlistatoms]]
        self._hand_over(data, energies.detach().double() + references, pair_forces.double(), kokkos)

    def _species(self, data: Any) -> Tensor:
        """Element indices of all atoms, `[ntotal]`, where the model then is too."""
        if not data.ntotal:
            return torch.zeros(0, dtype=torch.int64, device=self.potential.device)
        species = torch.as_tensor(data.elems).to(torch.int64)
        if species.device != self.potential.device:
            self.potential.to(species.device)
        if (species < 0).any():
            raise ConfigError("pair_coeff maps a type to NULL: name an element that the model knows for every type.")
        return species

    def _pairs(self, data: Any, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors `[E, 3]`, senders and receivers `[E]`."""
        dtype = self.potential.dtype
        if not data.npairs:  # LAMMPS has no arrays then
            nobody = torch.zeros(0, dtype=torch.int64, device=device)
            return torch.zeros(0, 3, dtype=dtype, device=device), nobody, nobody
        if device.type == "cuda":
            torch.cuda.synchronize()  # LAMMPS writes on a stream of its own
        vectors = torch.as_tensor(data.rij)
        if (shortest := float(vectors.square().sum(-1).min().sqrt())) < SHORTEST_DISTANCE:
            raise DataError(f"Two atoms are {shortest:.3f} Å apart; expected at least {SHORTEST_DISTANCE} Å.")
        # Copies: the arrays are LAMMPS', which reuses them.
        senders, receivers = (torch.as_tensor(pair).to(torch.int64) for pair in (data.pair_j, data.pair_i))
        return vectors.detach().clone().to(dtype), senders, receivers

    def _hand_over(self, data: Any, energies: Tensor, pair_forces: Tensor, kokkos: bool) -> None:
        data.energy = float(energies.sum())
        if len(energies):
            if kokkos:
                torch.as_tensor(data.eatoms).copy_(energies)
            else:
                data.eatoms = energies.numpy()
        if not len(pair_forces):
            return
        if pair_forces.device.type == "cuda":
            torch.cuda.synchronize()
            data.update_pair_forces(pair_forces.contiguous())
        else:
            data.update_pair_forces(pair_forces.contiguous().numpy())


class _NoGhosts:
    """Ghosts of a network of one layer, whose features nobody asks for."""

    def __init__(self, num_local: int) -> None:
        self.num_local = num_local

    def __call__(self, x: Tensor) -> Tensor:
        raise AssertionError("a network of one layer exchanges nothing")


class _LammpsGhosts:
    """Exchange of features through LAMMPS' own communication."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.num_local = data.nlistatoms

    def __call__(self, x: Tensor) -> Tensor:
        return _Exchange.apply(x, self.data)


class _Exchange(torch.autograd.Function):
    """Rows of ghosts become those of their owners; their gradients are added to those of their owners.

    LAMMPS wants one row for every atom and writes another array of the same shape. What it leaves in the rows of ghosts
    on the way back means nothing.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, data: Any) -> Tensor:
        ctx.data = data
        ctx.components = x.shape[0]
        rows = _rows(x)
        rows = torch.cat([rows, rows.new_zeros(data.ntotal - rows.shape[0], rows.shape[1])])
        out = torch.empty_like(rows)
        data.forward_exchange(rows, out, rows.shape[1])
        return _features(out, x.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows = _rows(gradient)
        out = torch.empty_like(rows)
        ctx.data.reverse_exchange(rows, out, rows.shape[1])
        return _features(out[: ctx.data.nlistatoms], ctx.components), None


def _rows(x: Tensor) -> Tensor:
    """Features `[d, N, U]` as `[N, d U]`."""
    return x.transpose(0, 1).reshape(x.shape[1], x.shape[0] * x.shape[2])


def _features(rows: Tensor, components: int) -> Tensor:
    """Features `[d, N, U]` from `[N, d U]`."""
    return rows.view(len(rows), components, rows.shape[1] // components).transpose(0, 1)


def from_bytes(content: bytes) -> MLIAPPotential:
    """The model in the content of a model file; what a file of `export_lammps` calls."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tdn"
        path.write_bytes(content)
        return MLIAPPotential(load_model(path))


def _to_bytes(potential: Potential) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tdn"
        save_model(path, potential)
        return path.read_bytes()


def export_lammps(
    potential: Potential, path: str | os.PathLike[str], structures: Sequence[Structure] | None = None
) -> Agreement:
    """Write the file of `pair_style mliap unified`, and compare what is in it with the model, on two ranks.

    The file is a pickle, since LAMMPS reads nothing else: of one call, `from_bytes`, with the content of a model file.

    Args:
        potential: The model.
        path: Destination; LAMMPS wants `*.pt`.
        structures: What to compare on, displaced a little; made of the model's elements if None.

    Raises:
        DataError: If the model cannot compute one of the structures.
        ExportError: For another suffix, or if the file differs from the model; nothing is written then.
    """
    from tdn.interfaces.mliap_ranks import run_on_ranks

    if Path(path).suffix != ".pt":
        raise ExportError(f"LAMMPS loads {os.fspath(path)} only if its name ends in .pt: name it so.")
    structures = comparable(potential, structures)
    unified = MLIAPPotential(potential)
    rebuild, arguments = unified.__reduce__()
    original, rebuilt = copy.deepcopy(potential).cpu(), rebuild(*arguments)
    agreement = require_agreement(lambda structure: run_on_ranks([rebuilt] * 2, structure)[:3], original, structures)
    content = io.BytesIO()
    torch.save(unified, content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getvalue())
    return agreement


def attach(lmp: Any, model: str | os.PathLike[str]) -> None:
    """Give a LAMMPS instance made in Python the model for `pair_style mliap unified EXISTS 0`, without a pickle.

    Args:
        lmp: The instance, with ML-IAP, PYTHON and KOKKOS, before its `pair_style`.
        model: Model file.

    Raises:
        ConfigError: If that LAMMPS was built without them.
    """
    try:
        from lammps.mliap import activate_mliappy_kokkos, load_unified_kokkos

        activate_mliappy_kokkos(lmp)
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"This LAMMPS has no ML-IAP with PYTHON and KOKKOS ({error}): build one as docs/howto/lammps.md says."
        ) from error
    load_unified_kokkos(MLIAPPotential(load_model(model)))
