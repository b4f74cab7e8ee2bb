"""The ASE calculator against the potential itself, ASE's conventions, and every way of giving it bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.io import read, write
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from tdn import Potential, Structure, TDNCalculator, TDNConfig, save_model
from tdn.errors import DataError
from tdn.graph import AtomGraph

CONFIG = TDNConfig(num_channels=8, num_layers=2, r_max=4.0, radial_hidden=(16,))
REFERENCES = {1: -13.6, 6: -1029.0, 8: -2042.0}


def make_potential(seed: int = 0, references: dict[int, float] | None = None) -> Potential:
    torch.manual_seed(seed)
    return Potential(CONFIG, references or REFERENCES, scale=1.5).double().eval()


def crystal() -> Atoms:
    atoms = bulk("C", cubic=True)
    atoms.numbers[::2] = 8
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(
        atoms.cell.array @ np.array([[1.0, 0.05, 0.0], [0.0, 1.05, 0.1], [0.0, 0.0, 0.97]]), scale_atoms=True
    )
    return atoms


def attached(atoms: Atoms, **options: object) -> Atoms:
    atoms.calc = TDNCalculator(make_potential(), **options)  # type: ignore[arg-type]
    return atoms


def test_results_are_those_of_the_potential() -> None:
    atoms, potential = attached(crystal()), make_potential()
    prediction = potential(AtomGraph.from_structure(Structure.from_ase(atoms), potential.r_max))
    assert atoms.get_potential_energy() == pytest.approx(float(prediction.energy), rel=1e-14)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_potential_energies(), prediction.energies.numpy(), rtol=1e-14)
    np.testing.assert_allclose(atoms.get_forces(), prediction.forces.numpy(), atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), prediction.stress[0].numpy(), atol=1e-14)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-14)


def test_forces_and_stress_have_ase_order_and_sign() -> None:
    atoms = attached(crystal())
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=2e-6)
    stress = atoms.get_stress()
    assert np.abs(stress).min() > 1e-4, "a vanishing component would not tell the order"
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), atol=1e-6)


def test_stresses_of_atoms_add_up_to_the_stress() -> None:
    atoms = attached(crystal())
    stress = atoms.get_stress()
    stresses = atoms.get_stresses()
    assert stresses.shape == (len(atoms), 6)
    np.testing.assert_allclose(stresses.sum(axis=0), stress, rtol=1e-10)
    assert np.ptp(stresses, axis=0).min() > 1e-5, "equal parts would tell nothing"
    np.testing.assert_allclose(atoms.get_stress(), stress, rtol=0)
    with pytest.raises(PropertyNotImplementedError, match="periodic in all three directions"):
        attached(molecule("H2O")).get_stresses()


def test_stresses_of_a_committee_are_the_mean() -> None:
    both = crystal()
    both.calc = TDNCalculator([make_potential(0), make_potential(1)])
    parts = []
    for seed in (0, 1):
        alone = crystal()
        alone.calc = TDNCalculator(make_potential(seed))
        parts.append(alone.get_stresses())
    np.testing.assert_allclose(both.get_stresses(), np.mean(parts, axis=0), rtol=1e-10)


def test_hessian_is_symmetric_and_the_derivative_of_the_forces() -> None:
    atoms = attached(molecule("H2O"))
    matrix = atoms.calc.get_hessian(atoms)
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[1, 2] += sign * 1e-4
        ends.append(moved.get_forces().ravel())
    np.testing.assert_allclose(matrix[5], (ends[1] - ends[0]) / 2e-4, atol=1e-5 * np.abs(matrix).max())


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_stress_of_a_structure_that_is_not_fully_periodic_is_refused(pbc: object) -> None:
    atoms = attached(molecule("H2O", vacuum=4.0))
    atoms.pbc = pbc
    atoms.get_forces()
    assert "stress" not in atoms.calc.results
    with pytest.raises(PropertyNotImplementedError, match="periodic in all three directions"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_potential_energy())


def test_results_survive_writing_and_reading(tmp_path: Path) -> None:
    for atoms in (attached(crystal()), attached(molecule("H2O"))):
        atoms.get_forces()
        write(tmp_path / "frame.extxyz", atoms)
        write(tmp_path / "frame.traj", atoms)
        for name in ("frame.extxyz", "frame.traj"):
            again = read(tmp_path / name)
            np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), atol=1e-7)


@pytest.mark.parametrize("make", [crystal, lambda: molecule("CH3CH2OH")])
def test_skin_changes_no_result_along_a_trajectory(make: object) -> None:
    atoms = make()  # type: ignore[operator]
    with_skin, without = (TDNCalculator(make_potential(), skin=skin) for skin in (1.0, 0.0))
    atoms.calc = with_skin
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))
    dynamics, steps = VelocityVerlet(atoms, timestep=0.5 * fs), 25
    for _ in dynamics.irun(steps):
        copy = atoms.copy()
        copy.calc = without
        assert copy.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=1e-14)
        np.testing.assert_allclose(copy.get_forces(), atoms.get_forces(), rtol=0, atol=1e-11)
    assert without.neighbors.rebuilds == steps + 1
    assert with_skin.neighbors.rebuilds < steps / 3


def test_list_is_rebuilt_when_an_atom_has_moved_half_the_skin() -> None:
    atoms = attached(crystal(), skin=0.4)
    atoms.get_forces()
    calc = atoms.calc
    atoms.positions[3] += [0.0, 0.19, 0.0]
    atoms.get_forces()
    assert calc.neighbors.rebuilds == 1
    # From where the list was built, not from the last step.
    atoms.positions[3] += [0.0, 0.02, 0.0]
    atoms.get_forces()
    assert calc.neighbors.rebuilds == 2


@pytest.mark.parametrize("change", ["cell", "pbc", "numbers", "length"])
def test_list_is_rebuilt_when_the_structure_changes(change: str) -> None:
    atoms = attached(crystal(), skin=1.0)
    atoms.get_forces()
    if change == "cell":
        atoms.set_cell(atoms.cell.array * 1.001, scale_atoms=False)
    elif change == "pbc":
        atoms.pbc = (True, True, False)
    elif change == "numbers":
        atoms.numbers[0] = 1
    else:
        atoms.append("H")
        atoms.positions[-1] = atoms.positions[0] + [0.0, 0.0, 0.7]
    forces = atoms.get_forces()
    assert atoms.calc.neighbors.rebuilds == 2
    np.testing.assert_allclose(forces, attached(atoms.copy(), skin=0.0).get_forces(), atol=1e-12)


@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_bad_structures_are_refused(skin: float) -> None:
    atoms = attached(molecule("H2O"), skin=skin)
    atoms.get_forces()
    with pytest.raises(DataError, match="knows H, C, O; the structure also has N"):
        attached(molecule("NH3"), skin=skin).get_potential_energy()
    broken = atoms.copy()
    broken.calc = atoms.calc
    broken.positions[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        broken.get_potential_energy()
    broken.positions[0] = broken.positions[1] + [0.0, 0.0, 0.05]
    with pytest.raises(DataError, match=r"0\.050 Å apart"):
        broken.get_potential_energy()


def test_overlap_within_the_skin_is_refused_without_a_rebuild() -> None:
    atoms = attached(Atoms("H2", [[0, 0, 0], [0, 0, 0.5]]), skin=2.0)
    atoms.get_forces()
    atoms.positions[1, 2] = 0.05
    with pytest.raises(DataError, match=r"0\.050 Å apart"):
        atoms.get_forces()
    atoms.positions[1, 2] = 0.5
    assert np.isfinite(atoms.get_potential_energy())
    assert atoms.calc.neighbors.rebuilds == 1


def test_lone_atom_has_its_reference_energy() -> None:
    atoms = attached(Atoms("C"))
    assert atoms.get_potential_energy() == REFERENCES[6]
    assert np.array_equal(atoms.get_forces(), np.zeros((1, 3)))


def test_committee_gives_means_and_spreads() -> None:
    models = [make_potential(seed) for seed in range(3)]
    atoms = crystal()
    singles = []
    for model in models:
        atoms.calc = TDNCalculator(model)
        singles.append(
            (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies())
        )
    energy, forces, stress, energies = (np.array(values) for values in zip(*singles, strict=True))
    atoms.calc = TDNCalculator(models)
    assert atoms.get_potential_energy() == pytest.approx(energy.mean(), rel=1e-14)
    np.testing.assert_allclose(atoms.get_forces(), forces.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(), stress.mean(axis=0), atol=1e-13)
    results = atoms.calc.results
    assert results["energy_std"] == pytest.approx(energy.std(), rel=1e-8)
    np.testing.assert_allclose(results["energies_std"], energies.std(axis=0), rtol=1e-6)
    expected = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    np.testing.assert_allclose(results["forces_std"], expected, rtol=1e-8)
    assert expected.min() > 0.0


def test_committee_of_one_kind_only() -> None:
    with pytest.raises(DataError, match="must know the same elements, got H C O; H O"):
        TDNCalculator([make_potential(), make_potential(references={1: 0.0, 8: 0.0})])
    with pytest.raises(DataError, match="at least one model"):
        TDNCalculator([])


def test_model_file_precision_and_device(tmp_path: Path) -> None:
    save_model(tmp_path / "model.tdn", make_potential().float())
    atoms = molecule("CH3CH2OH")
    energies = {}
    for dtype in (None, "float32", "float64", torch.float64):
        atoms.calc = TDNCalculator(str(tmp_path / "model.tdn"), device="cpu", dtype=dtype)
        energies[dtype] = atoms.get_potential_energy()
    assert energies[None] == energies["float32"] != energies["float64"] == energies[torch.float64]
    assert energies["float32"] == pytest.approx(energies["float64"], abs=1e-4)
    with pytest.raises(DataError, match="float16"):
        TDNCalculator(tmp_path / "model.tdn", dtype="float16")


def test_potential_given_as_object_stays_as_it_is() -> None:
    potential = make_potential().float().train()
    calculator = TDNCalculator(potential, dtype="float64")
    assert potential.dtype == torch.float32
    assert potential.training
    assert calculator.potentials[0].dtype == torch.float64
    assert not calculator.potentials[0].training
