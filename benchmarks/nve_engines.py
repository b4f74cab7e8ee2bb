"""One trajectory at constant energy in each engine: the same start, velocity Verlet, energies after every step.

Positions and velocities are in float64 everywhere; the precision asked for is that of the network.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

from tdn import TDNCalculator
from tdn.simulation.shadow import REACH, shadow_energies
from tdn.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV

PS = 1000 * units.fs
EXAMPLE = Path(__file__).parents[1] / "examples" / "lammps_external.py"
Array = np.ndarray[Any, np.dtype[np.float64]]


# Potential energy (eV), positions (Å), velocities (ASE's units) and forces (eV/Å), `[n, 3]`.
State = tuple[float, Array, Array, Array]


@dataclass(frozen=True)
class Energies:
    """What a trajectory conserves, more or less.

    Attributes:
        times: ps, `[k]`.
        total: Potential and kinetic energy, eV, `[k]`.
        shadow: What velocity Verlet conserves (`tdn.simulation.shadow`), eV, `[k]`.
    """

    times: Array
    total: Array
    shadow: Array


@dataclass(frozen=True)
class Run:
    """What is the same in all engines.

    Attributes:
        atoms: Start, with velocities; not periodic.
        model: File.
        dtype: Precision of the network.
        compile: Whether it runs compiled.
        steps: Number of steps.
        timestep: fs.
    """

    atoms: Atoms
    model: str | os.PathLike[str]
    dtype: str
    compile: bool
    steps: int
    timestep: float

    def calculator(self) -> TDNCalculator:
        """The network as every engine but TorchSim calls it."""
        return TDNCalculator(self.model, device="cpu", dtype=self.dtype, compile=self.compile)

    def sample(self, state: Callable[[], State], masses: Array, move: Callable[[], Any]) -> Energies:
        """Energies after every step but the first and the last few.

        Args:
            state: Of the moment, in one order of atoms.
            masses: Those of the engine, in ASE's units, `[n]`.
            move: Takes a step.
        """
        shape = (self.steps + 1, *self.atoms.positions.shape)
        potential = np.empty(shape[0])
        positions, velocities, forces = np.empty(shape), np.empty(shape), np.empty(shape)
        for k in range(len(potential)):
            if k:
                move()
            potential[k], positions[k], velocities[k], forces[k] = state()
        momenta = velocities * masses[:, None]
        total = potential + np.einsum("kni,kni->k", momenta, velocities) / 2
        shadow = shadow_energies(potential, positions, momenta, forces, self.timestep * units.fs)
        return Energies(np.arange(len(shadow)) * self.timestep / 1000, total[REACH:-REACH], shadow)


def with_velocities(atoms: Atoms, temperature: float, seed: int) -> Atoms:
    """`atoms`, at a minimum, moving so that they settle at `temperature` (K): half of the energy becomes potential."""
    moving = atoms.copy()
    MaxwellBoltzmannDistribution(moving, temperature_K=2 * temperature, rng=np.random.default_rng(seed))
    Stationary(moving)
    ZeroRotation(moving)
    return moving


def in_ase(run: Run) -> Energies:
    atoms = run.atoms.copy()
    atoms.calc = run.calculator()
    dynamics = VelocityVerlet(atoms, run.timestep * units.fs)

    def state() -> State:
        return atoms.get_potential_energy(), atoms.positions, atoms.get_velocities(), atoms.get_forces()

    return run.sample(state, atoms.get_masses(), lambda: dynamics.run(1))


def in_torchsim(run: Run) -> Energies:
    import torch_sim as ts

    from tdn.interfaces.torchsim import TDNTorchSimModel

    precision = getattr(torch, run.dtype)
    model = TDNTorchSimModel(run.model, device="cpu", network_dtype=precision, compile=run.compile)
    now: Any = ts.initialize_state([run.atoms.copy()], torch.device("cpu"), torch.float64)
    step = torch.tensor(run.timestep * units.fs, dtype=torch.float64)
    init, update = ts.nve(model, dt=step, kT=torch.tensor(0.0, dtype=torch.float64))
    now = init(now)
    now.momenta = torch.from_numpy(run.atoms.get_momenta())

    def move() -> None:
        nonlocal now
        now = update(now)

    def state() -> State:
        return float(now.energy), now.positions.numpy(), now.velocities.numpy(), now.forces.numpy()

    return run.sample(state, now.masses.numpy(), move)


def in_lammps(run: Run) -> Energies:
    from tdn.interfaces.lammps import ExternalForce, start_lammps

    atoms = run.atoms.copy()
    atoms.center(vacuum=5.0)
    lmp = start_lammps()
    force = ExternalForce(lmp, run.calculator(), runpy.run_path(str(EXAMPLE))["load"](lmp, atoms))
    lmp.commands_list([f"timestep {run.timestep / 1000}", "fix move all nve", "run 0"])

    def of_atoms(name: str) -> Array:
        # LAMMPS sorts its atoms in space now and then.
        return lmp.numpy.extract_atom(name)[np.argsort(lmp.numpy.extract_atom("id"))]

    def state() -> State:
        results = force.calculator.results
        return results["energy"], of_atoms("x"), of_atoms("v") / PS, results["forces"]

    masses = lmp.numpy.extract_atom("mass").ravel()[of_atoms("type")] * lmp.extract_global("mvv2e") * PS**2
    found = run.sample(state, masses, lambda: force.command("run 1 pre no post no"))
    lmp.close()
    return found


def in_openmm(run: Run) -> Energies:
    import openmm
    from openmm import app

    from tdn.interfaces.openmm import whole_system

    atoms = run.atoms
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in atoms.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    calculator = run.calculator()
    system = whole_system(calculator, topology)
    # OpenMM's own VerletIntegrator keeps velocities at half steps.
    integrator = openmm.CustomIntegrator(run.timestep / 1000)
    half_kick = ("v", "v+0.5*dt*f/m")
    for name, expression in (half_kick, ("x", "x+dt*v"), half_kick):
        integrator.addComputePerDof(name, expression)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions / ANGSTROM_PER_NM)
    context.setVelocities(atoms.get_velocities() / ANGSTROM_PER_NM * PS)
    context.getState(getForces=True)

    def state() -> State:
        found, results = context.getState(getPositions=True, getVelocities=True), calculator.results
        positions, velocities = (
            values._value * ANGSTROM_PER_NM for values in (found.getPositions(True), found.getVelocities(True))
        )
        return results["energy"], positions, velocities / PS, results["forces"]

    # u nm²/ps² is kJ/mol.
    daltons = np.array([system.getParticleMass(index)._value for index in range(len(atoms))])
    masses = daltons * PS**2 / (ANGSTROM_PER_NM**2 * KJ_PER_MOL_PER_EV)
    return run.sample(state, masses, lambda: integrator.step(1))


ENGINES = {"ASE": in_ase, "TorchSim": in_torchsim, "LAMMPS": in_lammps, "OpenMM": in_openmm}
