"""Contenders in their own processes: asked in turns, absent or failing ones left out with the reason."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tdn.bench import convolutions
from tdn.bench.peers import CONVOLUTIONS, MODELS, Peer, choose
from tdn.bench.rounds import Interpreters, Measurement, Worker, measure
from tdn.bench.systems import ethanol
from tdn.bench.worker import Contender, Session, Task, is_finite, time_pass
from tdn.errors import ConfigError, TDNError

SMALL = {"lmax": 2, "channels": 4, "neighbors": 3, "nodes": 5}


def inputs_of(lmax: int = 2, dtype: str = "float64") -> Task:
    return Task(convolutions_passes(), [], {**SMALL, "lmax": lmax}, dtype, "cpu")


def convolutions_passes() -> tuple[str, ...]:
    return ("forward", "backward", "training")


def test_unknown_peer_is_refused() -> None:
    with pytest.raises(ConfigError, match="exact_ke"):
        choose(CONVOLUTIONS, ["exact"])


def test_optional_peers_run_only_by_name() -> None:
    assert "public_tdn_l1" not in choose(MODELS, None)
    assert list(choose(MODELS, ["public_tdn_l1"])) == ["ours", "public_tdn_l1"]


def test_interpreter_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TDNError, match="not an interpreter"):
        Interpreters.parse([f"mace={tmp_path / 'python'}"])


def test_interpreters_are_named_by_package() -> None:
    found = Interpreters.parse([f"mace={sys.executable}", sys.executable])
    assert found.named == {"mace": sys.executable}
    assert found.others == [sys.executable]
    assert found.find("no_such_package_here") is None
    assert found.find("numpy") == sys.executable


def test_every_pass_of_every_form_is_finite() -> None:
    for builder in (convolutions.ours, convolutions.exact_ke, convolutions.paper_cp):
        contender = builder(inputs_of())
        assert tuple(contender.passes) == convolutions_passes()
        assert all(is_finite(function()) for function in contender.passes.values())


def test_exact_forms_compute_the_same() -> None:
    """Equal work: the factors and the dense tensor give the same sums and the same gradient in the features."""
    ours, dense = convolutions.ours(inputs_of()), convolutions.exact_ke(inputs_of())
    torch.testing.assert_close(ours.passes["forward"](), dense.passes["forward"]())
    torch.testing.assert_close(ours.passes["backward"]()[0], dense.passes["backward"]()[0])


def test_e3nn_couples_the_same_paths() -> None:
    pytest.importorskip("e3nn")
    contender = convolutions.e3nn(inputs_of())
    assert contender.facts["paths"] == len(convolutions.paths_of(2)) == 11
    assert all(is_finite(function()) for function in contender.passes.values())


def test_a_turn_lasts_as_long_as_asked_and_runs_at_least_once() -> None:
    calls = []
    assert len(time_pass(lambda: calls.append(1), "cpu", 0.0)) == len(calls) == 1
    assert len(time_pass(lambda: None, "cpu", 0.01)) > 1


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are measured anew on Linux only")
def test_peak_memory_is_that_of_the_call_whatever_was_freed_before() -> None:
    session = Session()
    session.contender = Contender({"run": lambda: torch.ones(2**24)}, "eager", {})
    freed = [bytearray(1000) for _ in range(200_000)]
    del freed
    assert session.answer({"memory": "run"})["peak_mib"] == pytest.approx(64, abs=8)


def test_nan_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Contender({"run": lambda: torch.tensor(float("nan"))}, "eager", {})
    monkeypatch.setattr("tdn.bench.worker.build", lambda message: broken)
    with pytest.raises(ValueError, match="NaN"):
        Session().answer({"builder": "", "task": {"device": "cpu"}})


@pytest.fixture(scope="module")
def entries() -> dict:
    peers = {
        "ours": CONVOLUTIONS["ours"],
        "missing": Peer("no_such_package_here", "x:y", ""),
        "failing": Peer("tdn", "tdn.bench.convolutions:no_such_builder", ""),
    }
    return measure(peers, Measurement(("forward",), settings=SMALL, rounds=2, seconds=0.0), Interpreters())


def test_contender_is_timed_once_a_round(entries: dict) -> None:
    ours = entries["ours"]
    assert ours.absent is None
    assert len(ours.rounds["forward"]) == 2
    assert all(ms > 0 for ms in ours.rounds["forward"])
    assert ours.facts["edges"] == 15


def test_missing_package_is_said(entries: dict) -> None:
    assert "no_such_package_here is not installed" in entries["missing"].absent


def test_failing_contender_does_not_stop_the_others(entries: dict) -> None:
    assert "no_such_builder" in entries["failing"].absent
    assert entries["failing"].rounds == {}


def test_contender_that_takes_too_long_to_build_is_left_out() -> None:
    task = Measurement(("forward",), settings=SMALL, rounds=1, seconds=0.0, build_seconds=0.2)
    slow = measure({"slow": CONVOLUTIONS["exact_ke"]}, task, Interpreters())["slow"]
    assert slow.absent == "not built within 0.2 s, the limit"
    assert slow.rounds == {}


def test_compilers_that_a_contender_has_started_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = "import subprocess\ndef main(): print('{}', flush=True); subprocess.run(['sleep', '60'])"
    (tmp_path / "compiling.py").write_text(child)
    monkeypatch.chdir(tmp_path)
    worker = Worker(sys.executable, 1, "compiling")
    worker.ask(30.0)
    time.sleep(0.5)
    worker.close()
    # The child holds the pipe too: its end is seen only when both are gone.
    assert select.select([worker._process.stdout], [], [], 20.0)[0]


def test_network_trains_and_reports_its_memory() -> None:
    task = Measurement(
        ("training_step",), ethanol(2), {"lmax": 1, "channels": 4, "layers": 1, "cutoff": 4.0}, rounds=1, seconds=0.0,
        memory=("training_step",),
    )  # fmt: skip
    eager = measure({"ours": MODELS["ours_eager"]}, task, Interpreters())["ours"]
    assert eager.absent is None
    assert eager.facts["config"]["num_channels"] == 4
    assert len(eager.rounds["training_step"]) == 1
    assert eager.peak_mib["training_step"] > 0


def test_structures_reach_the_worker_unchanged(tmp_path: Path) -> None:
    from tdn.bench.rounds import _request
    from tdn.bench.worker import read_task

    frames = ethanol(2)
    task = read_task(_request(Measurement(("energy_forces",), frames), tmp_path))
    for (numbers, positions, _, _), frame in zip(task.structures, frames, strict=True):
        np.testing.assert_array_equal(numbers, frame.numbers)
        np.testing.assert_array_equal(positions, frame.positions)


@pytest.mark.skipif("TDN_PEER_PYTHON" not in os.environ, reason="TDN_PEER_PYTHON names no interpreter with peers")
@pytest.mark.parametrize("name", ["mace_64_l1", "nequip_64_l2", "sevennet_0", "tensornet_128"])
def test_installed_peer_runs(name: str) -> None:
    interpreters = Interpreters.parse(os.environ["TDN_PEER_PYTHON"].split(","))
    if interpreters.find(MODELS[name].package) is None:
        pytest.skip(f"{MODELS[name].package} is not installed")
    task = Measurement(("training_step",), ethanol(1), {"cutoff": 4.0}, rounds=1, seconds=0.0)
    assert measure({name: MODELS[name]}, task, interpreters)[name].absent is None
