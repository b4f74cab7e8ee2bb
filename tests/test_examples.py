"""Examples that no other test runs, on toy models."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from tdn import Potential, TDNCalculator, TDNConfig, save_model
from tdn.cli.calibrate import app as calibrate
from tdn.data.reading import read_frames

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    """An untrained model that is nearly right about the frames that it is calibrated on."""
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=1, r_max=4.0, radial_hidden=(8,))
    path = tmp_path / "model.tdn"
    save_model(path, Potential(config, {1: -13.6, 6: -51.0}))
    calculator, rng = TDNCalculator(path), np.random.default_rng(0)
    for name in ("train", "valid"):
        frames = []
        for _ in range(6):
            atoms = molecule("CH4")
            atoms.rattle(0.1, rng=rng)
            labels = calculator.get_potential_energy(atoms) + 0.01 * rng.normal(), calculator.get_forces(atoms)
            atoms.calc = SinglePointCalculator(atoms, energy=labels[0], forces=labels[1])
            frames.append(atoms)
        ase.io.write(tmp_path / f"{name}.extxyz", frames)
    arguments = ["--train", str(tmp_path / "train.extxyz"), "--valid", str(tmp_path / "valid.extxyz")]
    result = CliRunner().invoke(calibrate, [str(path), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return path


def test_active_learning_writes_labelled_frames_that_training_reads(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tblite", reason="needs tblite for its labels: pip install tblite")
    from tblite.ase import TBLite  # pyright: ignore[reportMissingImports]

    ase.io.write(tmp_path / "start.xyz", molecule("CH4"))
    output = tmp_path / "new.extxyz"
    arguments = [str(calibrated), str(tmp_path / "start.xyz"), str(output), "40", "3"]
    monkeypatch.setattr(sys, "argv", ["active_learning.py", *arguments])
    runpy.run_path(str(EXAMPLES / "active_learning.py"), run_name="__main__")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("uncertainty")]
    uncertainties = [float(word) for word in said[0].split(":")[1].split()]
    assert uncertainties == sorted(uncertainties, reverse=True)
    frames = read_frames(output)
    assert len(frames) == len(uncertainties) == 3
    for frame in frames.structures:
        atoms = frame.to_ase()
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
        assert frame.forces is not None
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-3)


def test_torchsim_moves_structures_until_one_is_uncertain(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ts = pytest.importorskip("torch_sim", reason="TorchSim is not installed (pip install 'tdn[torchsim]')")
    from tdn.interfaces.torchsim import TDNTorchSimModel

    starts = [molecule("CH4"), molecule("C2H6")]
    starts[1].rattle(0.2, seed=1)
    state = ts.initialize_state(starts, torch.device("cpu"), torch.float64)
    calculator = TDNCalculator(calibrated)
    expected = [calculator.get_property("energy_uncertainty", atoms) for atoms in starts]
    found = TDNTorchSimModel(calibrated, device="cpu").energy_uncertainties(state)
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    ase.io.write(tmp_path / "starts.extxyz", starts)
    monkeypatch.chdir(tmp_path)
    for limit, lines in (("1e9", 2), ("1e-6", 1)):
        monkeypatch.setattr(sys, "argv", ["torchsim_md.py", str(calibrated), "starts.extxyz", "20", limit])
        runpy.run_path(str(EXAMPLES / "torchsim_md.py"), run_name="__main__")
        said = capsys.readouterr().out.splitlines()
        assert sum("uncertain by" in line for line in said) == lines
        with ts.TorchSimTrajectory("md-1.h5", mode="r") as trajectory:
            written = "uncertainty" in trajectory.array_registry and len(trajectory.get_array("uncertainty"))
        assert written == (2 if lines == 2 else 0)
