"""Every command with every kind of bad input: it ends with the right exit code and a sentence, never with a traceback.

Code 2 stands for input that is refused, 1 for structures that failed among others that did not, 0 for success.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.io import read, write

from tdn.cli.main import main
from tdn.data.shards import save_arrays
from tdn.modelfile import save_model
from tdn.simulation.md import MDRun

from .conftest import make_network, water


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """Exit code of `tdn ARGS`; anything but an exit is an error of the test."""
    monkeypatch.setattr(sys, "argv", ["tdn", *map(str, args)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """An untrained network on a scale so small that nothing explodes."""
    save_model(tmp_path / "gentle.tdn", make_network(scale=0.01).float())
    return tmp_path / "gentle.tdn"


# Command -> its arguments for a quick run; `OUT` becomes its output.
INPUT = ("MODEL", "STRUCTURE")
COMMANDS: dict[str, tuple[str, ...]] = {
    "relax": (*INPUT, "-o", "OUT.extxyz", "--steps", "2"),
    "md": (*INPUT, "-o", "OUT", "--steps", "4", "--log-interval", "2"),
    "vibrations": (*INPUT, "-o", "OUT", "--no-relax"),
    "elastic": (*INPUT, "-o", "OUT", "--no-relax", "--fmax", "1e4"),
    "phonons": (*INPUT, "-o", "OUT", "--no-relax", "--supercell", "1", "1", "1", "--mesh", "4"),
    "eval": (*INPUT, "-o", "OUT"),
    "check": (*INPUT, "--json", "OUT.json", "--quick", "--dtype", "float64"),
    "export": ("MODEL", "--to", "lammps", "--check", "STRUCTURE", "-o", "OUT.pt"),
    "bench": (*INPUT, "--json", "OUT.json", "--rounds", "1", "--eager", "--threads", "1"),
}
# Each takes seconds, since a process of its own is measured: only what is refused before is tried.
SLOW = ("bench",)


def slab() -> Atoms:
    atoms = fcc111("Al", (1, 1, 2), a=3.6, vacuum=5.0)
    atoms.numbers[:] = 6
    atoms.pbc = (True, True, False)
    return atoms


def with_nan() -> Atoms:
    atoms = water()
    atoms.positions[1] = np.nan
    return atoms


def overlapping() -> Atoms:
    return Atoms("H2O", positions=[[0, 0, 0], [0, 0, 0], [0, 0, 1]])


# Name -> geometry, a word of the message, and the codes of commands where they are not 2.
INPUTS: dict[str, tuple[Callable[[], Atoms] | None, str, dict[str, int]]] = {
    "no structure": (None, "empty", {}),
    "unknown element": (lambda: Atoms("AuH", positions=[[0, 0, 0], [0, 0, 1.5]]), "Au", {"relax": 1}),
    "NaN": (with_nan, "NaN", {"relax": 1}),
    "on top of each other": (overlapping, "apart", {"relax": 1}),
    "one atom": (lambda: Atoms("H"), "", dict.fromkeys(("relax", "md", "vibrations", "export"), 0)),
    "small cell": (lambda: bulk("C"), "", dict.fromkeys(COMMANDS, 0)),
    "slab": (slab, "", dict.fromkeys(("relax", "md", "vibrations", "eval", "check", "export"), 0)),
}


def arguments(command: str, model: Path, structure: Path, output: object) -> list[object]:
    names = {"MODEL": model, "STRUCTURE": structure}
    given = (names.get(option, option.replace("OUT", str(output))) for option in COMMANDS[command])
    return [command, *given, "-q"]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_command_survives_input(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model_file: Path,
    tmp_path: Path,
    command: str,
    name: str,
) -> None:
    if command == "phonons":
        pytest.importorskip("phonopy", reason="phonopy is not installed (pip install 'tdn[phonons]')")
    make, word, codes = INPUTS[name]
    if command in SLOW and (not word or codes.get(command, 2) != 2):
        pytest.skip("takes a process of its own")
    path = tmp_path / "start.extxyz"
    path.touch() if make is None else write(path, make())
    code = run(monkeypatch, *arguments(command, model_file, path, tmp_path / "out"))
    error = capsys.readouterr().err
    assert code == codes.get(command, 2), error
    if code:
        assert word in error or (command in ("elastic", "phonons") and "periodic" in error)
        assert "Traceback" not in error
    if code == 2:
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert list(tmp_path.rglob(".*.tmp")) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_folder_that_cannot_be_written_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model_file: Path,
    tmp_path: Path,
    command: str,
) -> None:
    """Nobody, root included, makes folders in /proc."""
    if not Path("/proc/self").exists():
        pytest.skip("there is no /proc here")
    write(tmp_path / "start.extxyz", bulk("C"))
    assert run(monkeypatch, *arguments(command, model_file, tmp_path / "start.extxyz", "/proc/tdn/out")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "/proc" in error
    assert error.count("\n") == 1


# Fresh weights hardly hold a molecule together: warm atoms fly about until two of them meet.
COLD = ("--temperature", 1)


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Limits the size of files that this process writes, pytest's own included, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("command", "room"),
    [("relax", 3000), ("md", 1500), ("vibrations", 3000), ("elastic", 3000), ("check", 500), ("export", 500)],
)
def test_full_disk_ends_in_words_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model_file: Path,
    tmp_path: Path,
    command: str,
    room: int,
) -> None:
    make = bulk("C") if command in ("elastic", "check") else water()
    write(tmp_path / "start.extxyz", [make] * 12)
    with full_disk(room):
        code = run(monkeypatch, *arguments(command, model_file, tmp_path / "start.extxyz", tmp_path / "out"))
    error = capsys.readouterr().err
    assert code == 2, error
    assert "File too large" in error
    assert "Traceback" not in error
    assert list(tmp_path.rglob(".*.tmp")) == []
    if command == "relax":
        finished = (tmp_path / "out.extxyz.journal" / "all.jsonl").read_bytes().count(b"\n")
        assert 0 < finished < 12
        again = arguments(command, model_file, tmp_path / "start.extxyz", tmp_path / "out")
        assert run(monkeypatch, *again, "--resume") == 0
        assert len(read(tmp_path / "out.extxyz", ":")) == 12


def test_binary_files_say_that_the_disk_is_full(tmp_path: Path) -> None:
    """The library below them has an error of its own for it, which no command knows."""
    for save in (
        lambda path: save_model(path, make_network()),
        lambda path: save_arrays(path, {"numbers": np.arange(1000)}),
    ):
        with full_disk(500), pytest.raises(OSError, match="File too large"):
            save(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_during_dynamics_leaves_a_state_to_resume(
    monkeypatch: pytest.MonkeyPatch, model_file: Path, tmp_path: Path
) -> None:
    write(tmp_path / "start.extxyz", water())
    options = ("--steps", 120, "--log-interval", 1, "--trajectory-interval", 50, "--state-interval", 10, *COLD, "-q")
    start = ("md", model_file, tmp_path / "start.extxyz", *options)
    with full_disk(6000):
        assert run(monkeypatch, *start, "-o", tmp_path / "part") == 2
    assert (tmp_path / "part" / "state.safetensors").is_file()
    assert run(monkeypatch, *start, "-o", tmp_path / "part", "--resume") == 0
    assert run(monkeypatch, *start, "-o", tmp_path / "whole") == 0
    for name in ("log.csv", "trajectory.extxyz"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_dynamics_save_their_state(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model_file: Path,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    write(tmp_path / "start.extxyz", water())
    start = ("md", model_file, tmp_path / "start.extxyz", "-o", tmp_path / "out", *COLD, "-q", "--steps")

    def interrupt() -> None:
        while not (tmp_path / "out" / "log.csv").exists():
            threading.Event().wait(0.01)
        threading.Event().wait(0.2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run(monkeypatch, *start, 10**7) == 130
    thread.join()
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "out" / "state.safetensors").is_file()
    lines = len((tmp_path / "out" / "log.csv").read_text().splitlines())
    assert run(monkeypatch, *start, 10 * lines + 50, "--resume") == 0
    steps = np.genfromtxt(tmp_path / "out" / "log.csv", delimiter=",", names=True)["step"]
    np.testing.assert_array_equal(np.diff(steps), 10)


def test_dynamics_interrupted_before_their_first_step_start_once(
    monkeypatch: pytest.MonkeyPatch, model_file: Path, tmp_path: Path
) -> None:
    write(tmp_path / "start.extxyz", water())
    start = ("md", model_file, tmp_path / "start.extxyz", "-o", tmp_path / "out", *COLD, "-q", "--steps")
    with monkeypatch.context() as patch:
        patch.setattr("tdn.simulation.md.MDRun._record", _interrupted(MDRun._record))
        assert run(patch, *start, 20) == 130
    assert run(monkeypatch, *start, 20, "--resume") == 0
    steps = np.genfromtxt(tmp_path / "out" / "log.csv", delimiter=",", names=True)["step"]
    np.testing.assert_array_equal(steps, [0, 10, 20])


def _interrupted(record: Callable[[MDRun], None]) -> Callable[[MDRun], None]:
    """Records, and asks the run to stop."""

    def wrapped(self: MDRun) -> None:
        record(self)
        os.kill(os.getpid(), signal.SIGINT)

    return wrapped
