"""`tdn info`: what a model file says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tdn.cli.common import JsonOption, QuietOption, print_table, write_json_option

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Configuration, elements, factor certificates, training data, errors and versions of a model."""
    from tdn.modelfile import load_model, read_header
    from tdn.report.model import describe_model

    description = describe_model(load_model(model), read_header(model))
    if str(json) != "-":
        print_description(model.name, description, quiet)
    write_json_option(json, description)


def print_description(name: str, description: Mapping[str, Any], quiet: bool = False) -> None:
    """The description as tables for people."""
    config, metadata = description["config"], description["metadata"]
    rows = [
        ("architecture", description["architecture"]),
        ("parameters", description["parameters"]),
        ("precision", description["dtype"]),
        ("file format", f"{description['format']} {description['format_version']}, tdn {description['tdn_version']}"),
        *((key, metadata[key]) for key in ("date", "seed", "step", "wall_time_s") if key in metadata),
        *((f"trained with {package}", version) for package, version in metadata.get("versions", {}).items()),
        *(("not claimed", sentence) for sentence in description["not_claimed"]),
    ]
    print_table(name, ["model", ""], rows, quiet)
    print_table("\nConfiguration", ["key", "value"], [(key, _plain(value)) for key, value in config.items()], quiet)
    energies = [(symbol, f"{energy:.6f}") for symbol, energy in description["reference_energies"].items()]
    print_table("\nReference energies", ["element", "eV"], energies, quiet)
    tables = [
        (
            ", ".join(map(str, table["shape"])), table["parity"], table["rank"], f"{table['residual']:.1e}",
            f"{table['bound']:.1e}", f"{table['defect_float32']:.1e}", "yes" if table["exact"] else "no",
        )
        for table in description["tables"]
    ]  # fmt: skip
    columns = ["degrees", "paths", "rank", "residual", "bound", "float32 defect", "exact"]
    print_table("\nFactor tables: distance to exact equivariance", columns, tables, quiet)
    _print_data(description, quiet)


def _print_data(description: Mapping[str, Any], quiet: bool) -> None:
    """Training data with fingerprints, and errors."""
    data = [
        (name, part["num_frames"], ", ".join(part["files"]), part["sha256"][:12])
        for name, part in description["data"].items()
    ]
    if data:
        print_table("\nData", ["set", "frames", "files", "SHA-256"], data, quiet)
    for name, errors in description["errors"].items():
        rows = [(key, f"{value:.3f}") for key, value in errors.items() if value is not None]
        print_table(f"\nErrors on {name} frames, meV and meV/Å", ["error", "value"], rows, quiet)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
