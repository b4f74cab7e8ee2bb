"""OpenMM computes what ASE computes, whole systems and embedded molecules, and conserves energy as well."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.units import fs, kJ, mol, nm

from engine_systems import crystal
from tdn import Potential, TDNCalculator, TDNConfig, save_model
from tdn.errors import ConfigError, DataError

pytest.importorskip("openmm", reason="needs OpenMM: pip install 'tdn[openmm]'")

import openmm
from openmm import app, unit

from tdn.interfaces.openmm import mixed_system, potential_force, whole_system

EXAMPLE = Path(__file__).parents[2] / "examples" / "openmm_md.py"


def make_calculator() -> TDNCalculator:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,))
    return TDNCalculator(Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, shifts={6: -2.0}).double())


def topology_of(atoms: Atoms) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in atoms.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(np.asarray(atoms.cell) * unit.angstrom)
    return topology


def velocity_verlet(step: float) -> openmm.CustomIntegrator:
    """The integrator that ASE has; OpenMM's own keeps velocities at half steps."""
    integrator = openmm.CustomIntegrator(step * unit.femtosecond)
    integrator.addUpdateContextState()
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    integrator.addComputePerDof("x", "x+dt*v")
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    return integrator


def context_of(system: openmm.System, positions: np.ndarray, step: float = 0.5) -> openmm.Context:
    context = openmm.Context(system, velocity_verlet(step), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions * unit.angstrom)
    return context


def energy_and_forces(context: openmm.Context, groups: int = -1) -> tuple[float, np.ndarray]:
    """In eV and eV/Å, by ASE's factors, which are not the interface's."""
    state = context.getState(getEnergy=True, getForces=True, groups=groups)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * kJ / mol
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer) * kJ / mol / nm
    return energy, np.asarray(forces)


