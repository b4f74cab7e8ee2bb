"""The `tdn` command. Sub-commands live in their own modules and are imported only when they run."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup
from typer.main import get_command

# name -> (module, one line of help); `tdn --help` must not import a module, since most of them import torch.
COMMANDS = {
    "data": ("tdn.cli.data", "Look at data files before training on them: check."),
    "cp": ("tdn.cli.cp", "Exact and low-rank factors of Clebsch-Gordan couplings: show, solve, verify, plot."),
}


class LazyGroup(TyperGroup):
    """A command group that imports a sub-command's module when the sub-command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Any:
        """Import and return one sub-command; a stub with its help line while help is being listed."""
        if cmd_name not in COMMANDS:
            return None
        module, summary = COMMANDS[cmd_name]
        if ctx.resilient_parsing or (ctx.command_path == "tdn" and sys.argv[1:2] in ([], ["--help"])):
            return click.Command(cmd_name, help=summary, short_help=summary)
        command = get_command(importlib.import_module(module).app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyGroup,
    name="tdn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, evaluate and run machine-learning interatomic potentials.",
)


@app.callback()
def _main() -> None:
    """Train, evaluate and run machine-learning interatomic potentials."""


def main() -> None:
    """Entry point: errors that a user can act on are one line on standard error and exit code 2."""
    from tdn.errors import TDNError

    try:
        app()
    except TDNError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
