"""The command line as a whole: help, errors, exit codes, options that mean the same everywhere."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from tdn.cli import common
from tdn.cli.main import COMMANDS, app, main
from tdn.version import __version__


def run_main(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    """Exit code of `tdn ARGS`."""
    monkeypatch.setattr(sys, "argv", ["tdn", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command that runs something, as `("cp solve", command)`."""
    for name, (module, _) in COMMANDS.items():
        command = get_command(importlib.import_module(module).app)
        for sub, inner in getattr(command, "commands", {}).items():
            yield f"{name} {sub}", inner
        if not getattr(command, "commands", None):
            yield name, command


LEAVES = dict(leaves())


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.stdout


@pytest.mark.parametrize("name", [*dict.fromkeys([*COMMANDS, *LEAVES])])
def test_command_has_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run_main(monkeypatch, *name.split(), "--help") == 0
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", LEAVES)
def test_command_and_options_explain_themselves(name: str) -> None:
    assert (LEAVES[name].help or "").strip()
    unexplained = [p.name for p in LEAVES[name].params if not getattr(p, "help", None)]
    assert unexplained == []


def common_options() -> dict[str, str]:
    """Help text of the options in `tdn.cli.common`, by name."""
    probe = typer.Typer(add_completion=False)

    @probe.command()
    def _probe(
        json: common.JsonOption = None,
        quiet: common.QuietOption = False,
        seed: common.SeedOption = 0,
        device: common.DeviceOption = "auto",
        dtype: common.DtypeOption = "auto",
        threads: common.ThreadsOption = 0,
    ) -> None: ...

    return {parameter.opts[0]: parameter.help for parameter in get_command(probe).params if parameter.name != "help"}


@pytest.mark.parametrize("name", LEAVES)
def test_common_options_are_the_same_everywhere(name: str) -> None:
    known = common_options()
    assert set(known) == {"--json", "--quiet", "--seed", "--device", "--dtype", "--threads"}
    for parameter in LEAVES[name].params:
        for flag in parameter.opts:
            if flag in known:
                assert parameter.help == known[flag], f"`tdn {name} {flag}` should use tdn.cli.common"


def test_unknown_command_names_the_nearest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(iter(COMMANDS))
    assert run_main(monkeypatch, first + "x") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: unknown command '{first}x'; did you mean '{first}'?\n"


def test_command_unlike_any_other_lists_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "qqqqq") == 2
    assert capsys.readouterr().err == f"error: unknown command 'qqqqq'; there are {', '.join(COMMANDS)}.\n"


@pytest.mark.parametrize("name", LEAVES)
def test_unknown_option_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run_main(monkeypatch, *name.split(), "--no-such-option") == 2
    assert "--no-such-option" in capsys.readouterr().err


def test_user_error_is_one_line_and_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "data", "check", "no-such-file.xyz") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "no-such-file.xyz" in captured.err
    assert captured.err.count("\n") == 1


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"tdn {__version__}\n"


ASKS_FOR_EVER = """
import sys
from tdn.bench.rounds import Worker
from tdn.cli import main as command

def app():
    worker = Worker(sys.argv[1], 1)
    try:
        print(worker._process.pid, flush=True)
        worker.ask(60.0)
    finally:
        worker.close()

command.app = app
command.main()
"""


def test_terminated_command_leaves_no_process_of_another_package(tmp_path: Path) -> None:
    idle = tmp_path / "python"
    idle.write_text("#!/bin/sh\nexec sleep 60\n")
    idle.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", ASKS_FOR_EVER, str(idle)], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        worker = int(command.stdout.readline())
        os.kill(worker, 0)
        command.terminate()
        assert command.wait(timeout=30) == 143
    end = time.monotonic() + 10  # who is killed is not gone at once
    while is_running(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(process: int) -> bool:
    """Whether there is such a process that has not ended; one that nobody has asked for its exit code has."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()
    return state != "Z"


def packages_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_no_numerical_package() -> None:
    """It is shown at once because of that."""
    code = "import sys; sys.argv = ['tdn', '--help']; from tdn.cli.main import app; app(standalone_mode=False)"
    packages = packages_after(code)
    assert {"tdn", "typer"} <= packages
    assert packages.isdisjoint({"torch", "numpy", "ase", "scipy", "pydantic", "matplotlib"})


def test_importing_models_imports_little_besides_torch() -> None:
    added = packages_after("import torch, tdn; tdn.Potential, tdn.load_model") - packages_after("import torch")
    assert "tdn" in added
    assert added.isdisjoint({"ase", "scipy", "matplotlib", "pandas", "vesin", "typer", "e3nn"})
