"""Conservation of energy in molecular dynamics."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from tdn.checks.measure import Array, CheckResult, make_result
from tdn.errors import DataError
from tdn.models.potential import Potential
from tdn.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

LONGEST_STEP = 0.25
"""Of the coarser of the two trajectories, fs."""
PATH = 0.3
"""How far an atom may move, Å: far enough to test the forces, too near to fly into what no model was made for."""
NVE_LIMIT = 1e-4
REFINEMENTS = 4
"""Halvings of the time step before energy counts as lost."""


def check_nve(potential: Potential, structure: Structure, steps: int = 100) -> CheckResult:
    """Total energy is conserved by molecular dynamics in the limit of small time steps.

    Velocity Verlet's energy error is of second order in the time step. From two trajectories from the same start with
    steps `h` and `h/2`, `(4 E(h/2) - E(h)) / 3` removes it; what remains is what forces that are not the gradient of a
    smooth energy add or take. It is compared with the potential energy that the trajectory exchanges. On a rugged
    surface terms of higher order remain as well: they fall by 16 at every halving of the step, work done by the forces
    does not, so the step is halved a few times before the verdict.
    """
    from tdn.calculator import PhysicsWarning, TDNCalculator

    if not potential.config.predicts_forces:
        return make_result("NVE drift", [np.inf], NVE_LIMIT, "exchanged energy", "the model predicts no forces")
    atoms = structure.to_ase()
    with warnings.catch_warnings():
        # What the model does not claim is said beside the result.
        warnings.simplefilter("ignore", PhysicsWarning)
        atoms.calc = TDNCalculator(potential, device=potential.device)
    try:
        step = min(LONGEST_STEP, _fitting_step(atoms))
        coarse = _trajectory(atoms, step, steps, stop_early=True)
        duration = step * (len(coarse) - 1)
        remaining, exchanged = np.inf, 1.0
        for _ in range(REFINEMENTS):
            step /= 2
            fine = _trajectory(atoms, step, 2 * (len(coarse) - 1), stop_early=False)
            exchanged = float(np.ptp(fine[:, 0]))
            remaining = float(np.ptp((4.0 * fine[::2].sum(axis=1) - coarse.sum(axis=1)) / 3.0))
            if remaining <= NVE_LIMIT * exchanged:
                break
            coarse = fine
    except DataError as error:
        return make_result("NVE drift", [np.inf], NVE_LIMIT, "exchanged energy", f"the trajectory ended: {error}")
    detail = (
        f"{duration:.3g} fs of {structure.formula} in steps of {2 * step:.2g} fs and half of it: "
        f"total energy as the step goes to zero, over the {exchanged:.3g} eV of potential energy exchanged"
    )
    return make_result("NVE drift", [remaining / exchanged], NVE_LIMIT, "exchanged energy", detail)


def _fitting_step(atoms: Atoms) -> float:
    """In fs, a twentieth of the time in which the largest acceleration moves an atom along `PATH`."""
    from ase import units

    accelerations = np.linalg.norm(atoms.get_forces(), axis=1) / atoms.get_masses()
    return float(np.sqrt(2.0 * PATH / max(accelerations.max(), 1e-12)) / units.fs / 20.0)


def _trajectory(start: Atoms, time_step: float, steps: int, stop_early: bool) -> Array:
    """Potential and kinetic energy (eV) of every step, `[k, 2]`; `time_step` in fs.

    If asked it stops where an atom has moved along `PATH` or has come to a wall that needs a smaller step.
    """
    from ase import units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet

    atoms = start.copy()
    atoms.calc = start.calc
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    energies = []
    for _ in VelocityVerlet(atoms, timestep=time_step * units.fs).irun(steps):
        moved = np.linalg.norm(atoms.positions - start.positions, axis=1).max()
        if stop_early and len(energies) > 4 and (moved > PATH or _fitting_step(atoms) < 0.6 * time_step):
            break
        energies.append((atoms.get_potential_energy(), atoms.get_kinetic_energy()))
    return np.array(energies)
