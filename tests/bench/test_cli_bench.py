"""`tdn bench` from the command line, at sizes that take no time; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from ase.io import write
from typer.testing import CliRunner

from tdn.cli.main import app
from tdn.errors import ConfigError, DataError, TDNError
from tdn.modelfile import save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig

TINY = ["--channels", "4", "--rounds", "1"]


def run(*args: str) -> str:
    result = CliRunner().invoke(app, ["bench", *args], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_convolution_writes_json_and_picture(tmp_path: Path) -> None:
    output = run(
        "conv", "--lmax", "1", *TINY, "--nodes", "4", "--neighbors", "2", "--peers", "exact_ke",
        "--json", str(tmp_path / "conv.json"), "--picture", str(tmp_path / "conv.svg"),
    )  # fmt: skip
    result = json.loads((tmp_path / "conv.json").read_text())
    (row,) = result["rows"]
    assert row["passes"]["training"]["ratios"]["exact_ke"] > 0
    assert row["contenders"]["ours"]["rank"] == 6
    assert result["threads"] == 1
    assert "exact_ke" in output
    assert "<svg" in (tmp_path / "conv.svg").read_text()


def test_products_are_timed_with_weights_of_paths_and_shared(tmp_path: Path) -> None:
    output = run(
        "product", "--config", "T1,diffdock-l1", "--edges", "2", "--rounds", "1", "--peers", "exact_ke",
        "--json", str(tmp_path / "p.json"), "--picture", str(tmp_path / "p.svg"),
    )  # fmt: skip
    rows = json.loads((tmp_path / "p.json").read_text())["rows"]
    expected = [("T1", "path"), ("T1", "shared"), ("diffdock-l1", "path")]
    assert [(row["product"], row["weights"]) for row in rows] == expected
    assert rows[1]["passes"]["training"]["ratios"]["exact_ke"] > 0
    assert "one weight a channel for all paths" in output
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_model_reports_speed_and_absent_peers(tmp_path: Path) -> None:
    run("model", "--system", "aspirin", "--layers", "1", "--lmax", "1", *TINY, "--peers", "ours_eager,esen_l2",
        "--peer-python", "fairchem=/bin/false", "--json", str(tmp_path / "m.json"), "--eager")  # fmt: skip
    (row,) = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert row["contenders"]["ours"]["ns_per_day_1fs"] > 0
    assert "fairchem" in row["absent"]["esen_l2"]


def test_training_step_of_batches_and_single_structures(tmp_path: Path) -> None:
    run("train-step", "--system", "ethanol,aspirin", "--batch", "2", "--layers", "1", "--lmax", "1", *TINY,
        "--peers", "", "--eager", "--json", str(tmp_path / "t.json"), "--picture", str(tmp_path / "t.svg"))  # fmt: skip
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [(row["system"], row["atoms"]) for row in rows] == [("ethanol, batch 2", 18), ("aspirin", 21)]
    assert all(row["passes"]["training_step"]["ours_ms"] > 0 for row in rows)
    assert "<svg" in (tmp_path / "t.svg").read_text()


def test_scaling_gives_time_and_memory_an_atom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdn.bench.suites.free_gib", lambda: 1e-6)
    output = run("scaling", "--atoms", "1000000,100", "--batches", "1", "--layers", "1", "--lmax", "1", *TINY,
        "--eager", "--json", str(tmp_path / "s.json"), "--picture", str(tmp_path / "s.png"))  # fmt: skip
    result = json.loads((tmp_path / "s.json").read_text())
    rows = result["rows"]
    assert [row["atoms"] for row in rows] == [81, 9]
    assert "of 0.0 that are free" in result["left_out"][0]["reason"]
    assert "Left out: 999936 atoms" in output
    assert all(row["us_per_atom"]["ours"] > 0 for row in rows)
    assert (tmp_path / "s.png").stat().st_size > 0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)
    save_model(folder / "model.tdn", Potential(TDNConfig(num_channels=4, radial_hidden=(8,)), {1: 0.0, 6: 0.0, 8: 0.0}))
    write(folder / "ethanol.xyz", molecule("CH3CH2OH"))
    return folder / "model.tdn", folder / "ethanol.xyz"


def test_users_model_is_timed_without_naming_the_command(files: tuple[Path, Path], tmp_path: Path) -> None:
    output = run(*map(str, files), "--eager", "--rounds", "1", "--threads", "1", "--json", str(tmp_path / "r.json"))
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["atoms"] == 9
    assert result["ns_per_day_1fs"] == pytest.approx(86.4 / result["ms_per_step"], rel=1e-2)
    assert result["kib_per_atom"] >= 0
    assert 0 < result["neighbor_list_percent"] < 100
    assert 1 <= result["steps_per_list"] < 100
    assert "largest system" in output


def test_element_that_the_model_does_not_know_is_said(files: tuple[Path, Path], tmp_path: Path) -> None:
    write(tmp_path / "ammonia.xyz", molecule("NH3"))
    with pytest.raises(TDNError, match="knows H, C, O"):
        run(str(files[0]), str(tmp_path / "ammonia.xyz"), "--eager")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["conv", "--lmax", "two"], "whole numbers"),
        (["conv", "--peers", "mace"], "--peers must be of"),
        (["conv", "--build-limit", "soon"], "--build-limit soon"),
        (["product", "--config", "T9"], "--config must be of"),
        (["product", "--weights", "none"], "--weights must be of"),
        (["product", "--peers", "mace"], "--peers must be of"),
        (["model", "--system", "gold"], "--system must be of"),
        (["model", "--dtype", "float16"], "--dtype"),
        (["model", "--airs-code", "/"], "OpenMol/TDN"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], match: str) -> None:
    with pytest.raises((ConfigError, DataError, TDNError), match=match):
        run(*arguments)


@pytest.mark.parametrize("suite", ["model", "train-step"])
def test_a_wrong_system_is_refused_before_others_are_measured(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdn.bench.suites.measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="gold"):
        run(suite, "--system", "aspirin,gold", *TINY)
