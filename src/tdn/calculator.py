"""`TDNCalculator`: a potential, or a committee of them, as an ASE calculator."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from tdn.devices import choose_device
from tdn.errors import DataError
from tdn.graph import AtomGraph
from tdn.interfaces.dispersion import d3_calculator
from tdn.interfaces.engine import EngineCore
from tdn.modelfile import load_model
from tdn.models.descriptors import descriptors
from tdn.models.potential import Potential
from tdn.models.uncertainty import LastLayer, energy_uncertainty
from tdn.neighbors import SHORTEST_DISTANCE, neighbor_list
from tdn.structure import Structure

Model = str | os.PathLike[str] | Potential


class PhysicsWarning(UserWarning):
    """A calculator's potential lacks a physical property that simulations rely on."""


class VerletList:
    """Graphs of a moving structure, with a neighbour list that is rebuilt only when it has to be.

    The list reaches `r_max + skin`. It stays valid until an atom has moved more than `skin / 2` since it was built, or
    the cell, the periodicity or the elements changed in any way. Edges beyond `r_max` are left out of every graph, so
    graphs are the same with every skin (Verlet, Phys. Rev. 159, 98, 1967).

    Args:
        r_max: Cutoff of the potential, Å.
        skin: How much further the list reaches, Å; zero rebuilds it at every move.

    Attributes:
        rebuilds: How often the list was built.
    """

    def __init__(self, r_max: float, skin: float) -> None:
        self.r_max = r_max
        self.skin = skin
        self.rebuilds = 0
        self._built: tuple[Structure, AtomGraph] | None = None

    def graph(self, structure: Structure) -> AtomGraph:
        """Graph of `structure` with exactly the edges within `r_max`, sorted by receiver.

        Raises:
            DataError: If two atoms lie on top of each other.
        """
        if self._built is None or not self._covers(self._built[0], structure):
            self._built = structure, AtomGraph.from_structure(structure, self.r_max + self.skin)
            self.rebuilds += 1
        wide = dataclasses.replace(self._built[1], positions=torch.from_numpy(structure.positions))
        squares = wide.edge_vectors().square().sum(-1)
        if squares.numel() and squares.min() < SHORTEST_DISTANCE**2:
            neighbor_list(structure, self.r_max)  # raises, with the pair and the remedy
        within = squares <= self.r_max**2
        return dataclasses.replace(
            wide, senders=wide.senders[within], receivers=wide.receivers[within], shifts=wide.shifts[within]
        )

    def _covers(self, built: Structure, structure: Structure) -> bool:
        same = (
            np.array_equal(built.numbers, structure.numbers)
            and np.array_equal(built.cell, structure.cell)
            and np.array_equal(built.pbc, structure.pbc)
        )
        if not same:
            return False
        moved = np.square(structure.positions - built.positions).sum(axis=1).max()
        return bool(moved <= (self.skin / 2) ** 2)


