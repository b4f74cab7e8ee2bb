"""Metrics of the Open Catalyst tasks against numbers worked out by hand and formulas written out in loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tdn.errors import DataError
from tdn.evaluation import FramePrediction
from tdn.evaluation.catalysis import (
    DISTANCE_THRESHOLDS,
    TaskMetrics,
    cosine_similarity,
    displacements,
    is2re_metrics,
    is2rs_metrics,
    s2ef_metrics,
)
from tdn.structure import Structure


def structure(n: int = 2, fixed: list[bool] | None = None, **labels: object) -> Structure:
    return Structure(
        numbers=np.full(n, 29),
        positions=np.arange(3.0 * n).reshape(n, 3),
        cell=np.eye(3) * 10.0,
        pbc=np.ones(3, dtype=bool),
        fixed=None if fixed is None else np.array(fixed),
        **labels,
    )


def test_is2re_of_four_energies():
    references = [structure(energy=e) for e in (-1.0, 0.0, 2.0, 5.0)]
    metrics = is2re_metrics(references, [-1.019, 0.02, 2.5, 4.0])
    assert metrics["energy_mae"] == pytest.approx((0.019 + 0.02 + 0.5 + 1.0) / 4)
    assert metrics["energy_mse"] == pytest.approx((0.019**2 + 0.02**2 + 0.25 + 1.0) / 4)
    # 0.02 is not below 0.02.
    assert metrics["energy_within_threshold"] == 0.25


def test_s2ef_of_three_systems():
    zeros = np.zeros((2, 3))
    references = [
        structure(energy=0.0, forces=zeros, fixed=[False, True]),
        structure(energy=0.0, forces=zeros),
        structure(energy=0.0, forces=zeros),
    ]
    fixed_is_wrong = np.array([[0.029, 0, 0], [9.0, 9.0, 9.0]])
    one_component_off = np.array([[0.0, 0, 0], [0, 0.03, 0]])
    predictions = [
        FramePrediction(0.019, fixed_is_wrong, None),
        FramePrediction(0.0, one_component_off, None),
        FramePrediction(-0.021, zeros, None),
    ]
    metrics = s2ef_metrics(references, predictions)
    assert metrics["energy_forces_within_threshold"] == pytest.approx(1 / 3)
    assert metrics["energy_mae"] == pytest.approx(0.04 / 3)
    # Five free atoms.
    assert metrics["forces_mae"] == pytest.approx((0.029 + 0.03) / 15)
    assert metrics["forcesx_mae"] == pytest.approx(0.029 / 5)
    assert metrics["forcesy_mae"] == pytest.approx(0.03 / 5)
    assert metrics["forcesz_mae"] == 0
    assert metrics["forces_magnitude_error"] == pytest.approx((0.029 + 0.03) / 5)


def test_force_metrics_equal_their_formulas():
    rng = np.random.default_rng(0)
    references = [
        structure(n, energy=float(n), forces=rng.normal(size=(n, 3)), fixed=[bool(k % 3 == 0) for k in range(n)])
        for n in (2, 5, 7)
    ]
    predictions = [FramePrediction(0.0, rng.normal(size=(len(s), 3)), None) for s in references]
    components, cosines, magnitudes = [], [], []
    for s, p in zip(references, predictions, strict=True):
        for atom in range(len(s)):
            if s.fixed[atom]:
                continue
            a, b = p.forces[atom], s.forces[atom]
            components += [abs(a[k] - b[k]) for k in range(3)]
            dot = sum(a[k] * b[k] for k in range(3))
            cosines.append(dot / (math.hypot(*a) * math.hypot(*b)))
            magnitudes.append(abs(math.hypot(*a) - math.hypot(*b)))
    metrics = s2ef_metrics(references, predictions)
    piecewise = TaskMetrics("s2ef")
    for s, p in zip(references, predictions, strict=True):
        piecewise.add([s], [p.energy], [p.forces])
    assert piecewise.result() == pytest.approx(metrics)
    assert metrics["forces_mae"] == pytest.approx(sum(components) / len(components))
    assert metrics["forces_cosine_similarity"] == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)
    assert metrics["forces_magnitude_error"] == pytest.approx(sum(magnitudes) / len(magnitudes))


def test_cosine_is_that_of_pytorch():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 50, 3))
    a[0] = 0
    b[1] = 1e-9
    expected = torch.cosine_similarity(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    np.testing.assert_allclose(cosine_similarity(a, b), expected.numpy(), atol=1e-6)


def test_thresholds_of_adwt_are_the_published_ones():
    assert len(DISTANCE_THRESHOLDS) == 490
    assert DISTANCE_THRESHOLDS[0] == 0.01
    assert DISTANCE_THRESHOLDS[-1] == pytest.approx(0.499)


def test_adwt_of_known_distances():
    references = [structure(fixed=[False, True]), structure()]
    moved = [s.positions.copy() for s in references]
    moved[0][0, 2] += 0.2505
    moved[0][1] += 3.0  # fixed: does not count
    moved[1][0, 0] += 0.5
    moved[1][1, 1] += 0.7  # mean distance 0.6, beyond all thresholds
    # 0.251, 0.252, ..., 0.499 are above 0.2505.
    assert is2rs_metrics(references, moved)["average_distance_within_threshold"] == pytest.approx(249 / 490 / 2)


def test_adwt_of_a_perfect_relaxation_is_one_whatever_the_image():
    reference = structure(4)
    images = reference.positions + np.array([[10.0, 0, 0], [0, -20, 0], [0, 0, 10], [-10, 10, 0]])
    metrics = is2rs_metrics([reference], [images])
    assert metrics["average_distance_within_threshold"] == 1.0
    assert metrics["positions_mae"] > 1.0


def test_displacements_are_the_nearest_images_of_ase():
    from ase.geometry import find_mic

    rng = np.random.default_rng(2)
    cell = np.array([[8.0, 0, 0], [-4.0, 7.0, 0], [0.5, 0, 25.0]])
    reference = replace(structure(30), positions=rng.uniform(0, 20, (30, 3)), cell=cell)
    moved = reference.positions + rng.normal(size=(30, 3)) + rng.integers(-2, 3, (30, 3)) @ cell
    expected, _ = find_mic(moved - reference.positions, cell, True)
    np.testing.assert_allclose(displacements(reference, moved), expected, atol=1e-12)


def test_displacements_stay_where_a_direction_is_not_periodic():
    slab = replace(structure(1), pbc=np.array([True, True, False]))
    moved = slab.positions + np.array([[9.0, 0, 9.0]])
    np.testing.assert_allclose(displacements(slab, moved), [[-1.0, 0, 9.0]], atol=1e-12)
    free = replace(structure(1), pbc=np.zeros(3, dtype=bool), cell=np.zeros((3, 3)))
    np.testing.assert_allclose(displacements(free, moved), [[9.0, 0, 9.0]])


def test_missing_labels_are_refused():
    with pytest.raises(DataError, match="1 of 2 structures have no energy"):
        is2re_metrics([structure(energy=0.0), structure()], [0.0, 0.0])
    with pytest.raises(DataError, match="no forces"):
        s2ef_metrics([structure(energy=0.0)], [FramePrediction(0.0, np.zeros((2, 3)), None)])
    held = structure(energy=0.0, forces=np.zeros((2, 3)), fixed=[True, True])
    with pytest.raises(DataError, match="all atoms"):
        s2ef_metrics([held], [FramePrediction(0.0, np.zeros((2, 3)), None)])
    with pytest.raises(DataError, match="no free atom"):
        is2rs_metrics([structure(fixed=[True, True])], [np.zeros((2, 3))])
