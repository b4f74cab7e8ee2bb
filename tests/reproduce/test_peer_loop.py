"""The loop that trains the networks of other packages."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import toy_peer
from tdn.bench.rounds import Worker, WorkerError
from tdn.reproduce.peers import frames as exchange
from tdn.reproduce.peers import worker
from tdn.reproduce.peers.frames import Frame
from tdn.reproduce.peers.loop import Average, Items, Recipe, Stage, fit, learning_rate, loss_of, measure


def dimers(count: int, seed: int = 0) -> list[Frame]:
    """Pairs with a harmonic bond."""
    found = []
    for distance in np.random.default_rng(seed).uniform(1.0, 2.0, size=count):
        positions = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
        force = 2.0 * (distance - 1.5)
        forces = np.array([[force, 0.0, 0.0], [-force, 0.0, 0.0]])
        energy = float((distance - 1.5) ** 2)
        nothing = np.full((3, 3), np.nan)
        found.append(Frame(np.array([1, 6]), positions, np.zeros((3, 3)), np.zeros(3, bool), energy, forces, nothing))
    return found


def test_frames_come_back_as_written(tmp_path: Path) -> None:
    frames = dimers(3)
    exchange.write(tmp_path / "frames.npz", frames)
    for old, new in zip(frames, exchange.read(tmp_path / "frames.npz"), strict=True):
        for a, b in zip(old, new, strict=True):
            assert np.array_equal(a, b, equal_nan=True)


def test_the_loop_learns_and_keeps_the_best_weights() -> None:
    torch.manual_seed(0)
    learner = toy_peer.build([], "cpu", torch.float64)
    train, valid = (Items(learner, dimers(n, n), "cpu", torch.float64) for n in (40, 10))
    before = measure(learner, valid)
    lines: list[str] = []
    found = fit(learner, train, valid, 1.5, 0, lines.append)
    after = measure(learner, valid)
    assert after["forces_mae"] < 0.2 * before["forces_mae"]
    assert after["loss"] == pytest.approx(min(row["loss"] for row in found["curve"]))
    assert found["steps"] == found["curve"][-1]["step"] > 100
    assert len(lines) == len(found["curve"])


def test_learning_rate_grows_and_ends_at_zero() -> None:
    recipe = Recipe(batch_size=1, lr=2.0, stages=(), warmup_steps=10)
    assert learning_rate(recipe, 0, 0.0) == pytest.approx(0.2)
    assert learning_rate(recipe, 9, 0.0) == pytest.approx(2.0)
    assert learning_rate(recipe, 99, 1.0) == pytest.approx(0.0)


def test_weights_of_the_loss_follow_the_stage() -> None:
    labels = {"energy": torch.zeros(1), "forces": torch.zeros(2, 3), "sizes": torch.tensor([2.0])}
    labels["stress"] = torch.full((1, 3, 3), torch.nan)
    recipe = Recipe(batch_size=1, lr=1.0, stages=(Stage(0.0, 1.0, 3.0, 0.0), Stage(0.5, 8.0, 0.0, 0.0)))
    predicted = (torch.tensor([4.0]), torch.ones(2, 3), None)
    assert loss_of(predicted, labels, recipe, 0.4) == 4.0 + 3.0
    assert loss_of(predicted, labels, recipe, 0.5) == 32.0
    assert loss_of(predicted, labels, recipe._replace(energy_per="structure"), 0.4) == 16.0 + 3.0


def test_average_is_applied_and_taken_away_again() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    average = Average(model, 0.5)
    torch.nn.init.constant_(model.weight, 1.0)
    average.update()
    with average.applied():
        assert model.weight.item() == pytest.approx(1 - 2 / 11)
    assert model.weight.item() == 1.0


def test_a_run_of_the_worker_predicts_every_block(tmp_path: Path) -> None:
    for name, count in {"train": 20, "valid": 5, "block_0": 6, "block_1": 3}.items():
        exchange.write(tmp_path / f"{name}.npz", dimers(count, count))
    answer = worker.train(
        {
            "builder": "toy_peer:build", "options": {"lr": 0.02}, "folder": str(tmp_path), "blocks": 2, "seconds": 0.5,
            "seed": 3, "threads": 1, "dtype": "float64", "device": "cpu",
        }
    )  # fmt: skip
    assert answer["settings"]["centres"] == 12
    assert answer["settings"]["lr"] == 0.02
    assert answer["inference_ms"] > 0
    assert (tmp_path / "train.log").read_text().count("forces_mae") == len(answer["curve"])
    assert len(exchange.read(tmp_path / "predicted_0.npz")) == 6
    assert len(exchange.read(tmp_path / "predicted_1.npz")) == 3


def test_what_a_package_raises_is_the_answer() -> None:
    process = Worker(sys.executable, 1, "tdn.reproduce.peers.worker")
    try:
        with pytest.raises(WorkerError, match="KeyError"):
            process.ask(60.0, nothing="to do")
    finally:
        process.close()
