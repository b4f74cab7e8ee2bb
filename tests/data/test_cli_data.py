"""`tdn data check` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from pubchem_shards import generator
from tdn.cli.data import app
from tdn.data.pubchemqcr import PubChemQCR
from tdn.data.reading import read_frames
from tdn.data.shard_sample import read_shard_sample
from tdn.data.sources import Notes
from tdn.errors import DataError


def write(path: Path, symbols: str = "CO", count: int = 3, seed: int = 0) -> str:
    frames = []
    for k in range(count):
        length = 1.1 + 0.05 * k + 0.001 * seed
        force = 20.0 * (1.15 - length)
        atoms = Atoms(symbols, positions=[[0, 0, 0], [0, 0, length]])
        atoms.info["REF_energy"] = -14.0 + 10.0 * (length - 1.15) ** 2
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.array([[0, 0, -force], [0, 0, force]]))
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return str(path)


def test_report_and_json(tmp_path: Path) -> None:
    train, valid = write(tmp_path / "train.xyz"), write(tmp_path / "valid.xyz", seed=7)
    result = CliRunner().invoke(app, ["check", train, "--valid", valid, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    assert "energies from `REF_energy`, 3 of 3 frames" in result.output
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["sets"]["train"]["frames"] == 3
    assert content["sets"]["valid"]["elements"] == ["C", "O"]
    assert content["sets"]["train"]["labels"]["energy"]["key"] == "REF_energy"
    assert content["reference_energies"]["origin"] == "least squares"


def test_key_options(tmp_path: Path) -> None:
    train = write(tmp_path / "train.xyz")
    result = CliRunner().invoke(app, ["check", train, "--energy-key", "energy", "--forces-key", "none"])
    assert "energies from `energy`" in result.output
    assert "no forces" in result.output


def test_errors_give_exit_code_one_even_when_quiet(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.xyz"), write(tmp_path / "test.xyz", symbols="CS")
    result = CliRunner().invoke(app, ["check", train, "--test", test, "--quiet"])
    assert result.exit_code == 1
    assert "test frames contain S" in result.output


def test_some_records_of_pubchemqcr_are_looked_at(tmp_path: Path) -> None:
    generator().write_shards(tmp_path, 60, files=3, atoms=8, steps=3, irregular=True)
    for stage in ("1st", "2nd"):
        found = [
            t for unit in PubChemQCR(str(tmp_path), stage).units() for t in PubChemQCR("", stage).read(unit, Notes())
        ]
        result = CliRunner().invoke(app, ["check", str(tmp_path), "--stage", stage])
        assert result.exit_code == 0, result.output
        assert f"{len(found)} trajectories in 60 records" in result.output
        assert "left out, records: stage missing: " in result.output
        assert "H -13.6131" in result.output
    frames = read_shard_sample([str(tmp_path)], records=7)
    assert "in 7 records" in str(frames.report)
    assert frames.origins[0] == "000000984:DFT_1st:0"


def test_shards_of_pubchemqcr_are_named_as_such(tmp_path: Path) -> None:
    generator().write_shards(tmp_path, 3, files=1, atoms=4, steps=2)
    with pytest.raises(DataError, match="no keys to choose"):
        CliRunner().invoke(app, ["check", str(tmp_path), "--forces-key", "none"], catch_exceptions=False)
    with pytest.raises(DataError, match=r"shard of PubChemQCR.*tdn data convert"):
        read_frames(tmp_path)
    (tmp_path / "Data07.lmdb").write_bytes((tmp_path / "Data06.lmdb").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"Data07\.lmdb is truncated"):
        CliRunner().invoke(app, ["check", str(tmp_path)], catch_exceptions=False)


def test_unreadable_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        CliRunner().invoke(app, ["check", str(tmp_path / "none.xyz")], catch_exceptions=False)
