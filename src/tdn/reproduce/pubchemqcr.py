"""PubChemQCR with the set-up of 2507.01131: from the downloaded shards to the rows of its Table 1."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tdn.data.convert import convert
from tdn.data.pubchemqcr import PubChemQCR
from tdn.data.store import FrameStore
from tdn.data.trajectory_splits import split_store
from tdn.errors import ConfigError, DataError, TDNError
from tdn.evaluation.metrics import ErrorTable
from tdn.files import atomic_write, write_json
from tdn.training.config import RunConfig, apply_override, read_yaml
from tdn.training.distributed import join_processes
from tdn.training.logs import Reporter
from tdn.training.run import train

VARIANTS: Mapping[str, str] = {
    "tdn": "TDN",
    "exact": "TDN, exact factors",
    "cg": "TDN w/o CP",
    "cg_paths": "TDN w/o CP+PS",
    "cg_paths_linear": "TDN w/o CP+PS+PS-Linear",
    "flagship": "tdn's own network",
}
"""Name of a variant, and of its configuration in `configs/` -> its name in the table, the paper's where it has one."""

FULL = {
    "model": {"avg_num_nodes": 30.0, "avg_degree": 16.7},
    "training": {"max_epochs": 15},
}
"""What differs on the full set."""

COLUMNS = ("valid E", "valid F", "test E", "test F")
"""Energy MAE, meV/atom; mean over structures of the root of the mean squared length of their force errors, meV/Å."""

STORE, RESULTS, TABLE = "store", "results.json", "results.md"


@dataclass(frozen=True)
class Row:
    """A line of Table 1.

    Attributes:
        name: Of the model.
        values: In the order of `COLUMNS`; None where there is no number.
    """

    name: str
    values: tuple[float | None, ...]


PUBLISHED: Mapping[str, tuple[Row, ...]] = {
    "subset": (
        Row("SchNet", (5.30, 56.55, 5.55, 56.22)),
        Row("PaiNN", (5.13, 46.34, 5.33, 46.92)),
        Row("NequIP", (7.37, 54.78, 8.27, 55.59)),
        Row("SevenNet", (8.77, 47.63, 10.21, 48.05)),
        Row("Allegro", (10.86, 60.71, 10.80, 61.44)),
        Row("FAENet", (7.28, 60.24, 8.70, 60.51)),
        Row("MACE", (7.54, 51.46, 7.47, 45.70)),
        Row("PACE", (6.24, 50.54, 6.53, 51.43)),
        Row("Equiformer", (4.69, 34.67, 5.38, 35.11)),
        Row("TDN", (4.46, 26.94, 5.01, 26.43)),
    ),
    "full": (
        Row("SchNet", (7.14, 65.22, 7.71, 67.38)),
        Row("PaiNN", (3.62, 38.30, 3.49, 39.28)),
        Row("TDN", (1.65, 19.46, 1.50, 20.44)),
    ),
}
"""Table 1 of the paper."""


@dataclass(frozen=True)
class Reproduction:
    """What came of it.

    Attributes:
        dataset: `subset` or `full`.
        rows: One a variant.
        frames: Of each part.
        changes: To the paper's set-up.
    """

    dataset: str
    rows: tuple[Row, ...]
    frames: Mapping[str, int]
    changes: tuple[str, ...] = ()


