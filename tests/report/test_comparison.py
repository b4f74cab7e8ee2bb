"""Models are compared frame by frame on the same frames, and `tdn report` refuses what it cannot compare."""

import json

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import write
from typer.testing import CliRunner

from tdn.cli.report import app
from tdn.errors import ConfigError, DataError
from tdn.modelfile import save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.report.comparison import compare, difference, model_path, unique_names
from tdn.report.training import training_report
from tdn.structure import Structure

METRICS = "step,elapsed_s,valid_loss,valid_forces_mae\n10,1.5,0.9,80\n20,3.0,0.8,70\n30,4.0,0.7,60\n"


def make_run(folder, seed, elements=(1, 6, 8), valid="b" * 64):
    torch.manual_seed(seed)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=1, product_order=2, r_max=4.0)
    potential = Potential(config, dict.fromkeys(elements, 0.0)).eval()
    parts = {"train": "a" * 64, "valid": valid}
    data = {
        name: {"files": ["x.extxyz"], "sha256": sha, "num_frames": 3, "labels": "energies"}
        for name, sha in parts.items()
    }
    folder.mkdir()
    save_model(folder / "model.tdn", potential, {"data": data, "seed": seed})
    (folder / "metrics.csv").write_text(METRICS)
    return folder


@pytest.fixture
def runs(tmp_path):
    return [make_run(tmp_path / f"run{k}", k, valid="bbc"[k] * 64) for k in range(3)]


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    return [
        Structure.from_ase(
            molecule(name), energy=-5.0, forces=rng.normal(size=(len(molecule(name)), 3)), info={"kind": name[-1]}
        )
        for name in ("H2O", "CH4", "CH3OH", "C2H6")
    ]


def test_comparison_has_the_errors_of_each_model_and_paired_differences(runs, frames):
    own, same, other = training_report(runs[0], frames, others=[runs[0] / "model.tdn", runs[1]]).comparison
    assert own.energy_change is None
    assert same.energy_change == pytest.approx((0.0, 0.0))
    assert same.errors.forces.mae == pytest.approx(own.errors.forces.mae)
    assert other.errors.energy_per_atom.mae - own.errors.energy_per_atom.mae == pytest.approx(other.energy_change[0])


def test_curves_are_drawn_of_runs_with_the_same_validation_frames_only(runs, frames):
    _, second, third = training_report(runs[0], frames, others=runs[1:]).comparison
    assert second.curves is not None
    assert second.notes == ()
    assert third.curves is None
    assert "not drawn" in third.notes[0]


def test_difference_is_signed_mean_with_its_standard_error_over_labelled_frames():
    own, other = np.array([-0.001, 0.001, np.nan, 0.001]), np.array([0.002, -0.003, 0.1, 0.004])
    mean, error = difference(own, other)
    assert mean == pytest.approx(2.0)
    assert error == pytest.approx(1.0 / np.sqrt(3))
    assert difference(own[:1], other[:1]) is None


def test_names_are_short_and_differ(tmp_path):
    paths = [tmp_path / "a" / "model.tdn", tmp_path / "x" / "a" / "model.tdn", tmp_path / "b.tdn"]
    assert unique_names(paths) == ["a (1)", "a (2)", "b.tdn"]


def test_what_cannot_be_compared_is_refused(runs, frames, tmp_path):
    with pytest.raises(ConfigError, match="neither a run folder"):
        model_path(tmp_path)
    with pytest.raises(ConfigError, match="--data"):
        training_report(runs[0], others=runs[1:])
    stranger = make_run(tmp_path / "metal", 0, elements=(29,))
    with pytest.raises(DataError, match="metal cannot be compared"):
        compare(training_report(runs[0], frames), runs[0], [stranger])


def test_report_command_writes_a_page_about_an_unfinished_run(runs, frames, tmp_path):
    atoms = [s.to_ase() for s in frames]
    for a, s in zip(atoms, frames, strict=True):
        a.info["REF_energy"] = s.energy
        a.set_array("REF_forces", s.forces)
    data = tmp_path / "frames.extxyz"
    write(data, atoms)
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    common = [str(runs[0]), "--data", str(data), "--json", str(numbers)]
    arguments = [*common, "--compare", str(runs[1]), "--by", "kind", "--worst", "2", "-o", str(page)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "not finished" in text
    assert text.count("<svg class") == 2
    assert "run1, on the same frames" in result.stdout
    assert str(tmp_path) not in text
    found = json.loads(numbers.read_text())
    assert [model["name"] for model in found["comparison"]] == ["run0", "run1"]
    assert set(found["by"]) == {"kind"}
    with pytest.raises(ConfigError, match="'colour'"):
        CliRunner().invoke(app, [*common, "--by", "colour"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="name frames with --data"):
        CliRunner().invoke(app, [str(runs[0])], catch_exceptions=False)
