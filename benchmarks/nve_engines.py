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

    def energies(self, total: Callable[[], float], move: Callable[[int], Any]) -> tuple[Array, Array]:
        """Times (ps) and energies (eV): at the start, and whenever `interval` steps more are done."""

        def values() -> Iterator[float]:
            yield total()
            for _ in range(self.steps // self.interval):
                move(self.interval)
                yield total()

        energies = np.array(list(values()))
        return np.arange(len(energies)) * self.interval * self.timestep / 1000, energies


def with_velocities(atoms: Atoms, temperature: float, seed: int) -> Atoms:
    """`atoms`, at a minimum, moving so that they settle at `temperature` (K): half of the energy becomes potential."""
    moving = atoms.copy()
    MaxwellBoltzmannDistribution(moving, temperature_K=2 * temperature, rng=np.random.default_rng(seed))
    Stationary(moving)
    # A periodic cell has no axis to turn about.
    if not moving.pbc.any():
        ZeroRotation(moving)
    return moving


def in_ase(run: Run) -> tuple[Array, Array]:
    atoms = run.atoms.copy()
    atoms.calc = run.calculator()
    return run.energies(atoms.get_total_energy, VelocityVerlet(atoms, run.timestep * units.fs).run)


def in_torchsim(run: Run) -> tuple[Array, Array]:
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

    return run.energies(lambda: float(state.energy) + float((state.momenta**2 / (2 * masses)).sum()), move)


def in_lammps(run: Run) -> tuple[Array, Array]:
    from tdn.interfaces.lammps import ExternalForce, start_lammps

    atoms = run.atoms.copy()
    if not atoms.pbc.any():
        atoms.center(vacuum=5.0)
    lmp = start_lammps()
    force = ExternalForce(lmp, run.calculator(), runpy.run_path(str(EXAMPLE))["load"](lmp, atoms))
    lmp.commands_list([f"timestep {run.timestep / 1000}", "fix move all nve", "run 0"])
    found = run.energies(
        lambda: lmp.get_thermo("pe") + lmp.get_thermo("ke"),
        lambda steps: force.command(f"run {steps} pre no post no"),
    )
    lmp.close()
    return found


def in_openmm(run: Run) -> tuple[Array, Array]:
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
    system = whole_system(run.calculator(), topology)
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

    return run.energies(total, integrator.step)


ENGINES = {"ASE": in_ase, "TorchSim": in_torchsim, "LAMMPS": in_lammps, "OpenMM": in_openmm}
