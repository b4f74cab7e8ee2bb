"""The shadow energy is the total energy without its oscillation."""

import numpy as np
import pytest

from tdn.errors import ConfigError
from tdn.simulation.shadow import REACH, shadow_energies


def trajectory(timestep, steps=1000, shift=0.0, push=0.0):
    """Of two Morse-bound atoms, of angular frequency 1: arguments of `shadow_energies`, and the total energy."""

    def evaluate(positions):
        vector = positions[1] - positions[0]
        length = np.linalg.norm(vector)
        decay = np.exp(1 - length)
        pull = (1 - decay) * decay * vector / length
        return (1 - decay) ** 2 / 2, np.stack([pull, -pull])

    positions, momenta = np.array([[0, 0, 0], [0, 0.9, 0.8]]) + shift, np.array([[0.1, 0, 0.1], [-0.1, 0, -0.1]]) + push
    energy, forces = evaluate(positions)
    rows = [(energy, positions, momenta, forces)]
    for _ in range(steps):
        momenta = momenta + timestep / 2 * forces
        positions = positions + timestep * momenta / 2
        energy, forces = evaluate(positions)
        momenta = momenta + timestep / 2 * forces
        rows.append((energy, positions, momenta, forces))
    values = [np.array(column) for column in zip(*rows, strict=True)]
    return [*values, timestep], values[0] + np.square(values[2]).sum((1, 2)) / 4


@pytest.mark.parametrize("moved", [{}, {"shift": 7.0}, {"push": 0.05}])
def test_fluctuates_a_million_times_less_than_the_total_energy(moved):
    values, total = trajectory(0.05, **moved)
    shadow = shadow_energies(*values)
    assert len(shadow) == len(total) - 2 * REACH
    assert np.std(shadow) < 1e-6 * np.std(total)
    # What is left out is of the order of the oscillation itself.
    assert abs(shadow.mean() - total.mean()) < 3 * np.std(total)


def test_is_conserved_to_order_eight():
    coarse, fine = (np.std(shadow_energies(*trajectory(step, round(100 / step))[0])) for step in (0.2, 0.1))
    assert 128 < coarse / fine < 512


def test_shows_a_loss_of_energy_hidden_in_the_oscillation():
    values, total = trajectory(0.05)
    loss = 0.01 * np.std(total) * np.linspace(0, 1, len(total))
    shadow = shadow_energies(values[0] - loss, *values[1:])
    assert shadow[0] - shadow[-1] == pytest.approx(loss[-REACH - 1] - loss[REACH], rel=1e-2)


def test_too_short_a_trajectory_is_refused():
    values, _ = trajectory(0.1, steps=7)
    with pytest.raises(ConfigError, match="at least 9"):
        shadow_energies(*values)
