"""`tdn relax` and `tdn eval` on Dask workers, one of which is killed: nothing lost or doubled, the same numbers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read, write

from tdn.cli.main import main
from tdn.data.formats import fingerprint
from tdn.errors import ConfigError
from tdn.simulation.cluster import Cluster, WorkerModel
from tdn.simulation.journal import Journal

from .conftest import water

distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'tdn[dask]'")
COUNT = 100


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """A Dask cluster of two processes."""
    options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=2, **options) as cluster:
        yield cluster


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    found = [water() for _ in range(COUNT)]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
        atoms.info |= {"energy": 0.1 * k}
        atoms.arrays["forces"] = np.full((3, 3), 0.01 * k)
    write(tmp_path / "frames.extxyz", found)
    return tmp_path / "frames.extxyz"


def tdn(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """Exit code of `tdn ARGS`."""
    monkeypatch.setattr(sys, "argv", ["tdn", *map(str, args)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def kill_busy_worker(cluster: Any) -> bool:
    """SIGKILL to a process that has work, if there is one."""
    for state in list(cluster.scheduler.workers.values()):
        if state.processing:
            nanny = next(nanny for nanny in cluster.workers.values() if nanny.worker_address == state.address)
            os.kill(nanny.pid, signal.SIGKILL)
            return True
    return False


def kill_in_the_middle(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> tuple[list[int], list[int]]:
    """Kill a worker after the third piece; indices of all that is noted, and how many those were at that time."""
    noted: list[int] = []
    killed: list[int] = []
    pieces = itertools.count(1)
    honest = Journal.extend

    def extend(journal: Journal, records: Any) -> None:
        kept = list(records)
        honest(journal, kept)
        noted.extend(record["index"] for record in kept)
        if next(pieces) >= 3 and not killed and kill_busy_worker(cluster):
            killed.append(len(noted))

    monkeypatch.setattr(Journal, "extend", extend)
    return noted, killed


def test_relaxation_survives_a_killed_worker(
    monkeypatch: pytest.MonkeyPatch, model_file: Path, frames: Path, tmp_path: Path, workers: Any
) -> None:
    args = ("relax", model_file, frames, "--steps", 2, "--dtype", "float64", "--quiet", "-o")
    assert tdn(monkeypatch, *args, tmp_path / "once.extxyz") == 0
    noted, killed = kill_in_the_middle(monkeypatch, workers)
    assert tdn(monkeypatch, *args, tmp_path / "spread.extxyz", "--dask", workers.scheduler_address) == 0
    assert killed
    assert killed[0] < COUNT, "the worker was to be killed on its way"
    assert sorted(noted) == list(range(COUNT))
    spread = read(tmp_path / "spread.extxyz", ":")
    assert [atoms.info["relax_index"] for atoms in spread] == list(range(COUNT))
    for one, other in zip(read(tmp_path / "once.extxyz", ":"), spread, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-7)
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-7)
    assert not (tmp_path / "spread.extxyz.journal").exists()


def test_evaluation_survives_a_killed_worker(
    monkeypatch: pytest.MonkeyPatch, model_file: Path, frames: Path, tmp_path: Path, workers: Any
) -> None:
    args = ("eval", model_file, frames, "--dtype", "float64", "--quiet", "--output")
    assert tdn(monkeypatch, *args, tmp_path / "once") == 0
    noted, killed = kill_in_the_middle(monkeypatch, workers)
    assert tdn(monkeypatch, *args, tmp_path / "spread", "--dask", workers.scheduler_address) == 0
    assert killed
    assert killed[0] < COUNT, "the worker was to be killed on its way"
    assert sorted(noted) == list(range(COUNT))
    once, spread = (json.loads((tmp_path / name / "errors.json").read_text()) for name in ("once", "spread"))
    assert spread["frames"] == COUNT
    for quantity in ("energy_per_atom", "forces"):
        for name, value in once[quantity].items():
            assert value == pytest.approx(spread[quantity][name], rel=1e-9)
    predicted = [read(tmp_path / name / "predictions.extxyz", ":") for name in ("once", "spread")]
    for one, other in zip(*predicted, strict=True):
        np.testing.assert_allclose(one.arrays["TDN_forces"], other.arrays["TDN_forces"], atol=1e-8)


def test_workers_of_this_machine_continue_an_interrupted_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, frames: Path, tmp_path: Path
) -> None:
    paths = tmp_path / "paths"
    args = ("relax", model_file, frames, "--steps", 2, "-o", tmp_path / "out.extxyz", "--trajectory", paths)
    honest = Journal.extend

    def interrupt(journal: Journal, records: Any) -> None:
        honest(journal, records)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "extend", interrupt)
        assert tdn(monkeypatch, *args, "--dask", 1) == 130
    assert "--resume" in capsys.readouterr().err
    finished = (tmp_path / "out.extxyz.journal" / "all.jsonl").read_bytes().count(b"\n")
    assert 0 < finished < COUNT
    noted: list[int] = []
    monkeypatch.setattr(
        Journal, "extend", lambda journal, records: honest(journal, [noted.append(r["index"]) or r for r in records])
    )
    assert tdn(monkeypatch, *args, "--resume") == 0
    assert len(set(noted)) == len(noted) == COUNT - finished
    assert len(read(tmp_path / "out.extxyz", ":")) == COUNT
    assert len(list(paths.iterdir())) == COUNT


def test_worker_that_does_not_see_the_model_says_so(model_file: Path, workers: Any) -> None:
    hidden = WorkerModel(model_file.with_name("elsewhere.tdn"), fingerprint([model_file]))
    with Cluster.open(workers.scheduler_address, hidden) as cluster, pytest.raises(ConfigError, match="does not see"):
        list(cluster.map(lambda potential, piece: piece, [1]))
    old = WorkerModel(model_file, fingerprint([model_file]), version="0.0.1")
    with Cluster.open(workers.scheduler_address, old) as cluster, pytest.raises(ConfigError, match="one version"):
        list(cluster.map(lambda potential, piece: piece, [1]))


def test_every_item_is_in_one_piece_and_in_pieces_of_bounded_size(model_file: Path, workers: Any) -> None:
    with Cluster.open(workers.scheduler_address, WorkerModel(model_file, fingerprint([model_file]))) as cluster:
        for total in (0, 1, 15, 100, 10_000):
            pieces = list(cluster.pieces(range(total), total))
            assert [item for piece in pieces for item in piece] == list(range(total))
            assert all(1 <= len(piece) <= 256 for piece in pieces)


@pytest.mark.parametrize("where", ["0", "", "none.json", "tcp://127.0.0.1:9", "nosuch://x"])
def test_scheduler_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, frames: Path, where: str
) -> None:
    import dask

    monkeypatch.setattr("tdn.simulation.cluster.PATIENCE", 0.2)
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        assert tdn(monkeypatch, "relax", model_file, frames, "-o", frames.with_name("o.extxyz"), "--dask", where) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert any(word in error for word in ("number", "--scheduler-file"))


def test_two_ways_to_share_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, frames: Path
) -> None:
    for command, option in (("relax", "-o"), ("eval", "--output")):
        args = (command, model_file, frames, option, frames.with_name("o.extxyz"), "--dask", 2, "--shard", "1/2")
        assert tdn(monkeypatch, *args) == 2
        assert "--shard and --" in capsys.readouterr().err


def test_missing_dask_names_the_extra(monkeypatch: pytest.MonkeyPatch, model_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"tdn\[dask\]"), Cluster.open("2", WorkerModel(model_file, "")):
        pass
