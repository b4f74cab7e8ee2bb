"""`tdn relax`: files in and out, what is kept, kills, workers, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import read, write

from tdn.cli.main import main

from .conftest import water


def tdn(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """Exit code of `tdn ARGS`."""
    monkeypatch.setattr(sys, "argv", ["tdn", *map(str, args)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    """Six rattled waters with labels of their own, the fourth with an unknown element."""
    frames = []
    for k in range(6):
        atoms = water()
        atoms.rattle(0.05, seed=k)
        atoms.info |= {"name": f"water {k}", "REF_energy": -1.0}
        atoms.arrays["REF_forces"] = np.zeros((3, 3))
        if k == 3:
            atoms.numbers[0] = 79
        if k == 4:
            atoms.set_constraint(FixAtoms([0]))
        frames.append(atoms)
    write(tmp_path / "starts.extxyz", frames)
    return tmp_path / "starts.extxyz"


def test_output_has_the_order_and_the_info_of_the_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, starts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.extxyz"
    args = ("relax", model_file, starts, "-o", out, "--steps", 3, "--trajectory", tmp_path / "paths")
    assert tdn(monkeypatch, *args) == 1
    assert "FAILED structure 3" in capsys.readouterr().err
    frames = read(out, ":")
    assert [atoms.info["name"] for atoms in frames] == [f"water {k}" for k in (0, 1, 2, 4, 5)]
    assert [atoms.info["relax_index"] for atoms in frames] == [0, 1, 2, 4, 5]
    assert not any(name.startswith("REF_") for atoms in frames for name in (*atoms.info, *atoms.arrays))
    assert all(np.isfinite(atoms.get_potential_energy()) for atoms in frames)
    np.testing.assert_allclose(frames[3].positions[0], read(starts, 4).positions[0], atol=1e-7)
    report = json.loads((tmp_path / "out.extxyz.report.json").read_text())
    assert report["counts"]["failed"] == 1
    assert "Au" in report["structures"][3]["message"]
    assert len(read(tmp_path / "paths" / "000000.extxyz", ":")) == report["structures"][0]["steps"] + 1
    assert not (tmp_path / "out.extxyz.journal").exists()


def test_nothing_is_overwritten_or_repeated_unasked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, starts: Path, tmp_path: Path
) -> None:
    args = ("relax", model_file, starts, "-o", tmp_path / "out.extxyz", "--steps", 2)
    assert tdn(monkeypatch, *args) == 1
    before = (tmp_path / "out.extxyz").read_bytes()
    assert tdn(monkeypatch, *args) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert tdn(monkeypatch, *args, "--resume") == 1
    assert "complete already" in capsys.readouterr().err
    assert tdn(monkeypatch, *args, "--overwrite") == 1
    assert (tmp_path / "out.extxyz").read_bytes() == before


@pytest.mark.slow
def test_killed_worker_loses_and_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, tmp_path: Path
) -> None:
    frames = []
    for k in range(160):
        atoms = water()
        atoms.rattle(0.05, seed=k)
        frames.append(atoms)
    write(tmp_path / "many.extxyz", frames)
    options = [str(model_file), str(tmp_path / "many.extxyz"), "--steps", "2", "--max-edges", "12"]
    command = [sys.executable, "-m", "tdn", "relax", *options, "-o", str(tmp_path / "out.extxyz")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*command, "--shard", f"{k}/2"], env=environment) for k in (1, 2)]
    journal = tmp_path / "out.extxyz.journal" / "1-of-2.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.is_file() and journal.stat().st_size > 4000) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers[0].send_signal(signal.SIGKILL)
    assert workers[0].wait(60) == -signal.SIGKILL
    assert workers[1].wait(120) == 0
    killed_after = journal.read_bytes().count(b"\n")
    assert 0 < killed_after < 80, "the worker was to be killed on its way"
    # The run that collects does what the lost worker has left.
    assert tdn(monkeypatch, "relax", *options, "-o", tmp_path / "out.extxyz", "--resume") == 0
    spread = read(tmp_path / "out.extxyz", ":")
    assert [atoms.info["relax_index"] for atoms in spread] == list(range(160))
    assert tdn(monkeypatch, "relax", *options, "-o", tmp_path / "once.extxyz") == 0
    for one, other in zip(spread, read(tmp_path / "once.extxyz", ":"), strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-4)


def test_interrupt_keeps_what_is_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, starts: Path, tmp_path: Path
) -> None:
    from tdn.simulation import relaxjob

    honest = relaxjob.relax_each

    def interrupted(*args: object, **options: object) -> object:
        for k, result in enumerate(honest(*args, **options)):  # type: ignore[arg-type]
            if k == 3:
                raise KeyboardInterrupt
            yield result

    args = ("relax", model_file, starts, "-o", tmp_path / "out.extxyz", "--steps", 2)
    monkeypatch.setattr(relaxjob, "relax_each", interrupted)
    assert tdn(monkeypatch, *args) == 130
    assert "--resume" in capsys.readouterr().err
    lines = (tmp_path / "out.extxyz.journal" / "all.jsonl").read_text().splitlines()
    assert len(lines) == 3
    monkeypatch.setattr(relaxjob, "relax_each", honest)
    assert tdn(monkeypatch, *args) == 2
    assert tdn(monkeypatch, *args[:-1], 3, "--resume") == 2
    assert "another settings" in capsys.readouterr().err
    assert tdn(monkeypatch, *args, "--resume") == 1
    assert len(read(tmp_path / "out.extxyz", ":")) == 5


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--optimizer", "newton"), "lbfgs"),
        (("--shard", "5/4"), "shard"),
        (("--dtype", "float16"), "float32"),
        (("--resume", "--overwrite"), "one of"),
    ],
)
def test_wrong_options_are_refused_before_work_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model_file: Path,
    starts: Path,
    options: tuple[str, ...],
    word: str,
) -> None:
    assert tdn(monkeypatch, "relax", model_file, starts, "-o", starts.with_name("out.extxyz"), *options) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1


def test_file_without_structures_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.extxyz").touch()
    assert tdn(monkeypatch, "relax", model_file, tmp_path / "empty.extxyz", "-o", tmp_path / "out.extxyz") == 2
    assert "empty" in capsys.readouterr().err
    write(tmp_path / "none.extxyz", Atoms())
    assert tdn(monkeypatch, "relax", model_file, tmp_path / "none.extxyz", "-o", tmp_path / "out.extxyz") in (1, 2)
