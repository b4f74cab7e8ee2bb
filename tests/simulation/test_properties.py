"""Second derivatives and what follows from them, against differences, analytic answers and each other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import write

from tdn.cli.main import main
from tdn.errors import DataError
from tdn.graph import AtomGraph
from tdn.models.potential import Potential
from tdn.simulation.elastic import elastic_constants
from tdn.simulation.hessian import hessian, hessian_vector_product
from tdn.simulation.relaxation import RelaxSettings, relax
from tdn.simulation.vibrations import vibrations
from tdn.structure import Structure
from tdn.units import GPA_PER_EV_PER_ANGSTROM3

from .conftest import EPSILON, SIGMA, LennardJones, cluster, crystal, water


def forces(potential: Potential, atoms: Atoms) -> np.ndarray:
    graph = AtomGraph.from_structure(Structure.from_ase(atoms), potential.r_max)
    return potential(graph).forces.numpy()


def difference_hessian(potential: Potential, atoms: Atoms, step: float = 1e-4) -> np.ndarray:
    """Central differences of the forces."""
    rows = []
    for k in range(3 * len(atoms)):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.flat[k] += sign * step
            ends.append(forces(potential, moved).ravel())
        rows.append(-(ends[0] - ends[1]) / (2 * step))
    return np.array(rows)


def strained_water() -> Atoms:
    atoms = water()
    atoms.rattle(0.05, seed=1)
    return atoms


def small_crystal() -> Atoms:
    """A cell smaller than the cutoff, so that atoms see their own images."""
    atoms = bulk("C")
    atoms.rattle(0.1, seed=0)
    return atoms


@pytest.mark.parametrize("make", [strained_water, small_crystal])
def test_hessian_is_the_derivative_of_the_forces(network: Potential, make: object) -> None:
    atoms = make()  # type: ignore[operator]
    matrix = hessian(network, Structure.from_ase(atoms))
    expected = difference_hessian(network, atoms)
    np.testing.assert_allclose(matrix, expected, atol=1e-5 * np.abs(expected).max())
    # Moving everything together costs nothing.
    np.testing.assert_allclose(matrix.reshape(-1, len(atoms), 3).sum(axis=1), 0.0, atol=1e-9 * np.abs(matrix).max())


def test_product_needs_no_hessian_and_agrees_with_it(network: Potential) -> None:
    structure = Structure.from_ase(strained_water())
    vector = np.random.default_rng(0).normal(size=(3, 3))
    expected = (hessian(network, structure) @ vector.ravel()).reshape(3, 3)
    np.testing.assert_allclose(hessian_vector_product(network, structure, vector), expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(DataError, match="shape"):
        hessian_vector_product(network, structure, vector[:2])


def test_lone_atom_has_no_forces_constants(network: Potential) -> None:
    assert (hessian(network, Structure.from_ase(Atoms("O"))) == 0).all()


def test_dimer_vibrates_with_the_frequency_of_its_spring() -> None:
    potential = LennardJones(r_max=40.0)  # the envelope is flat where the bond is
    distance = 2 ** (1 / 6) * SIGMA
    dimer = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, distance]])
    spring = 72 * EPSILON / distance**2
    expected = np.sqrt(2 * spring / dimer.get_masses()[0]) * units._hbar * 1e10 * np.sqrt(units._e / units._amu)
    result = vibrations(potential, dimer)
    assert result.frequencies[-1] * units.invcm == pytest.approx(expected / units._e, rel=2e-3)
    np.testing.assert_allclose(result.frequencies[:5], 0.0, atol=3.0)
    assert result.zero_point_energy == pytest.approx(result.frequencies[-1] * units.invcm / 2, rel=1e-9)
    mode = result.modes[-1]
    np.testing.assert_allclose(mode[0], -mode[1], atol=1e-6)


def test_fixed_atoms_do_not_vibrate(lennard_jones: LennardJones) -> None:
    (minimum,) = relax(lennard_jones, [cluster(6)], RelaxSettings(fmax=1e-4))
    atoms = minimum.atoms
    free = vibrations(lennard_jones, atoms)
    assert free.imaginary == 0
    assert (np.abs(free.frequencies) < 5.0).sum() == 6
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    held = vibrations(lennard_jones, atoms)
    assert len(held.frequencies) == 9
    assert (held.modes[:, :3] == 0).all()
    atoms.set_constraint(FixAtoms(range(6)))
    with pytest.raises(DataError, match="fixed"):
        vibrations(lennard_jones, atoms)


def relaxed_crystal(potential: Potential) -> Atoms:
    (result,) = relax(potential, [bulk("Ar", "fcc", a=3.6)], RelaxSettings(fmax=1e-5, cell=True))
    return result.atoms


def test_elastic_constants_of_pairs_have_cauchys_symmetry_and_the_right_bulk_modulus(
    lennard_jones: LennardJones,
) -> None:
    atoms = relaxed_crystal(lennard_jones)
    result = elastic_constants(lennard_jones, atoms, strain=0.002)
    c11, c12, c44 = result.constants[0, 0], result.constants[0, 1], result.constants[3, 3]
    assert c12 == pytest.approx(c44, rel=2e-3)  # central pair forces, every atom a centre of inversion
    assert result.constants[1, 1] == pytest.approx(c11, rel=1e-6)
    assert result.stable
    volumes, energies = [], []
    for scale in np.linspace(0.995, 1.005, 7):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell.array * scale, scale_atoms=True)
        graph = AtomGraph.from_structure(Structure.from_ase(scaled), lennard_jones.r_max)
        volumes.append(scaled.get_volume())
        energies.append(float(lennard_jones(graph).energy))
    curvature = 2 * np.polyfit(volumes, energies, 3)[-3] + 6 * np.polyfit(volumes, energies, 3)[0] * atoms.get_volume()
    bulk_modulus = atoms.get_volume() * curvature * GPA_PER_EV_PER_ANGSTROM3
    assert result.bulk_modulus == pytest.approx(bulk_modulus, rel=5e-3)
    with pytest.raises(DataError, match="periodic"):
        elastic_constants(lennard_jones, cluster(4))


def test_phonons_agree_with_the_hessian(lennard_jones: LennardJones) -> None:
    pytest.importorskip("phonopy", reason="phonopy is not installed (pip install 'tdn[phonons]')")
    from tdn.simulation.phonons import fitting_supercell, phonons

    atoms = relaxed_crystal(lennard_jones)
    result = phonons(lennard_jones, atoms, supercell=(3, 3, 3), displacement=1e-3, mesh=15.0)
    assert result.stable
    assert abs(result.bands[0][0]).max() < 1e-2  # acoustic at the centre
    assert [name for _, name in result.labels][:2] == ["G", "X"]
    cell = result.phonopy.supercell
    structure = Structure(cell.numbers.astype(np.int64), cell.positions, cell.cell, np.ones(3, dtype=bool))
    expected = hessian(lennard_jones, structure).reshape(27, 3, 27, 3).transpose(0, 2, 1, 3)
    found = result.phonopy.force_constants
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    assert fitting_supercell(crystal(), 7.0) == [2, 2, 2]
    with pytest.raises(DataError, match="periodic"):
        phonons(lennard_jones, cluster(4))


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tdn", *map(str, args)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("command", "extra", "key"),
    [
        ("vibrations", (), "frequencies_per_cm"),
        ("elastic", ("--fmax", "1e3"), "constants_GPa"),
        ("phonons", ("--supercell", "1", "1", "1", "--mesh", "5"), "path"),
    ],
)
def test_commands_write_numbers_and_a_picture(
    monkeypatch: pytest.MonkeyPatch, model_file: Path, tmp_path: Path, command: str, extra: tuple[str, ...], key: str
) -> None:
    if command == "phonons":
        pytest.importorskip("phonopy", reason="phonopy is not installed (pip install 'tdn[phonons]')")
    torch.manual_seed(0)
    atoms = water() if command == "vibrations" else bulk("C", cubic=True)
    write(tmp_path / "start.extxyz", atoms)
    out = tmp_path / "out"
    assert run(monkeypatch, command, model_file, tmp_path / "start.extxyz", "-o", out, "--no-relax", "-q", *extra) == 0
    assert key in json.loads((out / f"{command}.json").read_text())
    assert (out / f"{command}.png").stat().st_size > 2000
    assert (out / "structure.extxyz").is_file()
