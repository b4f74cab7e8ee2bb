"""`tdn train` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tdn.cli.train import app
from tdn.errors import ConfigError, TDNError

from .conftest import run_content

TINY = ["lmax=1", "num_channels=4", "product_order=2", "model.radial_hidden=[8]", "r_max=4", "tensorboard=false"]


def invoke(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


def test_data_and_output_are_enough(clusters: Path, tmp_path: Path):
    done = invoke(
        *("--data", clusters, "--valid", "0.2", "--test", "3", "--output", tmp_path / "run", *TINY),
        *("--max-time", "1s", "--json", tmp_path / "result.json", "--seed", "5", "--threads", "1"),
    )
    assert done.exit_code == 0, done.output
    assert "MAE / RMSE" in done.output
    assert "held out at random with seed 5: 16 train, 5 valid, 3 test frames" in done.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["errors"]["test"]["forces"]["mae"] > 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["training"]["max_time"] == 1.0
    assert config["training"]["max_steps"] is None
    assert config["seed"] == 5
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()


def test_options_that_are_not_given_leave_the_file_alone(clusters: Path, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**run_content(clusters, tmp_path / "run"), "seed": 9, "dtype": "float64"}))
    done = invoke(path, "max_steps=2", "--quiet", "--no-report")
    assert done.exit_code == 0, done.output
    assert done.output == ""
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["seed"], config["dtype"], config["training"]["max_steps"]) == (9, "float64", 2)


def test_resume_needs_no_more_than_the_folder(clusters: Path, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_content(clusters, tmp_path / "run", max_steps=3)))
    assert invoke(path, "-q", "--no-report").exit_code == 0
    done = invoke("--resume", "--output", tmp_path / "run", "max_steps=6")
    assert done.exit_code == 0, done.output
    assert "resumed at step 3" in done.output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output FOLDER"),
        (["--output", "run"], "--data FILE"),
        (["one.yaml", "two.yaml"], "one configuration file"),
        (["--output", "run", "--data", "a.xyz", "--max-time", "soon"], "max_time"),
        (["--output", "run", "--data", "a.xyz", "lerning_rate=1"], "unknown key"),
        (["--output", "run", "--data", "no-such-file.xyz"], r"No such file: .*no-such-file\.xyz"),
        (["--output", "/proc/run", "--data", "a.xyz"], "cannot be written"),
    ],
)
def test_wrong_input_is_an_error_that_says_what_to_do(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert isinstance(done.exception, TDNError), done.output
    with pytest.raises(TDNError, match=message):
        raise done.exception


def test_a_config_error_is_one(tmp_path: Path):
    assert isinstance(invoke("--output", tmp_path / "run").exception, ConfigError)
