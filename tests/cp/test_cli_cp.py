"""`tdn cp`: what the commands print and write, and what their exit codes mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tdn.cli.cp import app
from tdn.cp.tables import FACTORS_FOLDER, load_table, read_table
from tdn.errors import TDNError

RUNNER = CliRunner()
REPORTED = {
    "rank",
    "residual",
    "worst_path",
    "bound",
    "bound_paper",
    "defect_float32",
    "defect_float64",
    "largest_entry",
}


@pytest.mark.parametrize("paths", ["natural", "all"])
def test_verify_writes_the_certificate(tmp_path: Path, paths: str) -> None:
    file = tmp_path / "certificate.json"
    result = RUNNER.invoke(app, ["verify", "--lmax", "2", "--paths", paths, "--json", str(file), "--quiet"])
    assert result.exit_code == 0
    report = json.loads(file.read_text())
    assert set(report) >= REPORTED
    assert report["rank"] == load_table(2, 2, 2, parity=paths).rank
    assert report["residual"] < 1e-13
    assert report["passed"]


def test_verify_fails_for_a_spoiled_file(tmp_path: Path) -> None:
    content = dict(np.load(FACTORS_FOLDER / "natural-1-1-1-r6.npz"))
    content["out"] = content["out"] + 1e-5
    np.savez(tmp_path / "spoiled.npz", **content)
    result = RUNNER.invoke(app, ["verify", "--file", str(tmp_path / "spoiled.npz")])
    assert result.exit_code == 1
    assert "exceeds the stored one" in result.output


def test_verify_of_the_paper_fit_passes_and_shows_its_error(tmp_path: Path) -> None:
    file = tmp_path / "fit.json"
    arguments = ["verify", "--lmax", "1", "--paths", "all", "--rank", "paper", "--json", str(file), "--quiet"]
    assert RUNNER.invoke(app, arguments).exit_code == 0
    report = json.loads(file.read_text())
    assert report["rank"] == 7
    assert report["defect_float64"] > 1e-3


def test_verify_of_a_missing_table_says_what_there_is() -> None:
    result = RUNNER.invoke(app, ["verify", "--lmax", "9"])
    assert isinstance(result.exception, TDNError)
    assert "shipped for natural paths" in str(result.exception)


def test_show_lists_every_table(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["show", "--json", str(tmp_path / "tables.json")])
    assert result.exit_code == 0
    names = {row["name"] for row in json.loads((tmp_path / "tables.json").read_text())["tables"]}
    assert {"natural-1-1-1-r6", "natural-2-2-2-r17", "all-1-1-1-r7"} <= names


def test_solve_writes_a_table_that_verifies(tmp_path: Path) -> None:
    file = tmp_path / "table.npz"
    result = RUNNER.invoke(
        app, ["solve", "--lmax", "1", "--rank", "6", "--weights", "unit", "--output", str(file), "--quiet"]
    )
    assert result.exit_code == 0
    assert read_table(file).certificate.exact
    assert RUNNER.invoke(app, ["verify", "--file", str(file), "--quiet"]).exit_code == 0


def test_solve_says_that_a_rank_is_too_small() -> None:
    result = RUNNER.invoke(app, ["solve", "--lmax", "1", "--rank", "4", "--starts", "1", "--weights", "unit"])
    assert result.exit_code == 1


def test_solve_refuses_unknown_choices() -> None:
    result = RUNNER.invoke(app, ["solve", "--lmax", "1", "--rank", "6", "--method", "magic"])
    assert isinstance(result.exception, TDNError)
    assert "cubature" in str(result.exception)


def test_plot_draws_the_schedules_and_the_exact_tables(tmp_path: Path) -> None:
    picture, data = tmp_path / "ranks.png", tmp_path / "ranks.json"
    arguments = ["plot", "-o", str(picture), "--lmax", "1", "--sweeps", "200", "--json", str(data), "--quiet"]
    assert RUNNER.invoke(app, arguments).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    points = {point["schedule"]: point for point in json.loads(data.read_text())["points"]}
    assert {name: point["rank"] for name, point in points.items()} == {
        "(L+1)^4": 16,
        "16 log^2(L+1)": 7,
        "7 L": 7,
        "7 L^2": 7,
        "exact, natural parity": 6,
        "exact, all paths": 7,
    }
    assert points["7 L^2"]["residual"] > 1e-3 > points["exact, all paths"]["residual"]