class TDNCalculator(Calculator):
    """ASE calculator of one trained potential, or of a committee.

    Results are in ASE's units and conventions: eV, eV/Å, stress in eV/Å³ as (xx, yy, zz, yz, xz, xy), tension positive.
    `energy` and `free_energy` are the same number; `energies` holds the energy of every atom, reference energy
    included. Stress exists only for structures that are periodic in all three directions; `stresses` holds the part of
    every atom, whose sum is the stress: half of an edge's virial belongs to either end. They cost another evaluation,
    and only where they are asked for.

    For a committee the results are means over its members, and `calc.results` has the spread besides (population
    standard deviations): `energy_std` in eV, `energies_std` `[n]` in eV, and `forces_std` `[n]` in eV/Å, the root of
    the mean squared distance of a member's force on the atom from the mean force.

    `energy_uncertainty` in eV, the standard deviation to be expected of the energy's error, costs another evaluation of
    the energy: ask for it with `calc.get_property("energy_uncertainty", atoms)`, or pass `uncertainty=True` to have it
    in `calc.results` every time. A single model must have been calibrated (`tdn calibrate`); that of a committee is
    `energy_std`.

    Args:
        model: Model file, `Potential`, or a sequence of them for a committee. A `Potential` is copied: the calculator
            neither changes it nor follows its further training.
        device: `auto` (CUDA where there is one, else the CPU) or any PyTorch device.
        dtype: `float32` or `float64`; None computes in each model's own precision. Distances and sums over atoms are
            in float64 either way.
        skin: How much further than the cutoff the neighbour list reaches, Å.
        compile: Run compiled code: faster in long runs, but the first call takes up to
            a minute, and needs a C++ compiler on CPUs.
        uncertainty: Whether results always hold `energy_uncertainty`.
        dispersion: Density functional, such as `PBE`, whose D3(BJ) dispersion is added to energy, forces and stress
            (extra `dispersion`); for models whose labels have none. There are no parts of atoms then.

    Raises:
        DataError: If a committee is empty or its members know different elements.
        ModelFileError: If a file is missing, damaged or not a model.
    """

    implemented_properties: ClassVar[list[str]] = [
        *("energy", "free_energy", "energies", "forces", "stress", "stresses", "energy_uncertainty"),
    ]

    def __init__(
        self,
        model: Model | Sequence[Model],
        device: torch.device | str = "auto",
        dtype: torch.dtype | str | None = None,
        skin: float = 0.5,
        compile: bool = False,
        uncertainty: bool = False,
        dispersion: str | None = None,
    ) -> None:
        super().__init__()
        if skin < 0:
            raise DataError(f"The skin of the neighbour list must be >= 0 Å, got {skin}.")
        single = isinstance(model, (str, os.PathLike, Potential))
        members = [model] if single else list(model)
        chosen = choose_device(device)
        self.potentials = tuple(_prepare(member, chosen, _as_dtype(dtype)) for member in members)
        _check_committee(self.potentials)
        self._dispersion = d3_calculator(dispersion) if dispersion is not None else None
        self._always: frozenset[str] = frozenset({"energy_uncertainty"} if uncertainty else ())
        if uncertainty:
            self._check_calibrated()
        for potential in self.potentials if compile else ():
            potential.compile()
        reasons = dict.fromkeys(r for potential in self.potentials for r in potential.config.not_claimed.values())
        if reasons:
            text = "This potential does not claim all that simulations rely on: " + "; ".join(reasons)
            warnings.warn(text, PhysicsWarning, stacklevel=2)
        self.neighbors = VerletList(max(potential.r_max for potential in self.potentials), skin)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results` for `atoms`; ASE calls this when something changed.

        Raises:
            DataError: For unknown elements, NaN, a cell without volume, or atoms on top of each other.
            PropertyNotImplementedError: If stress is asked of a structure that is not periodic in all directions.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        structure = Structure.from_ase(cast(Atoms, self.atoms))
        periodic = bool(structure.pbc.all())
        wanted = self._always | set(properties)
        asked = {"stress", "stresses"} & wanted
        if "energy_uncertainty" in wanted:
            self._check_calibrated()
        if self._dispersion is not None and {"energies", "stresses"} & wanted:
            raise PropertyNotImplementedError("Dispersion has no energies or stresses of atoms: leave out dispersion.")
        if asked and not periodic:
            raise PropertyNotImplementedError(
                f"Stress needs a structure that is periodic in all three directions; {structure.formula} has "
                f"pbc={structure.pbc.tolist()}. Set atoms.pbc = True with a cell, or do not ask for stress."
            )
        if asked and not self._predicts_stress:
            raise PropertyNotImplementedError("This model predicts forces by themselves and has no stress.")
        if "forces" in properties and not all(potential.config.predicts_forces for potential in self.potentials):
            raise PropertyNotImplementedError("This potential predicts energies alone (forces: none).")
        self.potentials[0].check_elements(structure.numbers)
        graph = self.neighbors.graph(structure).to(self.potentials[0].device)
        members = [_as_numpy(potential(graph)) for potential in self.potentials]
        mean = {name: np.mean([member[name] for member in members], axis=0) for name in members[0]}
        energy = float(mean["energy"][0])
        self.results = {
            "energy": energy, "free_energy": energy, "energies": mean["energies"], "forces": mean["forces"]
        }  # fmt: skip
        if not all(potential.config.predicts_forces for potential in self.potentials):
            del self.results["forces"]
        if periodic and self._predicts_stress:
            self.results["stress"] = full_3x3_to_voigt_6_stress(mean["stress"][0])
        if "stresses" in asked:
            self.results["stresses"] = full_3x3_to_voigt_6_stress(-self._virials(graph) / cast(float, structure.volume))
        if len(members) > 1:
            self.results |= _spread(members)
        if "energy_uncertainty" in wanted:
            self.results["energy_uncertainty"] = (
                self.results["energy_std"] if len(members) > 1 else self._last_layer_uncertainty(graph)
            )
        if self._dispersion is not None:
            self._add_dispersion(cast(Atoms, self.atoms))

    def get_hessian(self, atoms: Atoms) -> np.ndarray:
        """Second derivatives of the energy, eV/Å², `[3n, 3n]`, a committee's mean; use `dtype="float64"`.

        Raises:
            DataError: If the potential is not conservative, or the structure cannot be used.
        """
        from tdn.simulation.hessian import hessian

        if self._dispersion is not None:
            raise DataError(
                "The analytic Hessian has no dispersion: use finite differences of forces (ase.vibrations)."
            )
        structure = Structure.from_ase(atoms)
        return np.mean([hessian(potential, structure) for potential in self.potentials], axis=0)

    def get_descriptors(self, atoms: Atoms) -> np.ndarray:
        """Invariant features of every atom, `[n, num_layers * num_channels]`; see `tdn.models.descriptors`.

        Raises:
            DataError: For a committee, a network that has none, or a structure that cannot be used.
        """
        potential, *others = self.potentials
        if others:
            raise DataError("Descriptors are those of one model: make a calculator of one member of the committee.")
        structure = Structure.from_ase(atoms)
        potential.check_elements(structure.numbers)
        graph = self.neighbors.graph(structure).to(potential.device)
        return descriptors(potential, graph).cpu().numpy().astype(np.float64)

    def _virials(self, graph: AtomGraph) -> np.ndarray:
        """Virials of the atoms, eV, `[n, 3, 3]`, a committee's mean."""
        shifts = torch.einsum("ek,kc->ec", graph.shifts, graph.cell[0])
        arguments = (graph.positions, graph.numbers, graph.senders, graph.receivers, shifts)
        return np.mean([EngineCore(p)(*arguments)[2].detach().cpu().numpy() for p in self.potentials], axis=0)

    def _add_dispersion(self, atoms: Atoms) -> None:
        calculator = cast(Calculator, self._dispersion)
        calculator.calculate(atoms.copy(), ["energy", "forces", "stress"], list(all_changes))
        self.results.pop("energies")
        for name in {"energy", "free_energy", "forces", "stress"} & self.results.keys():
            self.results[name] = self.results[name] + calculator.results["energy" if name == "free_energy" else name]

    def _check_calibrated(self) -> None:
        if len(self.potentials) == 1 and self.potentials[0].uncertainty is None:
            raise PropertyNotImplementedError(
                "This model has no uncertainties: fit them with `tdn calibrate`, or pass several models as a committee."
            )

    def _last_layer_uncertainty(self, graph: AtomGraph) -> float:
        potential = self.potentials[0]
        posterior = potential.uncertainty
        return energy_uncertainty(LastLayer(potential), posterior, graph) if posterior is not None else math.nan

    @property
    def _predicts_stress(self) -> bool:
        return all(potential.config.predicts_stress for potential in self.potentials)


def _spread(members: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    forces = np.stack([member["forces"] for member in members])
    return {
        "energy_std": float(np.std([member["energy"][0] for member in members])),
        "energies_std": np.std([member["energies"] for member in members], axis=0),
        "forces_std": np.sqrt(np.square(forces - forces.mean(axis=0)).sum(axis=-1).mean(axis=0)),
    }


def _as_numpy(prediction: Any) -> dict[str, np.ndarray]:
    return {
        field.name: getattr(prediction, field.name).detach().cpu().numpy().astype(np.float64)
        for field in dataclasses.fields(prediction)
    }


def _prepare(model: Model, device: torch.device, dtype: torch.dtype | None) -> Potential:
    if not isinstance(model, Potential):
        return load_model(model, device, dtype)
    return copy.deepcopy(model).to(device=device, dtype=dtype or model.dtype).eval()


def _check_committee(potentials: Sequence[Potential]) -> None:
    from ase.data import chemical_symbols

    if not potentials:
        raise DataError("A committee needs at least one model, got an empty list.")
    known = [" ".join(chemical_symbols[z] for z in potential.elements) for potential in potentials]
    if len(set(known)) > 1:
        raise DataError(
            f"The models of a committee must know the same elements, got {'; '.join(known)}. Leave out the ones that "
            "differ."
        )


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    known = {
        None: None,
        "float32": torch.float32,
        "float64": torch.float64,
        torch.float32: torch.float32,
        torch.float64: torch.float64,
    }
    if dtype not in known:
        raise DataError(f"dtype must be float32, float64 or None for the model's own, got {dtype!r}.")
    return known[dtype]
