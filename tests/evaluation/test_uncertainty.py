"""Calibration on frames that were held out, from fitting to the tables and the guard of a simulation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from typer.testing import CliRunner

from tdn.calculator import TDNCalculator
from tdn.cli.calibrate import app as calibrate_app
from tdn.cli.eval import app as eval_app
from tdn.datasets import organics_path
from tdn.errors import ConfigError, DataError
from tdn.evaluation.evaluate import evaluate
from tdn.evaluation.uncertainty import Calibrated, fit_posterior, measure_calibration
from tdn.graph import AtomGraph
from tdn.modelfile import load_model, save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.models.uncertainty import LastLayer
from tdn.simulation.guards import Guard, SimulationStopped
from tdn.structure import Structure

RUNNER = CliRunner()


def make_potential() -> Potential:
    torch.manual_seed(2)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=1, product_order=2, r_max=3.0)
    return Potential(config, {z: -10.0 * z for z in (1, 6, 7, 8, 9, 16, 17)}).double().eval()


def frames(count: int) -> list[Atoms]:
    return ase.io.read(organics_path("test"), index=f":{count}")  # type: ignore[return-value]


def files(folder: Path) -> tuple[Path, Path, Path]:
    own = frames(12)
    ase.io.write(folder / "train.extxyz", own[:6])
    ase.io.write(folder / "valid.extxyz", own[6:])
    save_model(folder / "model.tdn", make_potential())
    return folder / "model.tdn", folder / "train.extxyz", folder / "valid.extxyz"


def labelled(potential: Potential, atoms: Atoms, change: torch.Tensor) -> Structure:
    """A structure whose true energy is that of the potential with another last layer."""
    structure = Structure.from_ase(atoms)
    graph = AtomGraph.from_structure(structure, potential.r_max)
    energy = float(potential(graph).energy) + float(LastLayer(potential).energy_features(graph) @ change)
    return dataclasses.replace(structure, energy=energy, forces=None)


def test_calibrated_uncertainties_are_as_large_as_the_errors() -> None:
    """Where the truth differs from the model in the last layer alone, the calibration must succeed."""
    potential = make_potential()
    size = len(LastLayer(potential).energy_features(_graph(potential)))
    change = 0.01 * torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = frames(60)
    rng = np.random.default_rng(0)
    for atoms in own:
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    train, held, test = ([labelled(potential, a, change) for a in own[k::3]] for k in range(3))
    potential.uncertainty = fit_posterior(potential, train, held, forces_weight=0.0)
    (energy,) = measure_calibration(potential, evaluate(potential, test))
    assert 0.4 < energy.to_dict()["z_rms"] < 2.5


def _graph(potential: Potential) -> AtomGraph:
    return AtomGraph.from_structure(Structure.from_ase(frames(1)[0]), potential.r_max)


def test_gaussian_errors_of_the_predicted_size_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.1, 2.0, 5000)
    found = Calibrated("energy", sigma, sigma * rng.normal(size=5000)).to_dict()
    assert found["z_rms"] == pytest.approx(1.0, abs=0.05)
    assert found["within_1_sigma"] == pytest.approx(0.683, abs=0.03)
    assert found["within_2_sigma"] == pytest.approx(0.954, abs=0.02)
    assert found["rank_correlation"] > 0.3


def test_commands_calibrate_and_show(tmp_path: Path) -> None:
    model, train, valid = files(tmp_path)
    words = [str(model), "--train", str(train), "--valid", str(valid), "--json", str(tmp_path / "c.json")]
    result = RUNNER.invoke(calibrate_app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads((tmp_path / "c.json").read_text())["energy"]["z_rms"] == pytest.approx(1.0, abs=0.02)
    assert json.loads((tmp_path / "c.json").read_text())["forces"]["z_rms"] == pytest.approx(1.0, abs=0.3)
    shown = RUNNER.invoke(
        eval_app, [str(model), str(valid), "--json", str(tmp_path / "e.json")], catch_exceptions=False
    )
    assert "Uncertainties beside errors" in shown.output
    assert json.loads((tmp_path / "e.json").read_text())["uncertainty"]["energy"]["count"] == 6


def test_guard_stops_where_the_model_is_unsure(tmp_path: Path) -> None:
    model, train, valid = files(tmp_path)
    RUNNER.invoke(
        calibrate_app, [str(model), "--train", str(train), "--valid", str(valid), "-q"], catch_exceptions=False
    )
    atoms = frames(1)[0]
    atoms.calc = TDNCalculator(load_model(model))
    sure = atoms.calc.get_property("energy_uncertainty", atoms) / len(atoms)
    Guard(max_force=np.inf, max_uncertainty=1.1 * sure).check(atoms)
    with pytest.raises(SimulationStopped, match="uncertain"):
        Guard(max_force=np.inf, max_uncertainty=0.9 * sure).check(atoms)


def test_too_little_is_refused(tmp_path: Path) -> None:
    model, train, _ = files(tmp_path)
    with pytest.raises(ConfigError, match="both --train and --valid"):
        RUNNER.invoke(calibrate_app, [str(model), "--train", str(train)], catch_exceptions=False)
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        RUNNER.invoke(calibrate_app, [str(model)], catch_exceptions=False)
    with pytest.raises(DataError, match="at least two"):
        fit_posterior(make_potential(), [], [])
