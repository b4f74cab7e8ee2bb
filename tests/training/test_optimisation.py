"""Learning rate and weight average."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tdn.models.architectures import build_potential
from tdn.models.config import ModelConfig
from tdn.models.paper import PaperTDNConfig
from tdn.models.tdn import TDNConfig
from tdn.training.config import TrainingConfig
from tdn.training.optimisation import Plateau, learning_rate, make_optimizer, run_fraction, update_average


def rates(config: TrainingConfig) -> list[float]:
    return [learning_rate(config, k, k / config.max_steps) for k in range(config.max_steps + 1)]


def test_learning_rate_warms_up_to_its_peak_and_then_only_falls_to_its_floor():
    config = TrainingConfig(max_steps=1000, lr=0.02, warmup_steps=50, lr_final=0.01)
    values = rates(config)
    assert values[0] == pytest.approx(0.02 / 50, rel=1e-6)
    assert all(b > a for a, b in itertools.pairwise(values[:50]))
    assert max(values) == pytest.approx(0.02, rel=0.01)
    assert all(b < a for a, b in itertools.pairwise(values[50:]))
    assert values[-1] == pytest.approx(0.02 * 0.01)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(TrainingConfig(warmup_steps=0, lr=0.5), 0, 0.0) == 0.5


def test_beyond_the_end_the_rate_stays_at_its_floor():
    config = TrainingConfig(lr=1.0, lr_final=0.1, warmup_steps=0)
    assert learning_rate(config, 5, 1.7) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_steps": 100}, 0.5),
        ({"max_epochs": 10}, 0.25),
        ({"max_time": 40}, 0.75),
        ({"max_steps": 100, "max_epochs": 10, "max_time": 40}, 0.75),
    ],
)
def test_the_limit_that_ends_the_run_first_counts(limits: dict, expected: float):
    assert run_fraction(TrainingConfig(**limits), step=50, epochs=2.5, elapsed=30.0) == pytest.approx(expected)


def test_average_follows_its_definition_and_forgets_the_start():
    current, averaged = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    expected = averaged.weight.detach().clone()
    for step in range(1, 50):
        with torch.no_grad():
            current.weight.fill_(float(step % 5))
        update_average(averaged, current, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * current.weight.detach()
    torch.testing.assert_close(averaged.weight.detach(), expected)


def test_average_without_decay_is_a_copy():
    current, averaged = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    update_average(averaged, current, 0.0, 1)
    torch.testing.assert_close(averaged.weight, current.weight)


def test_plateau_is_that_of_pytorch():
    values = [5.0, 4.0, 4.1, 4.2, 4.3, 4.4, 3.9999, 3.0, 3.0, 3.0, 2.99999, 3.1, 2.0]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=0.5)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    config, plateau = TrainingConfig(lr=0.5, schedule="plateau", warmup_steps=0), Plateau()
    for value in values:
        reference.step(value)
        plateau.update(config, value)
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(config, 3, 0.5, 2.0, plateau.factor) == pytest.approx(expected, rel=1e-12)


def test_warm_up_by_epochs_comes_before_the_cosine():
    """The published set-up of OC20: two epochs from a fifth of the rate, then the cosine over all 30."""
    config = TrainingConfig(lr=1.0, max_epochs=30, warmup_epochs=2, warmup_factor=0.2, warmup_steps=0, lr_final=0.01)
    rates = [learning_rate(config, 0, epochs / 30, epochs) for epochs in (0.0, 1.0, 2.0, 15.0, 30.0)]
    cosine = [0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * epochs / 30)) for epochs in (2.0, 15.0, 30.0)]
    assert rates == pytest.approx([0.2, 0.6, *cosine])


def test_constant_schedule_and_adam():
    config = TrainingConfig(lr=0.1, schedule="constant", warmup_steps=0, optimizer="adam")
    assert learning_rate(config, 10, 0.9, 9.0) == 0.1
    assert type(make_optimizer(config, torch.nn.Linear(1, 1))) is torch.optim.Adam


SMALL_PAPER = PaperTDNConfig(num_channels=4, num_layers=1, num_heads=2, num_gaussians=4)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (TDNConfig(num_channels=4), {"embedding", "shift", "products"}),
        (SMALL_PAPER, {"embedding", "shift", "norm1", "bias", "mean", "std", "offset"}),
    ],
)
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam"])
def test_weight_decay_shrinks_matrices_that_mix_channels_only(config: ModelConfig, kept: set[str], optimizer: str):
    potential = build_potential(config, {1: 0.0, 6: 0.0}, 1.0, {1: -2.0, 6: -7.0})
    before = {name: parameter.detach().clone() for name, parameter in potential.named_parameters()}
    training = TrainingConfig(optimizer=optimizer, lr=0.1, weight_decay=0.5)
    steps = make_optimizer(training, potential)
    for parameter in potential.parameters():
        parameter.grad = torch.zeros_like(parameter)
    steps.step()
    changed = {name for name, parameter in potential.named_parameters() if not torch.equal(before[name], parameter)}
    assert len(changed) > 10
    assert all(before[name].ndim > 1 and not kept & set(name.split(".")) for name in changed)
    assert {name for name in before if "linear" in name and name.endswith("weight")} <= changed


def test_without_weight_decay_all_parameters_keep_their_place():
    """Checkpoints number them."""
    potential = build_potential(TDNConfig(num_channels=4), {1: 0.0}, 1.0, {})
    (group,) = make_optimizer(TrainingConfig(optimizer="adamw"), potential).param_groups
    assert all(a is b for a, b in zip(group["params"], potential.parameters(), strict=True))
