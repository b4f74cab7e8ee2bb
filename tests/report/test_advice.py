"""Advice names what was put in, with its numbers, and is silent where nothing stands out."""

import numpy as np
import pytest
from ase import Atoms

from tdn.evaluation.evaluate import Evaluation, FramePrediction, Timing
from tdn.evaluation.tables import tabulate, tabulate_config_types, tabulate_elements
from tdn.evaluation.uncertainty import Calibrated
from tdn.report import LearningCurves, Report
from tdn.report.advice import advise
from tdn.structure import Structure


def report(energy_error, force_error, symbols=lambda k: "CH4", force=1.0, info=lambda k: {}, **rest):
    """A report of 20 frames whose errors are given functions of the frame and of frame and atom, in eV and eV/Å."""
    rng, structures, predictions = np.random.default_rng(1), [], []
    for k in range(20):
        atoms = Atoms(symbols(k))
        atoms.positions = rng.normal(size=(len(atoms), 3))
        forces = rng.normal(size=(len(atoms), 3))
        forces *= force / np.linalg.norm(forces, axis=1, keepdims=True)
        if k == 3:
            forces[-1] *= 8.0
        structure = Structure.from_ase(atoms, energy=-5.0, forces=forces, info=info(k))
        noise = np.array([[force_error(k, i), 0.0, 0.0] for i in range(len(atoms))])
        predictions.append(FramePrediction(-5.0 + len(atoms) * energy_error(k), forces + noise, None))
        structures.append(structure)
    evaluation = Evaluation(
        structures, tuple(predictions), tabulate(structures, predictions), tabulate_elements(structures, predictions),
        tabulate_config_types(structures, predictions), {}, Timing(0, 1, 1, 1, "cpu", "float64", 1),
    )  # fmt: skip
    return Report("Test", evaluation=evaluation, **rest)


def alternating(k, i=0):
    return 0.01 * (-1) ** k


def test_errors_all_alike_need_no_advice():
    assert advise(report(alternating, alternating)) == ()
    assert advise(Report("Empty")) == ()


def test_element_that_dominates_energies_is_named_with_its_frames():
    (sentence,) = advise(
        report(
            lambda k: alternating(k) * (9 if k % 5 == 0 else 1), alternating, lambda k: "CH3S" if k % 5 == 0 else "CH4"
        )
    )
    assert "dominated by S: the 4 of 20 frames" in sentence
    assert "95\u202f%" in sentence


def test_constant_shift_of_energies_is_named_with_its_sign():
    (sentence,) = advise(report(lambda k: -0.02 + 0.1 * alternating(k), alternating))
    assert "too low by 20 meV/atom" in sentence


def test_large_forces_that_dominate_are_named_with_the_threshold():
    (sentence,) = [
        s for s in advise(report(alternating, lambda k, i: 0.5 if (k, i) == (3, 4) else 0.01)) if "exceeds" in s
    ]
    assert "exceeds 2 eV/Å" in sentence
    assert "1\u202f% of the atoms" in sentence


def test_element_that_dominates_forces_is_named():
    (sentence,) = advise(report(alternating, lambda k, i: 0.1 if i == 0 else 0.01))
    assert "C atoms" in sentence
    assert "20\u202f% of the atoms" in sentence


def test_kind_of_frame_and_single_frame_that_dominate_are_named():
    kinds = {"info": lambda k: {"config_type": "slab" if k < 3 else "bulk"}}
    found = " ".join(advise(report(lambda k: alternating(k) * (9 if k < 3 else 1), alternating, **kinds)))
    assert "config_type slab" in found
    names = [f"file:{k}" for k in range(20)]
    found = " ".join(advise(report(lambda k: alternating(k) * (9 if k == 7 else 1), alternating, origins=names)))
    assert "One frame, file:7 (CH4)" in found


def curves(valid_loss, **columns):
    steps = np.arange(1.0, len(valid_loss) + 1)
    return LearningCurves(steps, {"step": steps, "valid_loss": np.asarray(valid_loss), **columns})


@pytest.mark.parametrize(
    ("loss", "word"),
    [
        (np.geomspace(1, 0.1, 20), "Train longer"),
        ([1, 0.5, 0.3, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], "will not help"),
        ([1, 0.5, 0.3, 0.21, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], None),
    ],
)
def test_end_of_the_validation_loss_decides_whether_to_train_on(loss, word):
    found = advise(Report("Test", curves=curves(loss)))
    assert found == () if word is None else word in found[0]


def test_gap_between_training_and_validation_is_named():
    flat = [1.0] * 3
    ahead = curves(flat, valid_forces_mae=np.array([90.0, 60, 60]), train_forces_mae=np.array([80.0, 30, 20]))
    assert "3 times" in advise(Report("Test", curves=ahead))[0]
    level = curves(flat, valid_forces_mae=np.array([90.0, 60, 60]), train_forces_mae=np.array([80.0, 70, 58]))
    assert "larger network" in advise(Report("Test", curves=level))[0]


def test_uncertainties_that_are_too_small_or_blind_are_named():
    rng = np.random.default_rng(0)
    sigma = np.geomspace(0.01, 1.0, 200)
    good = Calibrated("energy", sigma, sigma * rng.normal(size=200))
    assert advise(Report("Test", calibration=(good,))) == ()
    small = Calibrated("forces", sigma / 3, good.error)
    assert "forces are too small" in advise(Report("Test", calibration=(small,)))[0]
    blind = Calibrated("energy", sigma, rng.normal(size=200) * sigma[rng.permutation(200)])
    assert any("do not tell" in sentence for sentence in advise(Report("Test", calibration=(blind,))))