def reproduce_pubchemqcr(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    subset: bool = False,
    variants: Sequence[str] = ("tdn",),
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> Reproduction | None:
    """Convert, split, train every variant, evaluate; what is done already is not done again.

    Args:
        root: Folder of PubChemQCR's LMDB files.
        output: Folder for the frame store, a run for each variant, `results.json` and `results.md`.
        subset: PubChemQCR-S, with its split and its number of epochs.
        variants: Of `VARIANTS`.
        overrides: Changes to the paper's set-up, as `key=value`.
        options: Keys of `RunConfig` at its top: seed, device, dtype, threads.
        data: `stage` and `split` (as `tdn data convert`) if not the paper's, `workers` of the conversion, and
            `convert_only`.
        reporter: Hears what happens.
        progress: Hears how far the conversion is.

    Returns:
        What came of it; None on all processes but the first, and if there was nothing to do but the conversion.

    Raises:
        DataError: If the shards cannot be used.
        ConfigError: If a variant or a change is not valid.
        TDNError: If a run was interrupted.
    """
    reporter, data = reporter or Reporter(), data or {}
    configs = {
        name: run_config(name, Path(output), subset=subset, overrides=overrides, options=options or {})
        for name in variants
    }
    device = (options or {}).get("device", "auto")
    with join_processes(device) as (processes, _):
        if processes.is_first:
            store = make_store(root, Path(output) / STORE, subset, data, reporter, progress)
        processes.barrier()
        if data.get("convert_only"):
            return None
        rows = []
        for name, config in configs.items():
            reporter.line(f"--- {VARIANTS[name]}: {config.output}")
            result = train(config, reporter, resume=True)
            if result.signal is not None:
                raise TDNError(f"Interrupted at step {result.steps} of {name}: the same command continues.")
            if processes.is_first:
                rows.append(Row(f"{VARIANTS[name]} (this run)", measured(result.errors)))
        if not processes.is_first:
            return None
    found = Reproduction(
        "subset" if subset else "full",
        tuple(rows),
        {name: part["frames"] for name, part in store.index["statistics"].items()},
        tuple(overrides),
    )
    write_json(Path(output) / RESULTS, describe(found))
    with atomic_write(Path(output) / TABLE) as temporary:
        temporary.write_text(markdown(found), encoding="utf-8")
    return found


def run_config(
    variant: str, output: Path, *, subset: bool, overrides: Sequence[str], options: Mapping[str, Any]
) -> RunConfig:
    """The configuration of one variant: the paper's set-up with the user's changes.

    Raises:
        ConfigError: If there is no such variant, or a change is not valid.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"No variant {variant!r}; there are {', '.join(VARIANTS)}.")
    file = resources.files("tdn.reproduce") / "configs" / f"pubchemqcr-{variant}.yaml"
    with resources.as_file(file) as path:
        content = read_yaml(path)
    if not subset:
        for section, values in FULL.items():
            # Networks other than the paper's take their statistics from the data.
            content[section] |= {name: value for name, value in values.items() if name in content[section]}
    content["data"] |= {part: f"{output / STORE}::{part}" for part in ("train", "valid", "test")}
    content["output"] = str(output / variant)
    for override in overrides:
        apply_override(content, override)
    return RunConfig.parse({**content, **options}, f"The set-up of {variant}")


def make_store(
    root: str | os.PathLike[str],
    folder: Path,
    subset: bool,
    data: Mapping[str, Any],
    reporter: Reporter,
    progress: Callable[[int, int, int], None] | None,
) -> FrameStore:
    """The frame store of the run, with its split: made, finished, or found."""
    source = PubChemQCR(os.fspath(root), data.get("stage", "1st"), subset)
    store = convert(source, folder, dtype="float32", workers=data.get("workers", 1), progress=progress)
    rule = data.get("split") or ("subset" if subset else "full")
    wanted = {"rule": Path(rule).name if rule.endswith(".json") else rule, "one_frame": False}
    known = store.index.get("split", {})
    if any(known.get(name) != value for name, value in wanted.items()):
        store = split_store(store, rule)
    for why, count in store.index["drops"].items():
        reporter.line(f"left out, {why}: {count}")
    for name, part in store.index["statistics"].items():
        reporter.line(f"{name}: {part['frames']} frames of {part['trajectories']} trajectories")
    if set(store.index["statistics"]) != {"train", "valid", "test"}:
        raise DataError(f"{root} has too few trajectories for a split into three parts.")
    return store


def measured(errors: Mapping[str, ErrorTable]) -> tuple[float | None, ...]:
    """The columns of Table 1."""
    values: list[float | None] = []
    for part in ("valid", "test"):
        energy = errors[part].energy_per_atom
        values += [None if energy is None else energy.mae, errors[part].force_vector_rmse]
    return tuple(values)


def describe(found: Reproduction) -> dict[str, Any]:
    """The result as JSON types."""
    return {
        "dataset": "PubChemQCR-S" if found.dataset == "subset" else "PubChemQCR",
        "columns": {"E": "energy MAE, meV/atom", "F": "mean over structures of the force vector RMSE, meV/Å"},
        "frames": dict(found.frames),
        "changes": list(found.changes),
        "rows": {row.name: dict(zip(COLUMNS, row.values, strict=True)) for row in found.rows},
        "published": {row.name: dict(zip(COLUMNS, row.values, strict=True)) for row in PUBLISHED[found.dataset]},
    }


def table(found: Reproduction) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows: the published numbers, and ours below them."""
    name = "PubChemQCR-S" if found.dataset == "subset" else "PubChemQCR"
    frames = ", ".join(f"{count} {part}" for part, count in found.frames.items())
    title = f"{name}, meV/atom and meV/Å; this run: {frames} frames" + (", set-up changed" if found.changes else "")
    rows = [
        [row.name, *("-" if value is None else f"{value:.2f}" for value in row.values)]
        for row in (*PUBLISHED[found.dataset], *found.rows)
    ]
    return title, ["model", *COLUMNS], rows


def markdown(found: Reproduction) -> str:
    """The table as Markdown."""
    title, columns, rows = table(found)
    lines = [f"{title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if found.changes:
        lines += ["", f"Changes to the published set-up: {', '.join(found.changes)}"]
    return "\n".join(lines) + "\n"
