"""Error measures against numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tdn.evaluation import FramePrediction, measure_errors
from tdn.evaluation.tables import tabulate, tabulate_config_types, tabulate_elements
from tdn.structure import Structure


def frame(symbols, energy, forces, config_type=None, stress=None):
    from ase.data import atomic_numbers

    n = len(symbols)
    return Structure(
        numbers=np.array([atomic_numbers[s] for s in symbols]),
        positions=np.arange(3.0 * n).reshape(n, 3),
        cell=np.eye(3) * 9.0 if stress is not None else np.zeros((3, 3)),
        pbc=np.full(3, stress is not None),
        energy=energy,
        forces=None if forces is None else np.array(forces, dtype=float),
        stress=stress,
        info={"config_type": config_type} if config_type else {},
    )


def test_errors_of_three_values():
    errors = measure_errors([1.0, 2.0, 3.0], [1.0, 4.0, -1.0], scale=1000.0, relative=True)
    assert errors.mae == pytest.approx(2000.0)
    assert errors.rmse == pytest.approx(1000.0 * math.sqrt(20.0 / 3.0))
    assert errors.max == pytest.approx(4000.0)
    assert errors.count == 3
    assert errors.relative_rmse_percent == pytest.approx(100.0 * math.sqrt(20.0 / 18.0))


def test_large_total_energies_lose_no_digits():
    errors = measure_errors([-123456.000001], [-123456.0], scale=1000.0)
    assert errors.mae == pytest.approx(1e-3, rel=1e-4)


def test_energy_per_atom_divides_each_frame_by_its_own_size():
    structures = [frame("H", 1.0, None), frame("HHHH", 2.0, None)]
    predictions = [FramePrediction(1.5, np.zeros((1, 3)), None), FramePrediction(2.4, np.zeros((4, 3)), None)]
    table = tabulate(structures, predictions)
    assert table.energy is not None
    assert table.energy_per_atom is not None
    assert table.energy.mae == pytest.approx(450.0)
    assert table.energy_per_atom.mae == pytest.approx((500.0 + 100.0) / 2)
    assert table.forces is None
    assert table.stress is None
    assert (table.frames, table.atoms) == (2, 5)


def test_forces_of_each_element_are_apart():
    structures = [frame("HO", None, [[1, 0, 0], [0, 2, 0]]), frame("H", None, None)]
    predictions = [
        FramePrediction(0.0, np.array([[1.3, 0, 0], [0, 2, 0]]), None),
        FramePrediction(0.0, np.full((1, 3), 99.0), None),  # no label: must not count
    ]
    elements = tabulate_elements(structures, predictions)
    assert list(elements) == ["H", "O"]
    assert elements["H"].mae == pytest.approx(100.0)
    assert elements["H"].rmse == pytest.approx(300.0 / math.sqrt(3.0))
    assert elements["H"].relative_rmse_percent == pytest.approx(30.0)
    assert elements["O"].max == 0.0
    forces = tabulate(structures, predictions).forces
    assert forces is not None
    assert forces.count == 6
    assert forces.mae == pytest.approx(50.0)


def test_stress_counts_frames_that_have_it():
    stress = np.diag([0.1, 0.1, 0.1])
    structures = [frame("H", 0.0, None, stress=stress), frame("H", 0.0, None)]
    predictions = [FramePrediction(0.0, np.zeros((1, 3)), stress * 1.3), FramePrediction(0.0, np.zeros((1, 3)), None)]
    errors = tabulate(structures, predictions).stress
    assert errors is not None
    assert errors.count == 9
    assert errors.mae == pytest.approx(10.0)
    assert errors.max == pytest.approx(30.0)


def test_config_types_are_apart_and_absent_ones_are_other():
    predictions = [FramePrediction(0.0, np.zeros((1, 3)), None)] * 3
    structures = [frame("H", 0.1, None, "b"), frame("H", 0.2, None, "a"), frame("H", 0.3, None)]
    tables = tabulate_config_types(structures, predictions)
    assert list(tables) == ["a", "b", "other"]
    assert [table.energy.mae for table in tables.values()] == pytest.approx([200.0, 100.0, 300.0])
    assert tabulate_config_types(structures[2:], predictions[2:]) == {}


def test_forces_of_fixed_atoms_are_no_errors():
    structure = replace(frame("HO", None, [[1, 0, 0], [0, 2, 0]]), fixed=np.array([True, False]))
    prediction = FramePrediction(0.0, np.array([[99.0, 0, 0], [0, 2.5, 0]]), None)
    table = tabulate([structure], [prediction])
    assert table.forces is not None
    assert table.forces.max == pytest.approx(500.0)
    assert table.forces.count == 3
    assert set(tabulate_elements([structure], [prediction])) == {"O"}
    wholly_held = replace(structure, fixed=np.array([True, True]))
    assert tabulate([wholly_held], [prediction]).forces is None
