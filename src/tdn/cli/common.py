"""Options that mean the same in every command, and how results are shown and written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from tdn.structure import Structure

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the results to this JSON file.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, ...")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32 or float64; auto keeps the model's own.")]
ThreadsOption = Annotated[int, typer.Option("--threads", help="CPU threads; 0 leaves the default.")]


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    quiet: bool = False,
    justify: Literal["left", "right"] = "right",
) -> None:
    """Print a table for people; numbers should come formatted. `justify` is that of all columns but the first."""
    if quiet:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else justify, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def write_json_option(path: Path | None, content: Any) -> None:
    """Write `content` where `--json` asks; `-` prints it to standard output."""
    if path is None:
        return
    if str(path) == "-":
        typer.echo(json.dumps(content, indent=2))
        return
    from tdn.files import write_json

    write_json(path, content)


def choose_dtype(name: str) -> Any:
    """A `torch.dtype` for `--dtype`, or None for `auto`.

    Raises:
        TDNError: If it is none of auto, float32, float64.
    """
    import torch

    from tdn.errors import TDNError

    known = {"auto": None, "float32": torch.float32, "float64": torch.float64}
    if name not in known:
        raise TDNError(f"--dtype must be one of {', '.join(known)}, got {name!r}.")
    return known[name]


def set_threads(threads: int) -> None:
    """Limit PyTorch's CPU threads; 0 leaves its own choice."""
    if threads > 0:
        import torch

        torch.set_num_threads(threads)


def read_few_structures(paths: Sequence[str], most: int) -> list[Structure]:
    """At most `most` structures, evenly from all frames of the files."""
    from tdn.data.formats import expand_paths, read_atoms
    from tdn.structure import Structure

    frames = [atoms for path in expand_paths(paths) for atoms in read_atoms(path)]
    step = max(1, -(-len(frames) // most))
    return [Structure.from_ase(atoms) for atoms in frames[::step]]
