"""Shares add up, groups are complete, and what is concentrated is found where it was put."""

import dataclasses
import itertools

import numpy as np
import pytest
from ase import Atoms

from tdn.errors import ConfigError
from tdn.evaluation.breakdown import break_down
from tdn.evaluation.evaluate import Evaluation, FramePrediction, Timing
from tdn.evaluation.tables import tabulate, tabulate_by, tabulate_config_types, tabulate_elements
from tdn.structure import Structure

TIMING = Timing(0.0, 1.0, 1.0, 1.0, "cpu", "float64", 1)


def make_evaluation(structures, predictions):
    return Evaluation(
        tuple(structures), tuple(predictions), tabulate(structures, predictions),
        tabulate_elements(structures, predictions), tabulate_config_types(structures, predictions),
        {1: 0.0, 6: 0.0, 16: 0.0}, TIMING,
    )  # fmt: skip


@pytest.fixture
def evaluation():
    """Twenty frames; every fifth contains sulfur and has ten times the error."""
    rng, structures, predictions = np.random.default_rng(0), [], []
    for k in range(20):
        atoms = Atoms("CH3S" if k % 5 == 0 else "CH4", rng.normal(size=(5, 3)))
        structure = Structure.from_ase(
            atoms, energy=-10.0, forces=rng.normal(size=(len(atoms), 3)),
            info={"step": k, "weight": 0.5 * k, **({"kind": "odd"} if k % 2 else {})},
        )  # fmt: skip
        factor = 10.0 if k % 5 == 0 else 1.0
        noise = 0.01 * factor * rng.normal(size=(len(atoms), 3))
        predictions.append(FramePrediction(-10.0 + 0.01 * factor * (-1) ** k, structure.forces + noise, None))
        structures.append(structure)
    return make_evaluation(structures, predictions)


def test_shares_add_up_to_one(evaluation):
    found = break_down(evaluation)
    for name in ("share_of_atoms", "share_of_error"):
        assert sum(getattr(c, name) for c in found.force_classes) == pytest.approx(1.0)
    for name in ("share_of_atoms", "share_of_force_error"):
        assert sum(getattr(e, name) for e in found.elements) == pytest.approx(1.0)
    assert sum(c.atoms for c in found.force_classes) == evaluation.overall.atoms


def test_classes_of_magnitudes_hold_the_error_of_all_atoms(evaluation):
    classes = break_down(evaluation).force_classes
    total = sum(c.forces.count * c.forces.rmse**2 for c in classes) / sum(c.forces.count for c in classes)
    assert np.sqrt(total) == pytest.approx(evaluation.overall.forces.rmse)
    assert all(a.high <= b.low for a, b in itertools.pairwise(classes))


def test_element_that_makes_the_energy_error_is_found(evaluation):
    sulfur = break_down(evaluation).elements[-1]
    assert (sulfur.symbol, sulfur.frames) == ("S", 4)
    assert sulfur.share_of_energy_error > 0.95
    assert sulfur.share_of_frames == pytest.approx(0.2)


def test_errors_of_frames_are_signed_energies_and_rmse_of_forces(evaluation):
    found = break_down(evaluation)
    k = 5
    structure, prediction = evaluation.structures[k], evaluation.predictions[k]
    assert found.energy_error[k] == pytest.approx((prediction.energy - structure.energy) / len(structure))
    expected = np.sqrt(np.square(prediction.forces - structure.forces).mean())
    assert found.force_rmse[k] == pytest.approx(expected)


def test_frames_without_labels_have_no_errors(evaluation):
    bare = [dataclasses.replace(s, energy=None, forces=None) for s in evaluation.structures]
    found = break_down(make_evaluation(bare, evaluation.predictions))
    assert np.isnan(found.energy_error).all()
    assert np.isnan(found.force_rmse).all()
    assert found.force_classes == ()


@pytest.mark.parametrize("key", ["kind", "step", "weight"])
def test_every_frame_is_in_one_group(evaluation, key):
    tables = tabulate_by(evaluation.structures, evaluation.predictions, key)
    assert sum(table.frames for table in tables.values()) == 20


def test_words_are_groups_and_many_numbers_are_ranges_in_order(evaluation):
    assert list(tabulate_by(evaluation.structures, evaluation.predictions, "kind")) == ["odd", "other"]
    ranges = tabulate_by(evaluation.structures, evaluation.predictions, "step")
    assert len(ranges) == 6
    lows = [float(name.partition(" to ")[0]) for name in ranges]
    assert lows == sorted(lows)
    few = tabulate_by(evaluation.structures[:12], evaluation.predictions[:12], "step")
    assert list(few) == [str(k) for k in range(12)]


def test_unknown_key_is_refused_with_those_that_there_are(evaluation):
    with pytest.raises(ConfigError, match="kind, step, weight"):
        break_down(evaluation, ["molecule"])
