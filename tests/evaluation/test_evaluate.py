"""Evaluation of a model: batches change nothing, the JSON keeps its names, the written frames can be read again."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from tdn.data.reading import read_frames
from tdn.errors import DataError
from tdn.evaluation import evaluate, write_predictions
from tdn.graph import AtomGraph
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.structure import Structure

ERRORS = {"mae", "rmse", "max", "count"}
QUANTITIES = {"energy", "energy_per_atom", "forces", "stress"}


@pytest.fixture(scope="module")
def potential():
    torch.manual_seed(1)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=1, product_order=2, r_max=4.0)
    return Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}).double().eval()


@pytest.fixture(scope="module")
def structures():
    rng = np.random.default_rng(3)
    frames = []
    for k, name in enumerate(["H2O", "CH4", "CH3OH", "H2O", "CO2"]):
        atoms = molecule(name)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        labels = {"energy": -100.0 * k, "forces": rng.normal(size=(len(atoms), 3))} if k else {}
        frames.append(Structure.from_ase(atoms, **labels, info={"config_type": "odd" if k % 2 else "even"}))
    diamond = bulk("C", cubic=True)
    diamond.rattle(0.05, rng=rng)
    return [*frames, Structure.from_ase(diamond, stress=np.eye(3) * 0.01, info={"config_type": "solid"})]


def test_batches_predict_what_single_structures_do(potential, structures):
    together = evaluate(potential, structures)
    for budget in (1, 60):
        apart = evaluate(potential, structures, max_edges=budget)
        for one, other in zip(together.predictions, apart.predictions, strict=True):
            assert one.energy == pytest.approx(other.energy, abs=1e-10)
            np.testing.assert_allclose(one.forces, other.forces, atol=1e-11)
    for structure, prediction in zip(structures, together.predictions, strict=True):
        alone = potential(AtomGraph.from_structure(structure, potential.r_max))
        assert prediction.energy == pytest.approx(alone.energy.item(), abs=1e-10)
        assert (prediction.stress is None) == (not structure.pbc.all())


def test_json_names_are_stable(potential, structures):
    content = evaluate(potential, structures).to_dict()
    assert set(content) == QUANTITIES | {
        "force_vector_rmse",
        "frames",
        "atoms",
        "per_element",
        "per_config_type",
        "timing",
    }
    for quantity in QUANTITIES:
        extra = {"relative_rmse_percent"} if quantity == "forces" else set()
        assert set(content[quantity]) == ERRORS | extra
    assert set(content["per_element"]) == {"H", "C", "O"}
    assert set(content["per_config_type"]) == {"even", "odd", "solid"}
    assert set(content["per_config_type"]["odd"]) == QUANTITIES | {"force_vector_rmse", "frames", "atoms"}
    assert content["per_config_type"]["solid"]["forces"] is None
    assert set(content["timing"]) == {
        *("neighbors_s", "predict_s", "ms_per_frame", "us_per_atom"),
        *("device", "dtype", "threads"),
    }
    assert (content["frames"], content["atoms"]) == (6, 3 + 5 + 6 + 3 + 3 + 8)


def test_perfect_labels_have_no_error(potential, structures):
    first = evaluate(potential, structures)
    labelled = [
        replace(s, energy=p.energy, forces=p.forces, stress=p.stress)
        for s, p in zip(structures, first.predictions, strict=True)
    ]
    overall = evaluate(potential, labelled, max_edges=100).overall
    assert overall.energy.max < 1e-7
    assert overall.forces.max < 1e-7
    assert overall.stress.max < 1e-7


def test_written_predictions_keep_labels_and_can_be_read(potential, structures, tmp_path):
    evaluation = evaluate(potential, structures)
    path = tmp_path / "predictions.extxyz"
    write_predictions(path, evaluation)
    frames = ase.io.read(path, index=":")
    for atoms, structure, prediction in zip(frames, structures, evaluation.predictions, strict=True):
        assert atoms.info["config_type"] == structure.info["config_type"]
        assert atoms.info["TDN_energy"] == pytest.approx(prediction.energy, abs=1e-9)
        np.testing.assert_allclose(atoms.arrays["TDN_forces"], prediction.forces, atol=1e-7)
        assert ("REF_energy" in atoms.info) == (structure.energy is not None)
        assert ("TDN_stress" in atoms.info) == (prediction.stress is not None)
    again = read_frames(path, required=(), allow_partial=True)
    assert again.report.energy.key == "REF_energy"
    assert evaluate(potential, again.structures).overall.forces.mae == pytest.approx(
        evaluation.overall.forces.mae, rel=1e-5
    )


def test_unknown_elements_and_empty_sets_are_refused(potential, structures):
    with pytest.raises(DataError, match="knows H, C, O; the structure also has N"):
        evaluate(potential, [*structures, Structure.from_ase(molecule("NH3"))])
    with pytest.raises(DataError, match="no frames"):
        evaluate(potential, [])


def test_force_vector_rmse_is_that_of_the_paper(potential, structures):
    """Mean over frames of the root of the mean over atoms of the squared length of the force error, 2507.01131."""
    evaluation = evaluate(potential, structures)
    lengths = [
        np.sqrt(np.mean(np.sum((p.forces - s.forces) ** 2, axis=1)))
        for p, s in zip(evaluation.predictions, evaluation.structures, strict=True)
        if s.forces is not None
    ]
    assert evaluation.overall.force_vector_rmse == pytest.approx(1e3 * np.mean(lengths))
