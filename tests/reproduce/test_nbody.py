"""The rank ablation on n bodies: physics of the data, symmetry of the network, the command end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tdn.cli.reproduce import app
from tdn.cp.couplings import random_rotations
from tdn.errors import ConfigError
from tdn.models.paper import PaperTDNConfig
from tdn.reproduce.nbody import VARIANTS, fit, read_config, reproduce_nbody
from tdn.reproduce.nbody_network import BodyNetwork
from tdn.reproduce.nbody_system import Bodies, make_set, move, random_bodies
from tdn.reproduce.nbody_training import Systems, as_tensors, symmetry_error

TINY = (
    "num_channels=4",
    "num_layers=1",
    "num_heads=2",
    "num_gaussians=4",
    "train=12",
    "test=6",
    "batch_size=6",
    "epochs=2",
)


def test_bodies_conserve_momentum_and_energy() -> None:
    start = random_bodies(50, np.random.default_rng(0))
    end = move(start, 1000)
    np.testing.assert_allclose(end.velocities.sum(1), start.velocities.sum(1), atol=1e-9)
    drift = np.abs(end.energies - start.energies)
    assert np.median(drift) < 1e-4
    assert not np.allclose(end.positions, start.positions + start.velocities, atol=0.05)


def test_forces_follow_rotations_even_where_they_are_limited() -> None:
    start = random_bodies(20, np.random.default_rng(1))
    start.positions[:, 1] = start.positions[:, 0] + [0.02, 0.01, -0.03]  # far beyond the limit
    (rotation,) = random_rotations(1, np.random.default_rng(2), improper=True)
    turned = move(Bodies(start.charges, start.positions @ rotation.T, start.velocities @ rotation.T), 10)
    np.testing.assert_allclose(turned.positions, move(start, 10).positions @ rotation.T, atol=1e-9)


def test_two_bodies_attract_or_repel() -> None:
    positions = np.zeros((2, 5, 3))
    positions[:, :, 0] = [0.0, 1.0, 1e3, 2e3, 3e3]
    charges = np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, 1.0, 1.0]])
    end = move(Bodies(charges, positions, np.zeros_like(positions)), 1)
    gaps = end.positions[:, 1, 0] - end.positions[:, 0, 0] - 1.0
    np.testing.assert_allclose(gaps, [1e-6, -1e-6], rtol=1e-3)  # acceleration 1 on both, half a step squared each


def test_data_repeat_with_their_seed() -> None:
    first, second, other = make_set(3, 0), make_set(3, 0), make_set(3, 1)
    np.testing.assert_array_equal(first.targets, second.targets)
    assert not np.allclose(first.targets, other.targets)


def test_fits_have_the_errors_that_the_paper_gives() -> None:
    errors = {rank: fit(rank).certificate.residual for rank in (10, 15, 20)}
    for rank, error in errors.items():
        published = VARIANTS[str(rank)].published
        assert published is not None
        assert error == pytest.approx(float(published[1]), abs=0.05)


@pytest.mark.parametrize("name", VARIANTS)
def test_exact_products_make_the_network_equivariant(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        config = PaperTDNConfig(lmax=2, num_channels=8, num_layers=1, num_heads=2, num_gaussians=4, dropout=0.0)
        network = BodyNetwork(config, VARIANTS[name].make)
        systems = as_tensors(make_set(4, 0), torch.device("cpu"))
        rng = np.random.default_rng(0)
        turned = symmetry_error(network, systems, 3, random_rotations(2, rng))
        mirrored = symmetry_error(network, systems, 3, random_rotations(2, rng, improper=True))
    finally:
        torch.set_default_dtype(torch.float32)
    assert (turned < 1e-9) == VARIANTS[name].exact
    assert (mirrored < 1e-9) == (name == "exact-o3")


def test_network_does_not_depend_on_order_or_place_or_other_systems() -> None:
    torch.manual_seed(0)
    config = PaperTDNConfig(lmax=2, num_channels=8, num_layers=2, num_heads=2, num_gaussians=4, dropout=0.0)
    network = BodyNetwork(config, VARIANTS["exact"].make).double()
    systems = Systems(*(values.double() for values in as_tensors(make_set(3, 0), torch.device("cpu"))))
    together = network(*systems[:3])
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(network(*(values[:, order] for values in systems[:3])), together[:, order])
    torch.testing.assert_close(network(*systems.take(torch.tensor([1]))[:3]), together[1:2])
    shifted = network(systems.charges, systems.positions + torch.tensor([1.0, -2.0, 3.0]), systems.velocities)
    torch.testing.assert_close(shifted, together)


def test_command_gives_table_picture_and_results_and_goes_on(tmp_path: Path) -> None:
    arguments = ["nbody", "--output", str(tmp_path), "--threads", "1", *TINY]
    first = CliRunner().invoke(app, [*arguments, "--variant", "exact-o3"])
    assert first.exit_code == 0, first.output
    second = CliRunner().invoke(
        app, [*arguments, "--variant", "28", "--variant", "exact-o3", "--json", str(tmp_path / "j")]
    )
    assert second.exit_code == 0, second.output
    assert "0.0040" in second.output
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == json.loads((tmp_path / "j").read_text())
    assert list(found["rows"]) == ["28", "exact-o3"]
    assert found["rows"]["28"]["equivariance_error"] > 1e-4 > found["rows"]["exact-o3"]["equivariance_error"]
    assert (tmp_path / "nbody.png").stat().st_size > 10_000
    before = found["rows"]["exact-o3"]["seconds"]
    assert reproduce_nbody(tmp_path, read_config(TINY), variants=["exact-o3"]).rows[-1].seconds == before


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    reproduce_nbody(tmp_path, read_config(TINY), variants=["exact"])
    with pytest.raises(ConfigError, match="other settings"):
        reproduce_nbody(tmp_path, read_config((*TINY, "lr=0.1")), variants=["exact"])
    with pytest.raises(ConfigError, match="No variant '7'"):
        reproduce_nbody(tmp_path, variants=["7"])
    for change, words in (("epoch=3", "epochs"), ("epochs", "key=value"), ("num_heads=5", "multiple")):
        with pytest.raises(ConfigError, match=words):
            read_config((change,))
