"""Ensembles of molecular dynamics: ASE's integrators, and everything of theirs that an exact restart needs."""

from __future__ import annotations

import importlib
import operator
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase import Atoms, units
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from numpy.typing import NDArray

from tdn.errors import ConfigError, DataError

# What each ensemble's integrator remembers beyond positions, momenta and cell.
THERMOSTAT = ("_thermostat._eta", "_thermostat._p_eta")
BAROSTAT = (*THERMOSTAT, "_barostat._xi", "_barostat._p_xi")
MEMORY: dict[str, tuple[str, ...]] = {
    "nve": (),
    "langevin": (),
    "nose-hoover": THERMOSTAT,
    "npt": (*BAROSTAT, "_eps", "_p_eps", "_volume0", "_cell0"),
    "npt-cell": (*BAROSTAT, "_p_g"),
}
CONSTANT_PRESSURE = ("npt", "npt-cell")
# Integrators with chains of thermostats, by their name in ASE.
CHAINS = {"nose-hoover": "NoseHooverChainNVT", "npt": "IsotropicMTKNPT", "npt-cell": "MTKNPT"}


@dataclass(frozen=True)
class Ensemble:
    """What is held constant, and how.

    Attributes:
        name: `nve`; `langevin` or `nose-hoover` for constant temperature; `npt` or `npt-cell` for constant pressure
            besides (Martyna-Tobias-Klein, doi:10.1063/1.467468): the cell keeps its shape in the first, and all of it
            changes in the second.
        temperature: K; of the initial velocities, and of the thermostat.
        timestep: fs.
        pressure: eV/Å³; of `npt` and `npt-cell`.
        friction: Of `langevin`, 1/ps.
        tdamp: Period of the thermostat of all but `langevin`, fs.
        pdamp: Period of the barostat, fs.
        seed: Of velocities and random forces.
    """

    name: str = "nve"
    temperature: float = 300.0
    timestep: float = 0.5
    pressure: float = 0.0
    friction: float = 10.0
    tdamp: float = 100.0
    pdamp: float = 1000.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in MEMORY:
            raise ConfigError(f"The ensemble must be one of {', '.join(MEMORY)}, got {self.name!r}.")
        for name in ("timestep", "friction", "tdamp", "pdamp"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, got {getattr(self, name)}.")
        if not self.temperature >= 0 or (self.name != "nve" and self.temperature == 0):
            raise ConfigError(f"The temperature must be > 0 K with a thermostat, got {self.temperature}.")

    def check(self, atoms: Atoms) -> None:
        """Refuse structures that this ensemble cannot move.

        Raises:
            DataError: For constant pressure without periodicity in all directions, and where ASE's integrator has no
                constraints.
        """
        if self.name in CONSTANT_PRESSURE and not atoms.pbc.all():
            raise DataError(f"Constant pressure needs a periodic cell in all directions, got pbc={atoms.pbc.tolist()}.")
        if atoms.constraints and self.name in CHAINS:
            raise DataError(f"ASE's {self.name} moves fixed atoms too: use langevin or nve, or remove the constraints.")

    def start(self, atoms: Atoms, rng: np.random.Generator) -> None:
        """Give `atoms` random velocities at the temperature, without drift and, for molecules, without rotation."""
        MaxwellBoltzmannDistribution(atoms, temperature_K=self.temperature, rng=rng)
        if len(atoms) > 1 and not atoms.constraints:
            Stationary(atoms)
            # A periodic cell has no axis to turn about.
            if not atoms.pbc.any():
                ZeroRotation(atoms)

    def dynamics(self, atoms: Atoms, rng: np.random.Generator) -> MolecularDynamics:
        """ASE's integrator for `atoms`, which have velocities and a calculator.

        Raises:
            ConfigError: If the installed ASE does not have it yet.
        """
        from ase.md.langevin import Langevin
        from ase.md.verlet import VelocityVerlet

        step: float = self.timestep * units.fs
        heat: dict[str, Any] = {"temperature_K": self.temperature}
        if self.name == "nve":
            return VelocityVerlet(atoms, step)
        if self.name == "langevin":
            return Langevin(atoms, step, friction=self.friction / (1000 * units.fs), fixcm=False, rng=rng, **heat)
        damping = {"tdamp": self.tdamp * units.fs}
        if self.name in CONSTANT_PRESSURE:
            damping |= {"pressure_au": self.pressure, "pdamp": self.pdamp * units.fs}
        return _chain_integrator(self.name)(atoms, step, **heat, **damping)

    def memory(self, dynamics: MolecularDynamics) -> dict[str, NDArray[np.float64]]:
        """What the integrator remembers, by name."""
        return {name: np.array(operator.attrgetter(name)(dynamics), dtype=np.float64) for name in MEMORY[self.name]}

    def recall(self, dynamics: MolecularDynamics, memory: dict[str, NDArray[np.float64]]) -> None:
        """Make the integrator remember."""
        for name in MEMORY[self.name]:
            owner, _, attribute = name.rpartition(".")
            target: Any = operator.attrgetter(owner)(dynamics) if owner else dynamics
            value = memory[name]
            setattr(target, attribute, float(value) if value.ndim == 0 else value.copy())

    def conserved(self, dynamics: MolecularDynamics, total: float) -> float | None:
        """The energy that exact integration conserves, eV; None for `langevin`, which conserves none."""
        if self.name == "nve":
            return total
        return None if self.name == "langevin" else float(dynamics.get_conserved_energy())  # pyright: ignore


def _chain_integrator(ensemble: str) -> Any:
    try:
        return getattr(importlib.import_module("ase.md.nose_hoover_chain"), CHAINS[ensemble])
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{ensemble} needs ASE's {CHAINS[ensemble]}, which ASE {ase.__version__} lacks: pip install --upgrade ase."
        ) from error
