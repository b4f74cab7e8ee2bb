"""`tdn reproduce SUITE` end to end, on the molecules that ship with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tdn.bench.peers import Peer
from tdn.bench.rounds import WorkerError
from tdn.cli.reproduce import app
from tdn.errors import ConfigError, TDNError
from tdn.evaluation import evaluate
from tdn.modelfile import load_model
from tdn.reproduce import accuracy
from tdn.reproduce.accuracy import run_contender
from tdn.reproduce.contenders import PEERS, Conditions, choose_contenders
from tdn.reproduce.entries import data_folder, read_entry
from tdn.reproduce.peers import frames as exchange
from tdn.reproduce.peers import worker
from tdn.reproduce.suites import SUITES
from tdn.reproduce.summary import gather, tables
from tdn.training.logs import Reporter

SMALLER = ["num_channels=4", "radial_hidden=[8]", "product_order=2"]
ENTRY = SUITES["shipped"].entry("organics")


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two seconds."""
    folder = tmp_path_factory.mktemp("accuracy")
    done = invoke("shipped", "-o", folder, "--preset", "tiny", "--max-time", "2s", "--threads", 1, "-q", *SMALLER)
    assert done.exit_code == 0, done.output
    return folder


def result_of(output: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = output.glob("shipped/organics/tdn-tiny*/2s-1threads-seed0/result.json")
    return path, json.loads(path.read_text())


def test_a_result_says_all_of_the_run(output: Path) -> None:
    path, result = result_of(output)
    assert result["command"].startswith("tdn reproduce shipped --data FOLDER --output FOLDER --entry organics")
    assert str(output) not in path.read_text()
    assert result["frames"] == {"train": 345, "valid": 62, "new molecules": 93}
    assert (result["seed"], result["threads"], result["dtype"], result["budget_s"]) == (0, 1, "float32", 2.0)
    assert result["settings"]["model"]["num_channels"] == 4
    assert result["settings"]["training"]["max_time"] == 2.0
    assert result["ms_per_step"] == pytest.approx(1e3 * result["elapsed_s"] / result["steps"])
    assert result["inference_ms"] > 0
    assert result["curve"][-1]["step"] == result["steps"]
    assert result["curve"][-1]["forces_mae"] > 0
    block = result["blocks"]["new molecules"]
    assert block["like_training"] is False
    found = read_entry(ENTRY, data_folder("shipped", None))
    model = load_model(path.parent / "run" / "model.tdn")
    table = evaluate(model, found.blocks["new molecules"].structures).overall
    assert block["errors"]["forces"]["rmse"] == pytest.approx(table.forces.rmse, rel=1e-4)
    assert block["errors"]["energy_per_atom"]["mae"] == pytest.approx(table.energy_per_atom.mae, rel=1e-4)


def test_what_is_done_is_not_done_again(output: Path) -> None:
    path, _ = result_of(output)
    before = path.stat().st_mtime_ns
    arguments = ["--preset", "tiny", "--max-time", "2s", "--threads", 1, *SMALLER]
    done = invoke("shipped", "-o", output, *arguments, "--json", output / "all.json")
    assert done.exit_code == 0, done.output
    assert "is there already" in done.output
    assert path.stat().st_mtime_ns == before
    assert len(json.loads((output / "all.json").read_text())["results"]) == 1


def test_tables_and_picture_are_made_of_what_is_there(output: Path) -> None:
    done = invoke("shipped", "-o", output, "--tables")
    assert done.exit_code == 0, done.output
    assert "unlike those of the training" in done.output
    assert "| tdn-tiny" in (output / "shipped" / "results.md").read_text()
    assert (output / "shipped" / "errors.png").read_bytes().startswith(b"\x89PNG")
    nothing = invoke("shipped", "-o", output / "elsewhere", "--tables")
    assert isinstance(nothing.exception, ConfigError)


def test_seeds_are_averaged_with_their_spread(output: Path, tmp_path: Path) -> None:
    _, result = result_of(output)
    for seed, mae in enumerate((10.0, 30.0)):
        result["blocks"]["new molecules"]["errors"]["forces"]["mae"] = mae
        path = tmp_path / "organics" / "tdn" / f"seed{seed}" / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**result, "seed": seed}))
    (table,) = tables("shipped", gather(tmp_path))
    row = dict(zip(table.columns, table.rows[-1], strict=True))
    assert row["seeds"] == "2"
    assert row["forces"].startswith("20±14 /")