@pytest.mark.parametrize("make", [crystal, lambda: molecule("CH3CH2OH")])
def test_energy_and_forces_are_those_of_ase(make) -> None:
    atoms = make()
    atoms.calc = make_calculator()
    context = context_of(whole_system(make_calculator(), topology_of(atoms)), atoms.positions)
    energy, forces = energy_and_forces(context)
    # ASE's factors are those of CODATA 2014.
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=2e-7)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("make", [crystal, lambda: molecule("CH3CH2OH")])
def test_trajectory_is_that_of_ase(make) -> None:
    atoms = make()
    # OpenMM has its own digits of the masses.
    atoms.set_masses([element.mass._value for element in map(app.Element.getBySymbol, atoms.get_chemical_symbols())])
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    context = context_of(whole_system(make_calculator(), topology_of(atoms)), atoms.positions)
    context.setVelocities(atoms.get_velocities() * (1000.0 * fs) * unit.angstrom / unit.picosecond)
    atoms.calc = make_calculator()
    totals: dict[str, list[float]] = {"ase": [], "openmm": []}
    dynamics = VelocityVerlet(atoms, 0.5 * fs)
    for _ in range(20):
        dynamics.run(5)
        context.getIntegrator().step(5)
        state = context.getState(getEnergy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        totals["openmm"].append(total.value_in_unit(unit.kilojoule_per_mole) * kJ / mol)
        totals["ase"].append(atoms.get_total_energy())
    positions = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    moved = np.asarray(positions) - atoms.positions
    if atoms.pbc.all():
        moved -= np.round(moved @ np.linalg.inv(atoms.cell)) @ atoms.cell
    assert np.abs(moved).max() < 1e-5
    # Both wander equally little from where they started.
    wander = {name: np.subtract(values, values[0]) for name, values in totals.items()}
    np.testing.assert_allclose(wander["openmm"], wander["ase"], atol=1e-6 * len(atoms))


def water_box() -> tuple[app.Modeller, app.ForceField]:
    field = app.ForceField("tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(field, boxSize=openmm.Vec3(1.5, 1.5, 1.5) * unit.nanometer)
    return modeller, field


def test_embedded_molecule_adds_the_potential_and_leaves_the_rest() -> None:
    modeller, field = water_box()
    topology, chosen = modeller.topology, [0, 1, 2]
    options = {"nonbondedMethod": app.CutoffPeriodic, "nonbondedCutoff": 0.6 * unit.nanometer}
    plain = field.createSystem(topology, rigidWater=False, **options)
    positions = np.asarray(modeller.positions.value_in_unit(unit.angstrom))
    mixed = mixed_system(make_calculator(), topology, plain, chosen)
    assert plain.getNumForces() == mixed.getNumForces() - 1

    # What the force field says of the molecule alone, and the potential of the same.
    alone = app.Modeller(topology, modeller.positions)
    alone.delete([residue for k, residue in enumerate(topology.residues()) if k > 0])
    inner = field.createSystem(alone.topology, rigidWater=False)
    atoms = Atoms("OHH", positions[:3], calculator=make_calculator())
    energy_field, forces_field = energy_and_forces(context_of(inner, positions[:3]))
    energy_plain, forces_plain = energy_and_forces(context_of(plain, positions))
    energy, forces = energy_and_forces(context_of(mixed, positions))
    assert energy == pytest.approx(energy_plain - energy_field + atoms.get_potential_energy(), abs=1e-3)
    expected = forces_plain.copy()
    expected[:3] += atoms.get_forces() - forces_field
    np.testing.assert_allclose(forces, expected, atol=1e-4)


def test_constraints_among_the_chosen_atoms_go() -> None:
    modeller, field = water_box()
    system = field.createSystem(modeller.topology, rigidWater=True)
    mixed = mixed_system(make_calculator(), modeller.topology, system, [3, 4, 5])
    assert system.getNumConstraints() - mixed.getNumConstraints() == 3
    assert not any({3, 4, 5} & set(mixed.getConstraintParameters(k)[:2]) for k in range(mixed.getNumConstraints()))


def test_terms_of_every_kind_are_switched_off() -> None:
    """A molecule of four atoms with all kinds of terms: nothing is left within it, all is left across the border."""
    atoms = Atoms("COCOC", np.random.default_rng(0).uniform(0, 4, (5, 3)))
    system = openmm.System()
    for _ in atoms:
        system.addParticle(12.0)
    bond, angle, torsion, rb = (
        openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce(), openmm.RBTorsionForce()
    )  # fmt: skip
    cmap, pairs = openmm.CMAPTorsionForce(), openmm.CustomNonbondedForce("1/r")
    cmap.addMap(2, [1.0, 2.0, 3.0, 4.0])
    for shift in (0, 1):
        bond.addBond(shift, shift + 3, 0.1, 10.0)
        angle.addAngle(shift, shift + 1, shift + 3, 0.3, 10.0)
        torsion.addTorsion(shift, shift + 1, shift + 2, shift + 3, 1, 0.3, 10.0)
        rb.addTorsion(shift, shift + 1, shift + 2, shift + 3, 1, 2, 3, 4, 5, 6)
    cmap.addTorsion(0, 0, 1, 2, 3, 0, 1, 2, 3)
    for _ in atoms:
        pairs.addParticle()
    pairs.addExclusion(1, 0)
    for force in (bond, angle, torsion, rb, cmap, pairs, openmm.CMMotionRemover()):
        system.addForce(force)
    mixed = mixed_system(make_calculator(), topology_of(atoms), system, [0, 1, 2, 3])
    for k, force in enumerate(mixed.getForces()):
        force.setForceGroup(k)
    context = context_of(mixed, atoms.positions)
    border = {}
    for k, force in enumerate(mixed.getForces()):
        border[type(force).__name__] = energy_and_forces(context, 1 << k)[0]
    expected = context_of(system, atoms.positions)
    for name in ("HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "RBTorsionForce"):
        assert border[name] != 0.0, "the term across the border"
    assert border["CMAPTorsionForce"] == 0.0
    across = sum(1.0 / (0.1 * atoms.get_distance(k, 4)) for k in range(4)) * kJ / mol
    assert border["CustomNonbondedForce"] == pytest.approx(across, rel=1e-6)
    assert energy_and_forces(expected)[0] != 0.0


def test_wrong_use_is_refused() -> None:
    atoms = molecule("H2O")
    topology, calculator = topology_of(atoms), make_calculator()
    for particles in ([0, 0], [3], [-1], []):
        with pytest.raises(ConfigError, match=r"distinct indices 0\.\.2"):
            potential_force(calculator, topology, particles)
    with pytest.raises(DataError, match="the structure also has N"):
        potential_force(calculator, topology_of(molecule("NH3")))
    system = openmm.System()
    system.addForce(openmm.GayBerneForce())
    with pytest.raises(ConfigError, match="GayBerneForce"):
        mixed_system(calculator, topology, system, [0])
    atoms.positions[1] = atoms.positions[0]
    with pytest.raises(Exception, match="Å apart"):
        energy_and_forces(context_of(whole_system(calculator, topology), atoms.positions))


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    save_model(tmp_path / "model.tdn", make_calculator().potentials[0])
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "model.tdn"), "4"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) == 5
