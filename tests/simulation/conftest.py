"""A potential whose minima, phonons and dynamics are known, in place of a trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from tdn.modelfile import save_model
from tdn.models.potential import Potential
from tdn.models.tdn import Ghosts, TDNConfig
from tdn.nn.kernels import scatter_sum
from tdn.nn.radial import polynomial_envelope

EPSILON, SIGMA = 0.3, 2.3


class LennardJones(Potential):
    """Lennard-Jones pairs under a smooth envelope, the same for every element: a `Potential` in all but its network."""

    def __init__(self, elements: tuple[int, ...] = (1, 6, 8, 18), r_max: float = 6.0) -> None:
        config = TDNConfig(num_channels=4, num_layers=1, r_max=r_max, radial_hidden=(8,))
        super().__init__(config, dict.fromkeys(elements, -1.0))
        self.double().eval()

    def atomic_energies(
        self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor, ghosts: Ghosts | None = None
    ) -> Tensor:
        squares = vectors.square().sum(-1)
        sixth = (SIGMA**2 / squares) ** 3
        pairs = 2.0 * EPSILON * (sixth**2 - sixth) * polynomial_envelope(squares.sqrt(), self.r_max)
        return scatter_sum(pairs, receivers, species.shape[0])


@pytest.fixture
def lennard_jones() -> LennardJones:
    return LennardJones()


def make_network(seed: int = 0, scale: float = 1.5) -> Potential:
    """A real, untrained network in float64 for H, C and O."""
    torch.manual_seed(seed)
    config = TDNConfig(num_channels=8, num_layers=2, r_max=4.0, radial_hidden=(16,))
    return Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, scale=scale).double().eval()


@pytest.fixture
def network() -> Potential:
    return make_network()


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.tdn"
    save_model(path, make_network().float())
    return path


def cluster(size: int = 6, seed: int = 0) -> Atoms:
    """Argon atoms near the corners of a small cubic piece, rattled."""
    atoms = bulk("Ar", "sc", a=2.6) * (2, 2, 2)
    atoms = atoms[:size]
    atoms.pbc = False
    atoms.cell = np.zeros((3, 3))
    atoms.rattle(0.1, seed=seed)
    return atoms


def crystal(seed: int = 0) -> Atoms:
    """Four argon atoms in a strained and rattled cubic cell."""
    atoms = bulk("Ar", "fcc", a=3.7, cubic=True)
    atoms.set_cell(atoms.cell.array @ np.diag([1.02, 0.99, 1.0]), scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def water() -> Atoms:
    return molecule("H2O")
