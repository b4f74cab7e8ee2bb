"""`tdn data convert`: any data to a frame store for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdn.cli.common import JsonOption, QuietOption, print_table, write_json_option

if TYPE_CHECKING:
    from tdn.data.store import FrameStore

EPILOG = """Examples:

tdn data convert pubchemqcr/ qcr-s --stage 1st --subset --split subset --precision float32 --workers 8

tdn data convert 'frames-*.extxyz' store --group-key molecule --split 0.8/0.1

tdn data convert pubchemqcr/ qcr --split new_split.json

tdn data convert s2ef/train_2M oc20-2M --option max_energy=10 --option max_force=50 --workers 16

An interrupted conversion goes on where it was when the same command is given again."""


def convert_data(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Files, patterns, or a folder.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder of the frame store.")],
    format_name: Annotated[str, typer.Option("--format", help="auto, frames, pubchemqcr, ...")] = "auto",
    split: Annotated[
        str | None,
        typer.Option("--split", help="subset or full (as PubChemQCR), shares as 0.8/0.1, one-frame:RULE, a JSON file."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="PubChemQCR: pm3, hf, 1st, 1st_smash, 2nd or mixing.")
    ] = None,
    subset: Annotated[bool, typer.Option("--subset", help="PubChemQCR: Data06.lmdb only.")] = False,
    constants: Annotated[
        str | None, typer.Option("--constants", help="PubChemQCR: units as published, or by codata.")
    ] = None,
    group_key: Annotated[
        str | None, typer.Option("--group-key", help="Frames: info entry, such as molecule, that splits keep together.")
    ] = None,
    energy_key: Annotated[str, typer.Option("--energy-key", help="Frames: key of the energies, or none.")] = "auto",
    forces_key: Annotated[str, typer.Option("--forces-key", help="Frames: key of the forces, or none.")] = "auto",
    stress_key: Annotated[str, typer.Option("--stress-key", help="Frames: key of the stress, or none.")] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Of the format; ocp: geometry, oc20_ref, surfaces, ..."),
    ] = None,
    dtype: Annotated[str, typer.Option("--precision", help="Of positions and forces: float64 or float32.")] = "float64",
    workers: Annotated[int, typer.Option("--workers", help="Processes.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove another store in DEST first.")] = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write SOURCE as a frame store in DEST: sharded, checksummed, for random access, without pickle; resumable."""
    from tdn.data.convert import convert
    from tdn.data.labels import LabelKeys
    from tdn.data.sources import open_source
    from tdn.data.trajectory_splits import split_store
    from tdn.errors import TDNError

    if dtype not in ("float32", "float64"):
        raise TDNError(f"--precision must be float32 or float64, got {dtype!r}.")
    keys = (energy_key, forces_key, stress_key)
    given = {"stage": stage, "subset": subset or None, "constants": constants, "group_key": group_key}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    options |= dict(_parse(setting) for setting in settings or [])
    if keys != ("auto", "auto", "auto"):
        options["keys"] = LabelKeys(*keys)
    source = open_source(format_name, sources, options)
    with progress_bar(quiet) as progress:
        store = convert(source, destination, dtype=dtype, workers=workers, overwrite=overwrite, progress=progress)
    if split is not None:
        store = split_store(store, split)
    print_store(store, quiet)
    write_json_option(json_file, {name: value for name, value in store.index.items() if name != "shards"})


def _parse(setting: str) -> tuple[str, Any]:
    """`max_energy=10` as name and value."""
    from tdn.errors import TDNError
    from tdn.training.config import parse_value

    name, separator, text = setting.partition("=")
    if not (name and separator):
        raise TDNError(f"Expected NAME=VALUE, such as max_energy=10, got {setting!r}.")
    return name, parse_value(text)


def print_store(store: FrameStore, quiet: bool = False) -> None:
    """What a store holds, part by part, and what was left out, for people."""
    from ase.data import chemical_symbols

    if quiet:
        return
    index = store.index
    symbols = " ".join(chemical_symbols[z] for z in store.elements)
    typer.echo(
        f"{store.path}: {len(store)} frames, {store.num_trajectories} trajectories, {index['atoms']} atoms, {symbols}"
    )
    for why, count in index["drops"].items():
        typer.echo(f"left out, {why}: {count}")
    rows = []
    for name, part in index.get("statistics", {}).items():
        mean, spread, force, neighbors = (
            part[column]
            for column in (
                "energy_per_atom_mean_ev",
                "energy_per_atom_std_ev",
                "force_rms_ev_per_angstrom",
                "mean_neighbors_within_5_angstrom",
            )
        )
        cells = ["-" if value is None else f"{value:.3f}" for value in (mean, spread, force)]
        rows.append([name, part["trajectories"], part["frames"], part["atoms"], *cells, f"{neighbors:.1f}"])
    if rows:
        columns = [
            "part",
            "trajectories",
            "frames",
            "atoms",
            "E/atom eV",
            "its spread",
            "|F| RMS eV/Å",
            "neighbours, 5 Å",
        ]
        print_table("Split", columns, rows)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[int, int, int], None] | None]:
    """A bar on standard error that takes (pieces done, pieces, frames); nothing if that is no terminal, or if quiet."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total} shards, {task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, frames: bar.update(task, completed=done, total=total, description=f"{frames} frames")
