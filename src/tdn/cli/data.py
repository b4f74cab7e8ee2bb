"""`tdn data`: look at data before training on them, and convert them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdn.cli.common import JsonOption, QuietOption, print_table, write_json_option
from tdn.cli.convert import convert_data

if TYPE_CHECKING:
    from tdn.data.labels import LabelKeys
    from tdn.data.preflight import Finding
    from tdn.data.reading import FrameSet
    from tdn.data.reference import ReferenceEnergies

app = typer.Typer(no_args_is_help=True, help="Look at data before training on them, and convert them.")


@app.callback()
def _data() -> None:
    """Look at data before training on them, and convert them."""


app.command("convert")(convert_data)


@app.command()
def check(
    files: Annotated[list[str], typer.Argument(help="Training data: files, patterns, folders, or a frame store.")],
    valid: Annotated[list[str] | None, typer.Option("--valid", help="Validation file; may be repeated.")] = None,
    test: Annotated[list[str] | None, typer.Option("--test", help="Test file; may be repeated.")] = None,
    energy_key: Annotated[str, typer.Option("--energy-key", help="Key of the energies, auto or none.")] = "auto",
    forces_key: Annotated[str, typer.Option("--forces-key", help="Key of the forces, auto or none.")] = "auto",
    stress_key: Annotated[str, typer.Option("--stress-key", help="Key of stress or virial, auto or none.")] = "auto",
    r_max: Annotated[float, typer.Option("--r-max", help="Cutoff radius in Å, to find atoms without neighbours.")] = 5,
    stage: Annotated[str, typer.Option("--stage", help="PubChemQCR: pm3, hf, 1st, 1st_smash, 2nd or mixing.")] = "1st",
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Report what would be read from FILES and what looks wrong; exit code 1 if training could not use them."""
    from tdn.data.labels import LabelKeys
    from tdn.data.preflight import Finding, check_frames
    from tdn.data.reference import resolve_reference_energies

    keys = LabelKeys(energy_key, forces_key, stress_key)
    paths = {"train": files, "valid": valid, "test": test}
    sets = {name: _read(given, keys, stage) for name, given in paths.items() if given}
    stores = {name: frames for name, frames in sets.items() if frames.on_disk}
    counts = {name: len(frames) for name, frames in stores.items()}
    wrong = [
        line for path in dict.fromkeys(_store_of(frames) for frames in stores.values()) for line in _verify(path, quiet)
    ]
    sets = {name: frames.sample() for name, frames in sets.items()}
    train = sets["train"]
    known = any(s.energy is not None for s in train.structures)
    references = resolve_reference_energies("auto", train) if known else None
    findings = check_frames(train, sets.get("valid"), sets.get("test"), references, r_max, forces_key != "none")
    findings = [*(Finding("error", "checksum", line) for line in wrong), *findings]
    _show(sets, references, findings, quiet)
    for name, frames in sets.items():
        if name in counts and not quiet:
            typer.echo(f"{name}: looked at {len(frames)} of {counts[name]} frames of a store")
    write_json_option(
        json_file,
        {
            "sets": {
                name: {**_summary(frames), "frames": counts.get(name, len(frames))} for name, frames in sets.items()
            },
            "reference_energies": None if references is None else asdict(references),
            "findings": [asdict(finding) for finding in findings],
        },
    )
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _read(paths: list[str], keys: LabelKeys, stage: str) -> FrameSet:
    """All frames, of a frame store those that are asked for, and some of PubChemQCR's shards."""
    from tdn.data.reading import read_frames
    from tdn.data.shard_sample import are_shards, read_shard_sample
    from tdn.data.store import is_store

    if not any(is_store(path) for path in paths) and are_shards(paths):
        return read_shard_sample(paths, stage, keys)
    return read_frames(paths, keys, required=())


def _store_of(frames: FrameSet) -> str:
    """Folder of the frame store that the frames are of."""
    return frames.source.partition("::")[0]


def _verify(path: str, quiet: bool) -> list[str]:
    """Compare the shards of a frame store with their checksums, and print what it holds."""
    from tdn.cli.convert import print_store
    from tdn.data.store import FrameStore

    store = FrameStore(path)
    wrong = store.verify()
    print_store(store, quiet)
    if not wrong and not quiet:
        typer.echo(f"checksums of {len(store.index['shards'])} shards are right")
    return [f"{path}: {line}: restore it, or convert again." for line in wrong]


def _summary(frames: FrameSet) -> dict[str, Any]:
    """What one set holds, for JSON."""
    from ase.data import chemical_symbols

    from tdn.data.preflight import stiffness
    from tdn.data.reference import force_rms

    sizes = [len(structure) for structure in frames.structures]
    return {
        "source": frames.source,
        "fingerprint": frames.fingerprint,
        "frames": len(frames),
        "atoms_min": min(sizes, default=0),
        "atoms_max": max(sizes, default=0),
        "elements": [chemical_symbols[z] for z in frames.elements],
        "periodic_frames": sum(bool(structure.pbc.any()) for structure in frames.structures),
        "isolated_atoms": {chemical_symbols[z]: energy for z, energy in frames.isolated_atoms.items()},
        "force_rms": force_rms(frames.structures),
        "force_constant": stiffness(frames.structures),
        "labels": asdict(frames.report),
    }


def _show(
    sets: dict[str, FrameSet], references: ReferenceEnergies | None, findings: list[Finding], quiet: bool
) -> None:
    """The report for people; errors are printed even when quiet."""
    if not quiet:
        rows = []
        for name, frames in sets.items():
            summary = _summary(frames)
            force = "-" if summary["force_rms"] is None else f"{summary['force_rms']:.3f}"
            atoms = f"{summary['atoms_min']}-{summary['atoms_max']}"
            cells = f"{summary['periodic_frames']} of {len(frames)}"
            rows.append((name, len(frames), atoms, " ".join(summary["elements"]), cells, force))
        print_table("Data", ("set", "frames", "atoms", "elements", "periodic", "|F| RMS eV/Å"), rows)
        for name, frames in sets.items():
            typer.echo(f"{name}: {frames.report}")
        if references is not None:
            typer.echo(str(references))
    for finding in findings:
        if not quiet or finding.severity == "error":
            typer.echo(f"{finding.severity}: {finding.message}", err=finding.severity == "error")
    if not findings and not quiet:
        typer.echo("No problems found.")
