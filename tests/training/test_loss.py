"""The loss on numbers small enough to check by hand, and what is left out of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tdn.data.dataset import GraphDataset, Targets
from tdn.graph import AtomGraph, Prediction
from tdn.structure import Structure
from tdn.training.config import TrainingConfig
from tdn.training.loss import ErrorSums, Residuals, label_counts, loss_terms, residuals, weighted_loss

SCALE = 2.0


def structures() -> list[Structure]:
    """Two atoms with all labels in a cell of 64 Å³; three atoms without cell and with an energy only."""
    cell = np.eye(3) * 4.0
    pair = Structure(
        numbers=np.array([1, 1]),
        positions=np.array([[0.0, 0, 0], [1, 0, 0]]),
        cell=cell,
        pbc=np.ones(3, dtype=bool),
        energy=-3.0,
        forces=np.array([[1.0, 0, 0], [-1, 0, 0]]),
        stress=np.eye(3) * 0.5,
    )
    bare = Structure(
        numbers=np.array([1, 6, 1]),
        positions=np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        energy=7.0,
    )
    return [pair, bare]


def batch() -> tuple[AtomGraph, Targets, Prediction]:
    graph, targets = GraphDataset(structures(), 2.0).batch([0, 1])
    stress = torch.stack([torch.eye(3) * 0.25, torch.full((3, 3), torch.nan)])
    prediction = Prediction(
        energy=torch.tensor([-2.0, 10.0], dtype=torch.float64, requires_grad=True),
        energies=torch.zeros(5, dtype=torch.float64),
        forces=torch.full((5, 3), 0.5, requires_grad=True),
        stress=stress.requires_grad_(True),
    )
    return graph, targets, prediction


def found() -> tuple[Residuals, torch.Tensor]:
    graph, targets, prediction = batch()
    return residuals(prediction, graph, targets), label_counts(graph, targets)


def test_missing_labels_are_left_out_of_residuals_and_counts():
    result, counts = found()
    assert counts.tolist() == [2, 6, 9, 1]
    assert result.energy.tolist() == [1.0, 3.0]
    assert result.energy_per_atom.tolist() == [0.5, 1.0]
    assert result.forces.tolist() == [[-0.5, 0.5, 0.5], [1.5, 0.5, 0.5]]
    torch.testing.assert_close(result.virial_per_atom, (torch.eye(3) * -0.25 * 64 / 2)[None])


def test_loss_is_the_weighted_mean_of_squares_in_units_of_the_scale():
    result, counts = found()
    config = TrainingConfig(loss="mse", energy_weight=30, forces_weight=1, stress_weight=0.5)
    by_hand = (30 * (0.25 + 1) / 2 + (5 * 0.25 + 2.25) / 6 + 0.5 * 3 * 64 / 9) / SCALE**2
    assert weighted_loss(loss_terms(result, config, SCALE), counts, config).item() == pytest.approx(by_hand)


def test_huber_agrees_with_squares_for_small_errors_and_is_linear_for_large_ones():
    def loss(error: float, **options) -> float:
        result, counts = found()
        result = replace(result, energy_per_atom=torch.tensor([error, error], dtype=torch.float64))
        config = TrainingConfig(forces_weight=0, stress_weight=0, **options)
        return weighted_loss(loss_terms(result, config, 1.0), counts, config).item()

    assert loss(0.05, loss="huber", huber_delta=0.1) == pytest.approx(loss(0.05, loss="mse"))
    steep = [loss(x, loss="huber", huber_delta=0.1) for x in (10.0, 20.0, 30.0)]
    assert steep[2] - steep[1] == pytest.approx(steep[1] - steep[0])


def test_undefined_stress_does_not_reach_the_gradient():
    graph, targets, prediction = batch()
    config = TrainingConfig()
    terms = loss_terms(residuals(prediction, graph, targets), config, SCALE)
    weighted_loss(terms, label_counts(graph, targets), config).backward()
    assert prediction.stress.grad is not None
    assert torch.isfinite(prediction.stress.grad).all()
    assert prediction.forces.grad is not None
    assert (prediction.forces.grad[2:] == 0).all()


def test_labels_of_no_kind_give_no_loss_instead_of_a_division_by_zero():
    bare = replace(structures()[1], energy=None)
    graph, targets = GraphDataset([bare], 2.0).batch([0])
    _, _, prediction = batch()
    prediction = Prediction(
        prediction.energy[1:], prediction.energies[2:], prediction.forces[2:], prediction.stress[1:]
    )
    config = TrainingConfig()
    result, counts = residuals(prediction, graph, targets), label_counts(graph, targets)
    assert weighted_loss(loss_terms(result, config, SCALE), counts, config).item() == 0.0


def test_sums_of_batches_give_the_errors_and_the_loss_of_their_union():
    graph, targets, prediction = batch()
    config = TrainingConfig()
    whole, result = ErrorSums(), residuals(prediction, graph, targets)
    whole.add(result, label_counts(graph, targets), loss_terms(result, config, SCALE))
    parts = ErrorSums()
    dataset = GraphDataset(structures(), 2.0)
    for k, atoms in ((0, slice(0, 2)), (1, slice(2, 5))):
        one, one_targets = dataset.batch([k])
        view = Prediction(
            prediction.energy[k : k + 1],
            prediction.energies[atoms],
            prediction.forces[atoms],
            prediction.stress[k : k + 1],
        )
        part = residuals(view, one, one_targets)
        parts.add(part, label_counts(one, one_targets), loss_terms(part, config, SCALE))
    assert parts.loss(config) == pytest.approx(whole.loss(config))
    assert parts.errors() == pytest.approx(whole.errors())
    errors = whole.errors("valid_")
    assert errors["valid_energy_mae_mev"] == pytest.approx(2000)
    assert errors["valid_energy_mae_mev_per_atom"] == pytest.approx(750)
    assert errors["valid_forces_rmse"] == pytest.approx(1e3 * (3.5 / 6) ** 0.5)


def test_errors_without_labels_are_absent_and_not_zero():
    assert set(ErrorSums().errors().values()) == {None}


def test_forces_of_fixed_atoms_count_neither_in_the_loss_nor_in_the_errors():
    pair, bare = structures()
    held = replace(pair, fixed=np.array([False, True]))
    graph, targets = GraphDataset([held, bare], 2.0).batch([0, 1])
    _, _, prediction = batch()
    result, counts = residuals(prediction, graph, targets), label_counts(graph, targets)
    assert counts.tolist() == [2, 3, 9, 1]
    assert result.forces.tolist() == [[-0.5, 0.5, 0.5]]
    assert result.energy.tolist() == [1.0, 3.0]


def test_l1_loss_is_that_of_the_paper():
    """Energy errors 1 eV of two atoms and 3 eV of three; force errors (-0.5, 0.5, 0.5) and (1.5, 0.5, 0.5)."""
    result, counts = found()
    norm = ((3 * 0.25 + 1.5**2 + 2 * 0.25) / 2) ** 0.5
    assert result.force_norms.tolist() == pytest.approx([norm])
    config = TrainingConfig(loss="l1", energy_weight=2.0, forces_weight=3.0, stress_weight=0.0)
    expected = 2.0 * (1 / 2 + 3 / 3) / 2 + 3.0 * norm
    assert weighted_loss(loss_terms(result, config, SCALE), counts, config).item() == pytest.approx(expected)
    whole = config.model_copy(update={"energy_per": "structure"})
    expected = 2.0 * (1 + 3) / 2 + 3.0 * norm
    assert weighted_loss(loss_terms(result, whole, SCALE), counts, whole).item() == pytest.approx(expected)


def test_l1_loss_of_perfect_forces_has_a_finite_gradient():
    graph, targets, prediction = batch()
    forces = targets.forces.clone().requires_grad_(True)
    result = residuals(replace(prediction, forces=forces), graph, targets)
    config = TrainingConfig(loss="l1")
    weighted_loss(loss_terms(result, config, SCALE), label_counts(graph, targets), config).backward()
    assert forces.grad is not None
    assert torch.isfinite(forces.grad).all()


def test_vector_rmse_is_the_mean_over_structures():
    structures_ = structures()
    graph, targets = GraphDataset([structures_[0], structures_[0], structures_[1]], 2.0).batch([0, 1, 2])
    forces = targets.forces.clone()
    forces[0, 0] += 3.0
    forces[3] += torch.tensor([0.0, 4.0, 3.0], dtype=torch.float64)
    prediction = Prediction(torch.zeros(3, dtype=torch.float64), forces[:, 0], forces, torch.zeros(3, 3, 3))
    result, sums, config = residuals(prediction, graph, targets), ErrorSums(), TrainingConfig()
    sums.add(result, label_counts(graph, targets), loss_terms(result, config, 1.0))
    assert sums.errors()["forces_vector_rmse"] == pytest.approx(1e3 * (3 / 2**0.5 + 5 / 2**0.5) / 2)


def test_energies_weigh_more_in_the_last_part_of_a_run_and_judge_all_of_it():
    result, counts = found()
    plain, heavy = TrainingConfig(energy_weight=3.0), TrainingConfig(energy_weight=300.0)
    staged = TrainingConfig(energy_weight=3.0, energy_weight_final=300.0, final_fraction=0.2)
    terms = loss_terms(result, staged, SCALE)
    light, strong = (weighted_loss(terms, counts, config).item() for config in (plain, heavy))
    assert strong > 10 * light
    losses = [weighted_loss(terms, counts, staged, fraction).item() for fraction in (0.0, 0.79, 0.81, 1.0)]
    assert losses == [light, light, strong, strong]
    sums = ErrorSums()
    sums.add(result, counts, terms)
    assert sums.loss(staged) == pytest.approx(strong)
