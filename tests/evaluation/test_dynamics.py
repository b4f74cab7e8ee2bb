"""Relaxation and NVE of harmonic and Lennard-Jones systems whose answers are known."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.harmonic import HarmonicCalculator, HarmonicForceField
from ase.calculators.lj import LennardJones

from tdn.evaluation.dynamics import Trajectory, relax, rmsd, run_nve


@pytest.fixture
def pyramid():
    return Atoms("NH3", positions=[[0, 0, 0.3], [0.9, 0, 0], [-0.45, 0.8, 0], [-0.45, -0.8, 0.0]])


def spring(atoms):
    return HarmonicCalculator(HarmonicForceField(ref_atoms=atoms.copy(), hessian_x=np.eye(3 * len(atoms)) * 10.0))


def test_rmsd_ignores_rigid_motion_but_not_reflection(pyramid):
    turned = pyramid.copy()
    turned.rotate(50, (1, 2, 3))
    turned.translate((1, -2, 3))
    assert rmsd(turned.positions, pyramid.positions) < 1e-12
    chiral = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.0]])
    assert rmsd(chiral * [-1, 1, 1], chiral) > 0.1
    stretched = np.array([[0, 0, 0], [0, 0, 1.2]])
    assert rmsd(stretched, np.array([[0, 0, 0], [1.0, 0, 0]])) == pytest.approx(0.1)


def test_relaxation_of_a_dimer_finds_the_minimum():
    start = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.16]])
    goal = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 2 ** (1 / 6)]])
    before = start.positions.copy()
    result = relax(start, LennardJones(rc=50.0), fmax=1e-4, reference=goal, name="dimer")
    assert result.converged
    assert result.energies[-1] == pytest.approx(-1.0, abs=1e-6)
    assert result.rmsds[0] == pytest.approx((1.16 - 2 ** (1 / 6)) / 2)
    assert result.rmsds[-1] < 1e-4
    assert result.max_forces[-1] <= 1e-4 < result.max_forces[0]
    assert len(result.energies) == result.steps + 1
    assert (start.positions == before).all()


def test_relaxation_that_stops_early_says_so():
    result = relax(Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.16]]), LennardJones(), fmax=1e-9, max_steps=2)
    assert not result.converged
    assert result.steps == 2
    assert result.rmsds is None


def test_harmonic_nve_conserves_energy_and_settles_at_the_temperature(pyramid):
    trajectory = run_nve(pyramid, spring(pyramid), temperature=300, timestep_fs=0.2, steps=2000, seed=4)
    assert trajectory.steps == 2000
    assert trajectory.times[-1] == pytest.approx(0.4)
    assert abs(trajectory.drift) < 0.5
    assert trajectory.fluctuation < 0.5
    # Six of twelve degrees of freedom move, with twice the temperature shared with the potential energy.
    assert 60 < trajectory.temperatures.mean() < 400
    assert trajectory.kinetic_energies[0] > trajectory.kinetic_energies.mean()


def test_nve_repeats_with_its_seed_and_stops_in_time(pyramid):
    first, second = (run_nve(pyramid, spring(pyramid), steps=50, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.potential_energies, second.potential_energies)
    short = run_nve(pyramid, spring(pyramid), steps=10**6, max_seconds=0.0)
    assert short.steps < 100


def test_drift_fluctuation_and_speed_of_a_known_trajectory():
    times = np.linspace(0, 2, 401)
    wave = 0.003 * np.sin(2 * np.pi * 20 * times)
    trajectory = Trajectory("x", 2, 0.5, times, -5.0 + 0.004 * times + wave, np.full(401, 0.1), seconds=8.0)
    assert trajectory.drift == pytest.approx(2.0, rel=0.05)
    assert trajectory.fluctuation == pytest.approx(1.5 / np.sqrt(2), rel=0.02)
    assert trajectory.steps == 4000
    assert trajectory.ms_per_step == pytest.approx(2.0)
    assert trajectory.ns_per_day == pytest.approx(86400 / 2e-3 * 0.5e-6)
