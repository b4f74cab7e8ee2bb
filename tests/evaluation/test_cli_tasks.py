"""`tdn eval --metrics` and `tdn submission` from files of the Open Catalyst data sets to numbers and submissions."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from oc_files import is2re_record, s2ef_record, slabs, write_records
from tdn.cli.eval import app as eval_app
from tdn.cli.submission import app as submission_app
from tdn.data.convert import convert
from tdn.data.ocp_source import OpenCatalyst
from tdn.data.reading import read_frames
from tdn.errors import DataError
from tdn.evaluation import evaluate
from tdn.evaluation.is2rs import measure_relaxations, relax_structures
from tdn.modelfile import load_model, save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig

ELEMENTS = (1, 6, 7, 8, 28, 29, 46, 47, 78)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model."""
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=1, product_order=2, radial_hidden=(8,), r_max=4.0)
    path = tmp_path_factory.mktemp("model") / "model.tdn"
    save_model(path, Potential(config, dict.fromkeys(ELEMENTS, 0.0)))
    return path


def run(app: object, *arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_s2ef_metrics_of_frames(model: Path, tmp_path: Path):
    data = write_records(tmp_path / "data.lmdb", [s2ef_record(atoms, k, 0) for k, atoms in enumerate(slabs(3))])
    output = run(eval_app, model, data, "--metrics", "s2ef", "--json", tmp_path / "errors.json")
    found = json.loads((tmp_path / "errors.json").read_text())["metrics"]["s2ef"]
    structures = read_frames(data).structures
    predictions = evaluate(load_model(model), structures).predictions
    energies = [abs(p.energy - s.energy) for s, p in zip(structures, predictions, strict=True)]
    assert found["energy_mae"] == pytest.approx(np.mean(energies))
    forces = [np.abs(p.forces - s.forces)[2:] for s, p in zip(structures, predictions, strict=True)]
    assert found["forces_mae"] == pytest.approx(np.mean(forces))
    assert "energy_forces_within_threshold" in output


def test_is2re_metrics_of_relaxed_energies(model: Path, tmp_path: Path):
    data = write_records(tmp_path / "data.lmdb", [is2re_record(atoms, k) for k, atoms in enumerate(slabs(3))])
    run(eval_app, model, data, "--metrics", "is2re", "--json", tmp_path / "errors.json")
    content = json.loads((tmp_path / "errors.json").read_text())
    assert content["metrics"]["is2re"]["energy_mae"] == pytest.approx(content["energy"]["mae"] / 1000)


@pytest.mark.parametrize("task", ["s2ef", "is2re"])
def test_metrics_of_a_frame_store_are_those_of_its_files(task: str, model: Path, tmp_path: Path, monkeypatch):
    make = s2ef_record if task == "s2ef" else is2re_record
    records = [make(atoms, k, 0) if task == "s2ef" else make(atoms, k) for k, atoms in enumerate(slabs(4))]
    data = write_records(tmp_path / "data.lmdb", records)
    convert(OpenCatalyst((str(data),)), tmp_path / "store")
    # Fewer predictions are kept than there are.
    monkeypatch.setattr(sys.modules[evaluate.__module__], "KEPT", 3)
    found = []
    for source in (data, tmp_path / "store"):
        run(eval_app, model, source, "--metrics", task, "--json", tmp_path / "errors.json")
        found.append(json.loads((tmp_path / "errors.json").read_text())["metrics"][task])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    output = run(eval_app, model, tmp_path / "store", "--output", tmp_path / "out", "--predictions", tmp_path / "p.xyz")
    assert "3 of 4 frames, evenly spread" in output
    assert len(ase.io.read(tmp_path / "p.xyz", index=":")) == 3
    assert (tmp_path / "out" / "report.html").is_file()


def test_relaxed_structures_are_asked_for_where_there_are_none(model: Path, tmp_path: Path):
    data = write_records(tmp_path / "data.lmdb", [is2re_record(atoms, k) for k, atoms in enumerate(slabs(2))])
    convert(OpenCatalyst((str(data),)), tmp_path / "store")
    result = CliRunner().invoke(eval_app, [str(model), str(tmp_path / "store"), "--metrics", "is2rs"])
    assert "--relaxed" in str(result.exception)


def test_an_unknown_task_is_refused(model: Path, tmp_path: Path):
    data = write_records(tmp_path / "data.lmdb", [is2re_record(slabs(1)[0], 0)])
    result = CliRunner().invoke(eval_app, [str(model), str(data), "--metrics", "is2xy"])
    assert "s2ef, is2re, is2rs" in str(result.exception)


def test_structures_that_do_not_move_are_as_far_as_they_started(tmp_path: Path):
    data = write_records(tmp_path / "data.lmdb", [is2re_record(atoms, k) for k, atoms in enumerate(slabs(2))])
    initial = read_frames(data, required=()).structures
    relaxed = [replace(s, positions=s.positions + 0.1005 * s.free[:, None] * [0, 0, 1]) for s in initial]
    found = measure_relaxations([replace(s, energy=(s.energy or 0.0) + 0.01) for s in initial], relaxed)
    # Below 0.101, 0.102, ..., 0.499: 399 thresholds of 490.
    assert found["average_distance_within_threshold"] == pytest.approx(399 / 490)
    assert found["energy_mae"] == pytest.approx(0.01)
    with pytest.raises(DataError, match="but the relaxed one"):
        measure_relaxations(initial[::-1], relaxed)


def test_submissions_are_written_joined_and_checked(model: Path, tmp_path: Path):
    frames = write_records(tmp_path / "data.lmdb", [s2ef_record(atoms, k, 7) for k, atoms in enumerate(slabs(3))])
    options = ("--task", "s2ef", "--layout", "legacy", "--dataset", "oc22")
    run(submission_app, "write", model, frames, *options, "-o", tmp_path / "part.npz")
    parts = [f"{split}={tmp_path / 'part.npz'}" for split in ("id", "ood")]
    run(submission_app, "join", *parts, "--dataset", "oc22", "-o", tmp_path / "submission.npz")
    checked = ("check", tmp_path / "submission.npz", *options, "--data", f"ood={frames}")
    assert "is a legacy submission" in run(submission_app, *checked)
    wrong = CliRunner().invoke(submission_app, [*map(str, checked), "--layout", "leaderboard"])
    assert wrong.exit_code == 1
    assert "systems are missing" in wrong.output


@pytest.mark.slow
def test_relaxations_hold_fixed_atoms_and_reach_the_metrics(model: Path, tmp_path: Path):
    data = write_records(tmp_path / "data.lmdb", [is2re_record(atoms, k) for k, atoms in enumerate(slabs(2))])
    initial = read_frames(data, required=()).structures
    relaxed = relax_structures(load_model(model), initial, steps=3)
    for before, after in zip(initial, relaxed, strict=True):
        moved = np.linalg.norm(after.positions - before.positions, axis=1)
        assert (moved[~before.free] == 0).all()
        assert moved[before.free].max() > 0
    run(eval_app, model, data, "--metrics", "is2rs", "--json", tmp_path / "errors.json")
    found = json.loads((tmp_path / "errors.json").read_text())["metrics"]["is2rs"]
    assert 0 <= found["average_distance_within_threshold"] <= 1
    run(submission_app, "write", model, data, "--task", "is2rs", "--steps", "2", "-o", tmp_path / "is2rs.npz")
    with np.load(tmp_path / "is2rs.npz") as content:
        assert content["pos"].shape == (10, 3)
