"""`tdn eval` by several workers: nothing lost, nothing doubled, and the numbers of one worker."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tdn.cli.eval import app
from tdn.cli.main import main
from tdn.datasets import organics_path
from tdn.errors import ConfigError
from tdn.evaluation import sharded
from tdn.modelfile import save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.simulation.journal import Journal

ELEMENTS = (1, 6, 7, 8, 9, 16, 17)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=1, product_order=2, r_max=3.0)
    path = tmp_path_factory.mktemp("model") / "model.tdn"
    save_model(path, Potential(config, {z: -10.0 * z for z in ELEMENTS}).double())
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.extxyz"
    ase.io.write(path, ase.io.read(organics_path("test"), index=":40"))
    return path


def tdn_eval(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def numbers(path: Path) -> dict:
    content = json.loads(path.read_text())
    return {name: value for name, value in content.items() if name != "timing"}


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[name])
        elif isinstance(value, float):
            assert value == pytest.approx(other[name], rel=1e-9)
        else:
            assert value == other[name]


def test_shards_give_what_one_run_gives(model: Path, frames: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tdn_eval(model, frames, "--output", whole, "--quiet")
    for k in (3, 1, 1):  # in any order, and twice
        assert "shard done" in tdn_eval(model, frames, "--output", parts, "--quiet", "--shard", f"{k}/3")
    assert not parts.exists()
    assert len(list((tmp_path / "parts.journal").glob("*.jsonl"))) == 2
    tdn_eval(model, frames, "--output", parts, "--quiet", "--resume")
    assert_same(numbers(whole / "errors.json"), numbers(parts / "errors.json"))
    predicted = [ase.io.read(folder / "predictions.extxyz", index=":") for folder in (whole, parts)]
    for one, other in zip(*predicted, strict=True):
        np.testing.assert_allclose(one.arrays["TDN_forces"], other.arrays["TDN_forces"], atol=1e-8)
    assert not (tmp_path / "parts.journal").exists()


def test_shards_of_a_frame_store(model: Path, frames: Path, tmp_path: Path) -> None:
    from tdn.cli.data import app as data_app

    done = CliRunner().invoke(data_app, ["convert", str(frames), str(tmp_path / "store")], catch_exceptions=False)
    assert done.exit_code == 0
    store = tmp_path / "store"
    tdn_eval(model, store, "--json", tmp_path / "whole.json", "--quiet")
    tdn_eval(model, store, "--output", tmp_path / "out", "--shard", "2/2", "--quiet")
    tdn_eval(model, store, "--output", tmp_path / "out", "--resume", "--json", tmp_path / "parts.json", "--quiet")
    assert_same(numbers(tmp_path / "whole.json"), numbers(tmp_path / "parts.json"))


@pytest.mark.slow
def test_killed_worker_loses_and_doubles_nothing(
    model: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tmp_path / "many.extxyz"
    ase.io.write(many, 40 * list(ase.io.iread(frames)))
    output = tmp_path / "out"
    command = [sys.executable, "-m", "tdn", "eval", str(model), str(many), "--output", str(output), "--quiet"]
    workers = [
        subprocess.Popen([*command, "--shard", f"{k}/2"], env=os.environ | {"OMP_NUM_THREADS": "1"}) for k in (1, 2)
    ]
    journal = tmp_path / "out.journal" / "1-of-2.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.is_file() and journal.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    workers[0].send_signal(signal.SIGKILL)
    assert workers[0].wait(60) == -signal.SIGKILL
    assert workers[1].wait(120) == 0
    assert 0 < journal.read_bytes().count(b"\n") < 800, "the worker was to be killed on its way"
    asked: list[int] = []
    honest = sharded._record
    monkeypatch.setattr(sharded, "_record", lambda index, *rest: asked.append(index) or honest(index, *rest))
    survived = {json.loads(line)["index"] for line in journal.read_bytes().splitlines()[:-1]}
    tdn_eval(model, many, "--output", output, "--quiet", "--resume")
    assert all(index % 2 == 0 for index in asked)
    assert survived.isdisjoint(asked)
    content = json.loads((output / "errors.json").read_text())
    assert content["frames"] == 1600
    tdn_eval(model, frames, "--json", tmp_path / "once.json", "--quiet")
    assert content["forces"]["mae"] == pytest.approx(json.loads((tmp_path / "once.json").read_text())["forces"]["mae"])


@pytest.mark.parametrize("trouble", ["ctrl-c", "full disk"])
def test_interrupted_shard_keeps_what_is_noted_and_continues(
    model: Path,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: str,
) -> None:
    args = ["tdn", "eval", str(model), str(frames), "--output", str(tmp_path / "out"), "--quiet", "--shard", "1/2"]
    journal = tmp_path / "out.journal" / "1-of-2.jsonl"
    monkeypatch.setattr(sharded, "CHUNK", 4)
    monkeypatch.setattr(sys, "argv", args)
    honest, pieces = Journal.extend, []

    def extend(self: Journal, records: Iterable[Mapping]) -> None:
        pieces.append(journal.stat().st_size)
        if len(pieces) < 3:
            return honest(self, records)
        if trouble == "ctrl-c":
            raise KeyboardInterrupt
        limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (pieces[-1] + 700, most))  # in the middle of a line
        try:
            return honest(self, records)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "extend", extend)
        with pytest.raises(SystemExit) as stop:
            main()
    error = capsys.readouterr().err
    assert stop.value.code == (130 if trouble == "ctrl-c" else 2)
    assert ("the same command continues" in error) == (trouble == "ctrl-c")
    assert error.count("\n") == 1
    whole = [json.loads(line)["index"] for line in journal.read_bytes().split(b"\n")[:-1]]
    assert whole[:8] == list(range(0, 16, 2))
    asked: list[int] = []
    record = sharded._record
    monkeypatch.setattr(sharded, "_record", lambda index, *rest: asked.append(index) or record(index, *rest))
    tdn_eval(*args[2:])
    assert sorted(whole + asked) == list(range(0, 40, 2))


def test_wrong_use_is_refused(model: Path, frames: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need --output"):
        tdn_eval(model, frames, "--shard", "1/2")
    output = ("--output", tmp_path / "out")
    with pytest.raises(ConfigError, match="one of --shard and --resume"):
        tdn_eval(model, frames, *output, "--shard", "1/2", "--resume")
    with pytest.raises(ConfigError, match="i/n"):
        tdn_eval(model, frames, *output, "--shard", "2")
    with pytest.raises(ConfigError, match="--metrics must be one of"):
        tdn_eval(model, frames, *output, "--resume", "--metrics", "s2fe")
    assert list(tmp_path.iterdir()) == []  # nothing was predicted
    tdn_eval(model, frames, *output, "--shard", "1/2")
    with pytest.raises(ConfigError, match="another data"):
        tdn_eval(model, organics_path("test"), *output, "--shard", "2/2")
