"""`tdn eval` and `tdn info` as a user types them: exit codes, files, stable names."""

import json
import re

import ase.io
import pytest
import torch
from typer.testing import CliRunner

from tdn.cli.eval import app as eval_app
from tdn.cli.info import app as info_app
from tdn.datasets import organics_path
from tdn.errors import DataError, ModelFileError
from tdn.modelfile import save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig

RUNNER = CliRunner()
INFO_KEYS = {
    *("architecture", "format", "format_version", "tdn_version", "config", "parameters", "dtype", "elements"),
    *("reference_energies", "tables", "data", "errors", "metadata", "not_claimed"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(2)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=1, product_order=2, r_max=3.0)
    potential = Potential(config, {z: -10.0 * z for z in (1, 6, 7, 8, 9, 16, 17)})
    path = tmp_path_factory.mktemp("model") / "model.tdn"
    metadata = {
        "data": {"train": {"files": ["train.extxyz"], "sha256": "ab" * 32, "num_frames": 7, "labels": "energies"}},
        "valid": {"forces_mae": 12.5, "stress_mae": None},
        "seed": 3,
        "versions": {"tdn": "0.0.1"},
    }
    save_model(path, potential, metadata)
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames") / "frames.extxyz"
    ase.io.write(path, ase.io.read(organics_path("test"), index=":6"))
    return path


def invoke(app, *arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_eval_writes_everything_that_it_was_asked_for(model, frames, tmp_path):
    folder, predictions, errors = tmp_path / "out", tmp_path / "p.extxyz", tmp_path / "e.json"
    result = invoke(eval_app, model, frames, "--output", folder, "--predictions", predictions, "--json", errors)
    assert result.exit_code == 0
    assert "meV/atom" in result.output
    content = json.loads(errors.read_text())
    assert content["frames"] == 6
    assert content["stress"] is None
    assert content["forces"]["mae"] > 0
    assert len(ase.io.read(predictions, index=":")) == 6
    names = {path.name for path in folder.iterdir()}
    assert names == {"errors.json", "parity_energy.png", "parity_forces.png", "predictions.extxyz", "report.html"}
    assert (folder / "parity_forces.png").read_bytes().startswith(b"\x89PNG")
    assert str(frames.parent) not in (folder / "report.html").read_text(encoding="utf-8")


def test_eval_quiet_prints_json_alone(model, frames):
    result = invoke(eval_app, model, frames, "--quiet", "--json", "-")
    assert json.loads(result.stdout)["frames"] == 6


def test_precision_of_the_model_is_an_option(model, frames):
    single, double = (
        json.loads(invoke(eval_app, model, frames, "--quiet", "--json", "-", "--dtype", dtype).stdout)
        for dtype in ("float32", "float64")
    )
    assert (single["timing"]["dtype"], double["timing"]["dtype"]) == ("float32", "float64")
    assert single["forces"]["mae"] == pytest.approx(double["forces"]["mae"], rel=1e-3)
    assert single["forces"]["mae"] != double["forces"]["mae"]


def test_a_key_that_is_absent_is_an_error_and_none_leaves_a_label_out(model, frames):
    with pytest.raises(DataError, match="my_energy"):
        invoke(eval_app, model, frames, "--energy-key", "my_energy")
    content = json.loads(invoke(eval_app, model, frames, "-q", "--json", "-", "--forces-key", "none").stdout)
    assert content["forces"] is None
    assert content["per_element"] == {}
    assert content["energy"]["count"] == 6


def test_frames_without_labels_still_get_predictions(model, tmp_path):
    bare = ase.io.read(organics_path("test"))
    bare.info.clear()
    del bare.arrays["REF_forces"]
    ase.io.write(tmp_path / "bare.xyz", bare, format="extxyz")
    out = tmp_path / "out"
    result = invoke(eval_app, model, tmp_path / "bare.xyz", "--output", out)
    assert result.exit_code == 0
    assert "no labels" in result.output
    assert "TDN_energy" in ase.io.read(out / "predictions.extxyz").info
    assert not (out / "parity_energy.png").exists()


def test_info_json_names_are_stable_and_certificates_are_measured(model, tmp_path):
    path = tmp_path / "info.json"
    result = invoke(info_app, model, "--json", path)
    content = json.loads(path.read_text())
    assert set(content) == INFO_KEYS
    assert content["config"]["num_channels"] == 4
    assert content["elements"] == ["H", "C", "N", "O", "F", "S", "Cl"]
    assert content["reference_energies"]["Cl"] == -170.0
    assert content["errors"]["valid"]["forces_mae"] == 12.5
    assert content["data"]["train"]["sha256"] == "ab" * 32
    assert content["not_claimed"] == []
    for table in content["tables"]:
        assert table["exact"]
        assert table["residual"] < 1e-12
        assert {"shape", "rank", "bound", "worst_path", "largest_entry", "defect_float32"} <= set(table)
    for word in ("Cl", "12.500", "abababab", "train.extxyz", "natural"):
        assert word in result.output


def test_info_measures_the_table_in_the_file_and_not_the_shipped_one(model, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(model, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    spoiled = min(key for key in tensors if key.startswith("tables.") and key.endswith(".out"))
    shape = tuple(int(degree) for degree in re.findall(r"\d+", spoiled)[:3])
    tensors[spoiled] = tensors[spoiled] * 1.01
    save_file(tensors, tmp_path / "spoiled.tdn", metadata=metadata)
    content = json.loads(invoke(info_app, tmp_path / "spoiled.tdn", "-q", "--json", "-").stdout)
    residuals = {tuple(table["shape"]): table["residual"] for table in content["tables"]}
    assert residuals[shape] == pytest.approx(0.01, rel=1e-6)
    assert "only approximate" in content["not_claimed"][0]


def test_missing_files_are_named(model, tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.tdn"):
        invoke(info_app, tmp_path / "absent.tdn")
    with pytest.raises(DataError, match=r"absent\.xyz"):
        invoke(eval_app, model, tmp_path / "absent.xyz")
