"""The `tdn` command. Sub-commands live in their own modules and are imported only when they run."""

from __future__ import annotations

import difflib
import importlib
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from tdn.errors import TDNError
from tdn.version import __version__

# name -> (module, one line of help); `tdn --help` must not import a module, since most of them import torch.
COMMANDS = {
    "demo": ("tdn.cli.demo", "All of it on the molecules that ship with the package, from training to a report."),
    "cp": ("tdn.cli.cp", "Exact and low-rank factors of Clebsch-Gordan couplings: show, solve, verify, plot."),
    "train": ("tdn.cli.train", "Train a potential on energies and forces, from data files to a model file."),
    "eval": ("tdn.cli.eval", "Errors of a model on labelled frames, per element and per config_type."),
    "report": ("tdn.cli.report", "A page about a run: errors, advice, worst frames in 3D, beside other runs."),
    "calibrate": ("tdn.cli.calibrate", "Give a model uncertainties, fitted to its training data and held-out frames."),
    "import-airs": ("tdn.cli.import_airs", "A checkpoint of the paper's public code as a model file, with repairs."),
    "info": ("tdn.cli.info", "What a model file holds: configuration, elements, certificates, data, errors, versions."),
    "check": ("tdn.cli.check", "Measure the physics contract of a model: invariances, derivatives, smoothness, NVE."),
    "export": ("tdn.cli.export", "Write a model as a file of another engine, compared with the model itself."),
    "relax": ("tdn.cli.relax", "Relax structures, thousands at once, positions and cells."),
    "submission": ("tdn.cli.submission", "Predictions for the leaderboards of OC20 and OC22: write, join, check."),
    "reproduce": ("tdn.cli.reproduce", "Results of 2507.01131, and an accuracy suite beside other packages."),
    "bench": ("tdn.cli.bench", "Speed and memory: of a model on a structure, and beside other packages."),
    "data": ("tdn.cli.data", "Look at data before training on them, and convert large sets: check, convert."),
    "phonons": ("tdn.cli.phonons", "Phonons of a crystal through phonopy: bands, density of states, heat capacity."),
    "elastic": ("tdn.cli.elastic", "Elastic constants and moduli of a crystal."),
    "vibrations": ("tdn.cli.vibrations", "Vibrations of a molecule or an adsorbate from the analytic Hessian."),
    "md": ("tdn.cli.md", "Molecular dynamics: NVE, NVT, NPT; log, trajectory, exact restart."),
}


class LazyGroup(TyperGroup):
    """A command group that imports a sub-command's module only when the sub-command runs.

    Typer lists commands with `get_command` and runs them with `resolve_command`: the first returns a stub with the
    help line, the second the real command.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What help needs to know of one command, or None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        summary = COMMANDS[cmd_name][1]
        return TyperCommand(cmd_name, help=summary, short_help=summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command named by the first argument.

        Raises:
            TDNError: If there is none; names the nearest one.
        """
        name, *rest = args
        if name not in COMMANDS:
            close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(COMMANDS)}."
            raise TDNError(f"unknown command {name!r}; {hint}")
        command = get_command(importlib.import_module(COMMANDS[name][0]).app)
        command.name = name
        return name, command, rest


app = typer.Typer(
    cls=LazyGroup,
    name="tdn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, evaluate and run machine-learning interatomic potentials.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tdn {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, evaluate and run machine-learning interatomic potentials."""


def _terminate(number: int, _: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Entry point: what a user can act on, full disks included, is one line on standard error and exit code 2."""
    # An exception like that of Ctrl-C, so that temporary files and processes of other packages do not outlive this one.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except TDNError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        typer.echo(f"error: {error.strerror or error}{place}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
