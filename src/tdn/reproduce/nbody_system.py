"""The n-body data set of 2507.01131's Table 8, simulated anew: five charged bodies, to be moved on by one unit of time.

The set-up is that of the literature (NRI, 1802.04687; EGNN, 2102.09844): unit masses, charges of +1 or -1, positions
from a normal distribution of unit variance, velocities of length 0.5, Coulomb forces of strength 1. Inputs are taken at
time 3, targets at time 4. Unlike there, forces of close encounters are limited by their length and not by component,
which would prefer the axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tdn.cp.couplings import Array

NUM_BODIES = 5
SPEED = 0.5
TIME_STEP = 1e-3
INPUT_TIME, TARGET_TIME = 3.0, 4.0
LARGEST_FORCE = 100.0


@dataclass(frozen=True)
class Bodies:
    """Systems of charged bodies.

    Attributes:
        charges: `[systems, bodies]`.
        positions: `[systems, bodies, 3]`.
        velocities: `[systems, bodies, 3]`.
    """

    charges: Array
    positions: Array
    velocities: Array

    @property
    def energies(self) -> Array:
        """Kinetic and Coulomb energy of every system, `[systems]`."""
        distances = np.linalg.norm(self.positions[:, :, None] - self.positions[:, None], axis=-1)
        first, second = np.triu_indices(self.charges.shape[1], 1)
        coulomb = self.charges[:, first] * self.charges[:, second] / distances[:, first, second]
        return 0.5 * np.square(self.velocities).sum((1, 2)) + coulomb.sum(1)


@dataclass(frozen=True)
class NBodySet:
    """Inputs, and where the bodies are one unit of time later.

    Attributes:
        inputs: At the time 3.
        targets: Positions at the time 4, `[systems, bodies, 3]`.
    """

    inputs: Bodies
    targets: Array


def make_set(num_systems: int, seed: int) -> NBodySet:
    """Simulate systems from random starts."""
    start = random_bodies(num_systems, np.random.default_rng(seed))
    inputs = move(start, round(INPUT_TIME / TIME_STEP))
    targets = move(inputs, round((TARGET_TIME - INPUT_TIME) / TIME_STEP))
    return NBodySet(inputs, targets.positions)


def random_bodies(num_systems: int, rng: np.random.Generator) -> Bodies:
    """Charges, positions and velocities at the start."""
    charges = rng.choice([-1.0, 1.0], (num_systems, NUM_BODIES))
    positions = rng.standard_normal((num_systems, NUM_BODIES, 3))
    velocities = rng.standard_normal((num_systems, NUM_BODIES, 3))
    velocities *= SPEED / np.linalg.norm(velocities, axis=-1, keepdims=True)
    return Bodies(charges, positions, velocities)


def move(bodies: Bodies, steps: int) -> Bodies:
    """Velocity Verlet."""
    # Components first: every operation then runs over contiguous systems.
    charges = np.ascontiguousarray(bodies.charges.T)
    positions, velocities = (
        np.ascontiguousarray(np.moveaxis(values, 0, -1)) for values in (bodies.positions, bodies.velocities)
    )
    first, second = np.triu_indices(NUM_BODIES, 1)
    strengths = charges[first] * charges[second]
    signs = np.zeros((NUM_BODIES, len(first)))
    signs[first, np.arange(len(first))], signs[second, np.arange(len(first))] = 1.0, -1.0

    def accelerations() -> Array:
        vectors = positions[first] - positions[second]
        squares = np.square(vectors).sum(1)
        scale = strengths / (squares * np.sqrt(squares))
        scale *= np.minimum(1.0, LARGEST_FORCE * squares)  # the force has the length 1 / square
        return np.einsum("bp,pcs->bcs", signs, vectors * scale[:, None], optimize=True)

    forces = accelerations()
    for _ in range(steps):
        velocities += 0.5 * TIME_STEP * forces
        positions += TIME_STEP * velocities
        forces = accelerations()
        velocities += 0.5 * TIME_STEP * forces
    return Bodies(bodies.charges, np.moveaxis(positions, -1, 0).copy(), np.moveaxis(velocities, -1, 0).copy())
