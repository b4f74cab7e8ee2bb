"""One trajectory at constant energy in each engine: the same start, velocity Verlet, the total energy now and then.

Positions and velocities are in float64 everywhere; the precision asked for is that of the network.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

from tdn import TDNCalculator
from tdn.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV

EXAMPLE = Path(__file__).parents[1] / "examples" / "lammps_external.py"
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Energies:
    """What a trajectory conserves, more or less.

    To fourth order in the time step `h`, velocity Verlet conserves the energy plus
    `h²/12 d²V/dt² + h²/24 sum |F|²/m` (Hairer, Lubich, Wanner, doi:10.1017/S0962492902000144). The middle term is a
    derivative in time and does nothing to a slope; without the last one, the slope of a short trajectory is mostly the
    wandering of `sum |F|²`.

    Attributes:
        times: ps, `[k]`.
        total: Potential and kinetic energy, eV, `[k]`.
        modified: With the last term, eV, `[k]`.
    """

    times: Array
    total: Array
    modified: Array


@dataclass(frozen=True)
class Run:
    """What is the same in all engines.

    Attributes:
        atoms: Start, with velocities.
        model: File.
        dtype: Precision of the network.
        compile: Whether it runs compiled.
        steps: Number of steps.
        interval: Steps between energies.
        timestep: fs.
    """

    atoms: Atoms
    model: str | os.PathLike[str]
    dtype: str
    compile: bool
    steps: int
    interval: int
    timestep: float

    def calculator(self) -> TDNCalculator:
        """The network as every engine but TorchSim calls it."""
        return TDNCalculator(self.model, device="cpu", dtype=self.dtype, compile=self.compile)

    def sample(self, total: Callable[[], float], forces: Callable[[], Array], move: Callable[[int], Any]) -> Energies:
        """Energies at the start, and whenever `interval` steps more are done.

        Args:
            total: Potential and kinetic energy, eV.
            forces: Of the same moment, eV/Å, `[n, 3]`; asked for after the energy.
            move: Takes so many steps.
        """
        masses = self.atoms.get_masses()[:, None]

        def values() -> Iterator[tuple[float, float]]:
            for k in range(self.steps // self.interval + 1):
                if k:
                    move(self.interval)
                yield total(), float(np.sum(forces() ** 2 / masses))

        energies, squares = np.array(list(values())).T
        times = np.arange(len(energies)) * self.interval * self.timestep / 1000
        return Energies(times, energies, energies + (self.timestep * units.fs) ** 2 / 24 * squares)


def with_velocities(atoms: Atoms, temperature: float, seed: int) -> Atoms:
    """`atoms`, at a minimum, moving so that they settle at `temperature` (K): half of the energy becomes potential."""
    moving = atoms.copy()
    MaxwellBoltzmannDistribution(moving, temperature_K=2 * temperature, rng=np.random.default_rng(seed))
    Stationary(moving)
    # A periodic cell has no axis to turn about.
    if not moving.pbc.any():
        ZeroRotation(moving)
    return moving


def in_ase(run: Run) -> Energies:
    atoms = run.atoms.copy()
    atoms.calc = run.calculator()
    return run.sample(atoms.get_total_energy, atoms.get_forces, VelocityVerlet(atoms, run.timestep * units.fs).run)


def in_torchsim(run: Run) -> Energies:
    import torch_sim as ts

    from tdn.interfaces.torchsim import TDNTorchSimModel

    precision = getattr(torch, run.dtype)
    model = TDNTorchSimModel(run.model, device="cpu", network_dtype=precision, compile=run.compile)
    state: Any = ts.initialize_state([run.atoms.copy()], torch.device("cpu"), torch.float64)
    step = torch.tensor(run.timestep * units.fs, dtype=torch.float64)
    init, update = ts.nve(model, dt=step, kT=torch.tensor(0.0, dtype=torch.float64))
    state = init(state)
    state.momenta = torch.from_numpy(run.atoms.get_momenta())
    masses = torch.from_numpy(run.atoms.get_masses())[:, None]

    def move(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = update(state)

    return run.sample(
        lambda: float(state.energy) + float((state.momenta**2 / (2 * masses)).sum()), lambda: state.forces.numpy(), move
    )


def in_lammps(run: Run) -> Energies:
    from tdn.interfaces.lammps import ExternalForce, start_lammps

    atoms = run.atoms.copy()
    if not atoms.pbc.any():
        atoms.center(vacuum=5.0)
    lmp = start_lammps()
    force = ExternalForce(lmp, run.calculator(), runpy.run_path(str(EXAMPLE))["load"](lmp, atoms))
    lmp.commands_list([f"timestep {run.timestep / 1000}", "fix move all nve", "run 0"])
    found = run.sample(
        lambda: lmp.get_thermo("pe") + lmp.get_thermo("ke"),
        lambda: force.calculator.results["forces"],
        lambda steps: force.command(f"run {steps} pre no post no"),
    )
    lmp.close()
    return found


def in_openmm(run: Run) -> Energies:
    import openmm
    from openmm import app, unit

    from tdn.interfaces.openmm import whole_system

    atoms = run.atoms
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in atoms.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(np.asarray(atoms.cell) * unit.angstrom)
    calculator = run.calculator()
    system = whole_system(calculator, topology)
    # OpenMM's own VerletIntegrator keeps velocities at half steps.
    integrator = openmm.CustomIntegrator(run.timestep / 1000)
    half_kick = ("v", "v+0.5*dt*f/m")
    for name, expression in (half_kick, ("x", "x+dt*v"), half_kick):
        integrator.addComputePerDof(name, expression)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions / ANGSTROM_PER_NM)
    context.setVelocities(atoms.get_velocities() / ANGSTROM_PER_NM * (1000 * units.fs))

    def total() -> float:
        state = context.getState(getEnergy=True)
        return (state.getPotentialEnergy() + state.getKineticEnergy())._value / KJ_PER_MOL_PER_EV

    return run.sample(total, lambda: calculator.results["forces"], integrator.step)


ENGINES = {"ASE": in_ase, "TorchSim": in_torchsim, "LAMMPS": in_lammps, "OpenMM": in_openmm}