def test_machines_are_not_averaged_over(output: Path, tmp_path: Path) -> None:
    _, result = result_of(output)
    for name in ("AMD EPYC", "Intel(R) Xeon(R) Processor"):
        path = tmp_path / "organics" / "tdn" / name / "result.json"
        path.parent.mkdir(parents=True)
        machine = f"Linux x86_64, 2 CPU cores, {name}, 1 PyTorch threads"
        path.write_text(json.dumps({**result, "machine": machine}))
    (table,) = tables("shipped", gather(tmp_path))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows[-2:]]
    assert [(row["machine"], row["seeds"]) for row in rows] == [("AMD EPYC", "1"), ("Intel Xeon", "1")]
    one = gather(tmp_path)["organics"][:1]
    assert "machine" not in tables("shipped", {"organics": one})[0].columns


def test_published_numbers_stand_above_ours(output: Path, tmp_path: Path) -> None:
    _, result = result_of(output)
    errors = result["blocks"]["new molecules"]
    changed = {**result, "suite": "rmd17", "entry": "ethanol", "frames": {"test": 1000}, "blocks": {"test": errors}}
    path = tmp_path / "ethanol" / "tdn" / "seed0" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(changed))
    (table,) = tables("rmd17", gather(tmp_path))
    rows = table.rows
    assert table.title.startswith("ethanol, test: 1000 frames, like those of the training")
    assert rows[0][0] == "MACE (paper)"
    assert "0.4 / -" in rows[0]
    assert "2.1 / -" in rows[0]
    assert rows[-1][0].startswith("tdn-tiny")


class InProcess:
    """Stands in for the process of a peer."""

    def __init__(self, *_: object) -> None: ...

    def ask(self, timeout: float, **message: Any) -> dict[str, Any]:
        """Do it here."""
        assert timeout > message["seconds"]
        return worker.train(message)

    def close(self) -> None:
        """Nothing to end."""


def test_a_peer_is_measured_like_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "Worker", InProcess)
    monkeypatch.setitem(PEERS, "toy", Peer("tdn", "toy_peer:build", "pairs"))
    data = read_entry(ENTRY, data_folder("shipped", None))
    (who,) = choose_contenders([], [], ["toy"])
    result = run_contender("shipped", ENTRY, data, tmp_path, who, Conditions(0.5, threads=1), Reporter())
    assert result["settings"]["centres"] == 12
    assert result["settings"]["stages"] == [[0.0, 1.0, 1.0, 0.0], [0.5, 10.0, 1.0, 0.0]]
    assert "--peer toy --peer-python tdn=PYTHON" in result["command"]
    (path,) = tmp_path.glob("organics/toy/*/predicted_0.npz")
    references = data.blocks["new molecules"].structures
    wrong = np.concatenate([p.forces - s.forces for p, s in zip(exchange.read(path), references, strict=True)])
    errors = result["blocks"]["new molecules"]["errors"]
    assert errors["forces"]["mae"] == pytest.approx(1e3 * np.abs(wrong).mean())
    # The constants of the elements are put back: nothing is left of total energies of thousands of eV.
    assert errors["energy_per_atom"]["mae"] < 5000


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="--peer must be of mace, mace-128, torchmdnet, nequip"):
        choose_contenders([], [], ["schnet"])
    with pytest.raises(ConfigError, match="Changes"):
        choose_contenders([], ["lr=1"], ["mace"])
    with pytest.raises(ConfigError, match="--max-time soon: expected a duration"):
        Conditions.parse("soon")
    with pytest.raises(ConfigError, match="--dtype"):
        Conditions.parse("1m", dtype="float16")
    with pytest.raises(TDNError, match="not an interpreter"):
        Conditions.parse("1m", ["mace=/no/such/python"])
    assert [who.name for who in choose_contenders([], [], [])] == ["tdn-small"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "tiny", "--peer", "ghost"], "no_such_package is not installed; --peer-python"),
        (["--preset", "tiny", "--preset", "huge"], "'tiny', 'small', 'medium' or 'large'"),
        (["numchannels=3"], "did you mean 'model.num_channels'"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "ghost", Peer("no_such_package", "x:y", ""))
    done = invoke("shipped", "-o", tmp_path / "acc", *words)
    assert isinstance(done.exception, TDNError)
    assert message in str(done.exception)
    assert not (tmp_path / "acc").exists()


def test_a_peer_that_fails_does_not_keep_others_from_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(InProcess):
        def ask(self, timeout: float, **message: Any) -> dict[str, Any]:
            if message["options"]:
                raise WorkerError("training diverged")
            return worker.train(message)

    monkeypatch.setattr(accuracy, "Worker", Failing)
    monkeypatch.setitem(PEERS, "bad", Peer("tdn", "toy_peer:build", "pairs", {"lr": 1e9}))
    monkeypatch.setitem(PEERS, "toy", Peer("tdn", "toy_peer:build", "pairs"))
    done = invoke("shipped", "-o", tmp_path, "--peer", "bad", "--peer", "toy", "--max-time", "0.2s", "--threads", 1)
    assert isinstance(done.exception, TDNError)
    assert str(done.exception) == "organics, bad: training diverged"
    assert "toy" in (tmp_path / "shipped" / "results.md").read_text()
