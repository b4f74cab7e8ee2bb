"""What a potential does when atoms move: relaxation and NVE dynamics with ASE's own optimisers and integrators."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from tdn.units import MEV_PER_EV

FS_PER_PS = 1000.0


@dataclass(frozen=True)
class Relaxation:
    """One relaxation, step by step.

    Attributes:
        name: Of the structure, for tables and titles.
        atoms: The relaxed geometry.
        energies: Total energy before each step and at the end, eV, `[k]`.
        max_forces: Largest force on an atom, eV/Å, `[k]`.
        rmsds: Distance to the reference geometry, Å, `[k]`, or None without one.
        fmax: Where it was to stop, eV/Å.
        converged: Whether it got there.
    """

    name: str
    atoms: Atoms
    energies: NDArray[np.float64]
    max_forces: NDArray[np.float64]
    rmsds: NDArray[np.float64] | None
    fmax: float
    converged: bool

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.energies) - 1


@dataclass(frozen=True)
class Trajectory:
    """One run at constant energy.

    Attributes:
        name: Of the structure.
        num_atoms: Its atoms.
        timestep_fs: Time step, fs.
        times: ps, `[k]`.
        potential_energies: eV, `[k]`.
        kinetic_energies: eV, `[k]`.
        seconds: Wall-clock time of all steps.
    """

    name: str
    num_atoms: int
    timestep_fs: float
    times: NDArray[np.float64]
    potential_energies: NDArray[np.float64]
    kinetic_energies: NDArray[np.float64]
    seconds: float

    @property
    def total_energies(self) -> NDArray[np.float64]:
        """Total energy per atom relative to the start, meV/atom, `[k]`."""
        total = self.potential_energies + self.kinetic_energies
        return MEV_PER_EV * (total - total[0]) / self.num_atoms

    @property
    def temperatures(self) -> NDArray[np.float64]:
        """Instantaneous temperature of all `3n` velocities, K, `[k]`."""
        return 2.0 * self.kinetic_energies / (3.0 * self.num_atoms * units.kB)

    @property
    def drift(self) -> float:
        """Slope of the straight line through the total energy, meV/atom/ps."""
        return float(np.polyfit(self.times, self.total_energies, 1)[0])

    @property
    def fluctuation(self) -> float:
        """Root mean square of the total energy about that line, meV/atom."""
        line = np.polyval(np.polyfit(self.times, self.total_energies, 1), self.times)
        return float(np.sqrt(np.square(self.total_energies - line).mean()))

    @property
    def steps(self) -> int:
        """Steps taken."""
        return round(self.times[-1] * FS_PER_PS / self.timestep_fs)

    @property
    def ms_per_step(self) -> float:
        """Wall-clock time of a step, ms."""
        return 1e3 * self.seconds / self.steps

    @property
    def ns_per_day(self) -> float:
        """Simulated time in a day at this speed, ns."""
        return 86400.0 / (self.seconds / self.steps) * self.timestep_fs * 1e-6


def relax(
    atoms: Atoms,
    calculator: Calculator,
    *,
    fmax: float = 0.01,
    max_steps: int = 200,
    reference: Atoms | None = None,
    name: str | None = None,
) -> Relaxation:
    """Relax the positions with ASE's L-BFGS; `atoms` stay as they are.

    Args:
        atoms: Start.
        calculator: The potential.
        fmax: Stop when no atom has a larger force, eV/Å.
        max_steps: Give up after so many steps.
        reference: Geometry to measure the distance to, its atoms in the same order.
        name: Of the result; the formula by default.
    """
    from ase.optimize import LBFGS

    moving = atoms.copy()
    moving.calc = calculator
    energies, max_forces, rmsds = [], [], []

    def record() -> None:
        energies.append(moving.get_potential_energy())
        max_forces.append(np.linalg.norm(moving.get_forces(), axis=1).max())
        if reference is not None:
            rmsds.append(rmsd(moving.positions, reference.positions))

    optimizer = LBFGS(moving, logfile=os.devnull)  # pyright: ignore[reportArgumentType]
    optimizer.attach(record)
    converged = bool(optimizer.run(fmax=fmax, steps=max_steps))
    moving.calc = None
    return Relaxation(
        name=name or atoms.get_chemical_formula(),
        atoms=moving,
        energies=np.array(energies),
        max_forces=np.array(max_forces),
        rmsds=np.array(rmsds) if rmsds else None,
        fmax=fmax,
        converged=converged,
    )


def run_nve(
    atoms: Atoms,
    calculator: Calculator,
    *,
    temperature: float = 300.0,
    timestep_fs: float = 0.5,
    steps: int = 4000,
    interval: int = 5,
    max_seconds: float | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Trajectory:
    """Velocity-Verlet dynamics at constant energy from a relaxed geometry; `atoms` stay as they are.

    At a minimum all energy is kinetic and equipartition halves it, so the velocities start at twice `temperature`.

    Args:
        atoms: Start, near a minimum.
        calculator: The potential.
        temperature: About where the kinetic temperature settles, K.
        timestep_fs: Time step, fs.
        steps: Number of steps.
        interval: Record every so many steps.
        max_seconds: Stop earlier, after so much wall-clock time.
        seed: Of the velocities.
        name: Of the result; the formula by default.
    """
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
    from ase.md.verlet import VelocityVerlet

    moving = atoms.copy()
    moving.calc = calculator
    MaxwellBoltzmannDistribution(moving, temperature_K=2 * temperature, rng=np.random.default_rng(seed))
    Stationary(moving)
    # A periodic cell has no axis to turn about.
    if not moving.pbc.any():
        ZeroRotation(moving)
    dynamics = VelocityVerlet(moving, timestep=timestep_fs * units.fs)
    records = [(0.0, moving.get_potential_energy(), moving.get_kinetic_energy())]
    start = time.perf_counter()
    for done in range(interval, steps + 1, interval):
        dynamics.run(interval)
        time_ps = done * timestep_fs / FS_PER_PS
        records.append((time_ps, moving.get_potential_energy(), moving.get_kinetic_energy()))
        if max_seconds is not None and time.perf_counter() - start > max_seconds and len(records) > 2:
            break
    seconds = time.perf_counter() - start
    times, potential, kinetic = np.array(records).T
    return Trajectory(name or atoms.get_chemical_formula(), len(atoms), timestep_fs, times, potential, kinetic, seconds)


def rmsd(positions: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Root mean square distance after the best rigid superposition, Å (Kabsch, doi:10.1107/S0567739476001873).

    Args:
        positions: Å, `[n, 3]`.
        reference: The same atoms in the same order, Å, `[n, 3]`.
    """
    moved, fixed = positions - positions.mean(0), reference - reference.mean(0)
    left, _, right = np.linalg.svd(moved.T @ fixed)
    # A reflection would make mirror images look equal.
    left[:, -1] *= np.sign(np.linalg.det(left @ right))
    return float(np.linalg.norm(moved @ left @ right - fixed) / np.sqrt(len(positions)))
