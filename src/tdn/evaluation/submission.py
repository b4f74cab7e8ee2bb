"""Files of predictions for the leaderboards of OC20 and OC22: written, joined and checked, in both published layouts.

A submission is one npz with the arrays of every split under its name as prefix: `id_ids`, `id_energy`, ... Forces and
positions of all systems stand one after the other, to be cut before the rows in `chunk_idx`.

- `legacy` (EvalAI, fairchem 1): forces of free atoms only, names `<sid>_<fid>`, float16 for OC20.
- `leaderboard` (Hugging Face): forces of all atoms, names `<sid>`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tdn.errors import DataError
from tdn.evaluation.catalysis import EnergyAndForces
from tdn.files import atomic_write
from tdn.structure import Structure

Task = Literal["s2ef", "is2re", "is2rs"]
Layout = Literal["legacy", "leaderboard"]
Dataset = Literal["oc20", "oc22"]
Arrays = dict[str, NDArray]

SPLITS: Mapping[str, tuple[str, ...]] = {"oc20": ("id", "ood_ads", "ood_cat", "ood_both"), "oc22": ("id", "ood")}
KEYS: Mapping[str, tuple[str, ...]] = {
    "s2ef": ("ids", "energy", "forces", "chunk_idx"),
    "is2re": ("ids", "energy"),
    "is2rs": ("ids", "pos", "chunk_idx"),
}
ROWS: Mapping[str, str] = {"s2ef": "forces", "is2rs": "pos"}
"""Which array of a task holds a row for each atom."""


def split_arrays(
    task: Task,
    structures: Sequence[Structure],
    predictions: Sequence[EnergyAndForces] | Sequence[NDArray[np.float64]],
    *,
    layout: Layout = "leaderboard",
    dataset: Dataset = "oc20",
) -> Arrays:
    """The arrays of one split, without prefix: sorted by name as text, each system once.

    Args:
        task: `s2ef`, `is2re` or `is2rs`.
        structures: With `sid` (and `fid` for S2EF) in their `info`.
        predictions: Energy and forces of each structure, or for `is2rs` its relaxed positions, Å.
        layout: `legacy` or `leaderboard`.
        dataset: `oc20` or `oc22`, which decides on the precision.

    Raises:
        DataError: If a structure has no name, two that differ have the same, or a prediction is not finite.
    """
    names = np.array([system_name(s, task, layout) for s in structures])
    unique, first = np.unique(names, return_index=True)
    _refuse_shared_names(structures, names)
    chosen = [(structures[k], predictions[k]) for k in first]
    dtype = np.float16 if layout == "legacy" and dataset == "oc20" and task != "is2rs" else np.float32
    arrays: Arrays = {"ids": unique}
    if task == "is2rs":
        rows = [np.asarray(positions) for _, positions in chosen]
    else:
        arrays["energy"] = np.array([p.energy for _, p in chosen], dtype=dtype)  # pyright: ignore[reportAttributeAccessIssue]
        rows = [_forces(s, p, layout) for s, p in chosen] if task == "s2ef" else []
    if task in ROWS:
        arrays[ROWS[task]] = np.concatenate(rows).astype(dtype)
        arrays["chunk_idx"] = np.cumsum([len(own) for own in rows])[:-1].astype(np.int64)
    problems = check_split(arrays, task, layout)
    if problems:
        raise DataError(f"These predictions make no submission: {'; '.join(problems)}.")
    return arrays


def system_name(structure: Structure, task: Task, layout: Layout) -> str:
    """What the leaderboard calls a structure: `<sid>`, or `<sid>_<fid>` for frames in the legacy layout.

    Raises:
        DataError: If its `info` has no `sid`, or no `fid` where it is needed.
    """
    needed = ("sid", "fid") if task == "s2ef" and layout == "legacy" else ("sid",)
    absent = [name for name in needed if name not in structure.info]
    if absent:
        raise DataError(
            f"A structure ({structure.formula}) has no {' and no '.join(absent)} to be named by: read the files of "
            "OC20 or OC22 themselves, or add it to the frames' info."
        )
    return "_".join(str(structure.info[name]) for name in needed)


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, NDArray]) -> None:
    """Write a compressed npz, atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_npz(path: str | os.PathLike[str]) -> Arrays:
    """All arrays of an npz.

    Raises:
        DataError: If it cannot be read, or only by unpickling.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no npz of plain arrays ({error}).") from error


def join_splits(parts: Mapping[str, Arrays], dataset: Dataset) -> Arrays:
    """The submission made of the arrays of every split of `dataset`.

    Raises:
        DataError: If a split is missing or there is no such split.
    """
    wanted = SPLITS[dataset]
    wrong = [name for name in parts if name not in wanted] + [name for name in wanted if name not in parts]
    if wrong:
        raise DataError(f"A submission to {dataset} has the splits {', '.join(wanted)}; check {', '.join(wrong)}.")
    return {f"{split}_{key}": value for split in wanted for key, value in parts[split].items()}


def check_submission(
    arrays: Mapping[str, NDArray],
    task: Task,
    *,
    layout: Layout = "leaderboard",
    dataset: Dataset = "oc20",
    structures: Mapping[str, Sequence[Structure]] | None = None,
) -> list[str]:
    """What is wrong with a submission, in words; empty if nothing is.

    Args:
        arrays: Content of the file.
        task: `s2ef`, `is2re` or `is2rs`.
        layout: `legacy` or `leaderboard`.
        dataset: `oc20` or `oc22`.
        structures: The test structures of some splits, to compare names and numbers of atoms with.
    """
    expected = {f"{split}_{key}" for split in SPLITS[dataset] for key in KEYS[task]}
    problems = [f"`{name}` is missing" for name in sorted(expected - arrays.keys())]
    problems += [f"`{name}` does not belong to {task} of {dataset}" for name in sorted(arrays.keys() - expected)]
    for split in SPLITS[dataset]:
        own = {key: arrays[f"{split}_{key}"] for key in KEYS[task] if f"{split}_{key}" in arrays}
        if len(own) == len(KEYS[task]):
            found = check_split(own, task, layout)
            if not found and structures and split in structures:
                found = _compare(own, task, layout, structures[split])
            problems += [f"{split}: {problem}" for problem in found]
    return problems


def check_split(arrays: Mapping[str, NDArray], task: Task, layout: Layout) -> list[str]:
    """The same for the arrays of one split, without prefix."""
    names = arrays["ids"]
    problems = []
    if names.ndim != 1 or names.dtype.kind != "U" or not len(names):
        return [f"ids should be a list of text, got {names.dtype} of shape {names.shape}"]
    if len(np.unique(names)) < len(names):
        problems.append(f"{len(names) - len(np.unique(names))} ids come more than once")
    elif (names[:-1] > names[1:]).any():
        problems.append("ids are not sorted as text")
    if task == "s2ef" and layout == "legacy":
        wrong = [name for name in names.tolist() if len(name.split("_")) != 2]
        if wrong:
            problems.append(f"ids should be <sid>_<fid>, got {wrong[0]!r}")
    for key in KEYS[task][1:]:
        value = arrays[key]
        kinds = "iu" if key == "chunk_idx" else "f"
        shape = {"energy": (len(names),), "chunk_idx": (len(names) - 1,)}.get(key, (len(value) if value.ndim else 0, 3))
        if value.dtype.kind not in kinds or value.shape != shape:
            problems.append(f"{key} should have shape {shape}, got {value.dtype} of shape {value.shape}")
        elif not np.isfinite(value).all():
            problems.append(f"{key} is not finite in {int((~np.isfinite(value)).sum())} places")
    if task in ROWS and not problems:
        problems += _check_chunks(arrays["chunk_idx"], len(arrays[ROWS[task]]))
    return problems


def _check_chunks(cuts: NDArray, rows: int) -> list[str]:
    """Every system has at least one row."""
    sizes = np.diff(np.concatenate([[0], cuts, [rows]]))
    if (sizes > 0).all():
        return []
    return [
        f"chunk_idx should ascend from above 0 to below {rows}, the number of rows; system {int(sizes.argmin())} has "
        f"{int(sizes.min())}"
    ]


def _compare(arrays: Mapping[str, NDArray], task: Task, layout: Layout, structures: Sequence[Structure]) -> list[str]:
    """Names and sizes against those of the test structures."""
    sizes = {
        system_name(s, task, layout): int(s.free.sum()) if task == "s2ef" and layout == "legacy" else len(s)
        for s in structures
    }
    names = arrays["ids"].tolist()
    absent, unknown = sorted(sizes.keys() - set(names)), sorted(set(names) - sizes.keys())
    problems = [f"{len(absent)} systems are missing, such as {absent[0]}"] if absent else []
    problems += [f"{len(unknown)} systems are unknown, such as {unknown[0]}"] if unknown else []
    if task in ROWS and not problems:
        own = np.diff(np.concatenate([[0], arrays["chunk_idx"], [len(arrays[ROWS[task]])]]))
        wrong = [k for k, name in enumerate(names) if own[k] != sizes[name]]
        if wrong:
            k = wrong[0]
            kind = "free atoms" if task == "s2ef" and layout == "legacy" else "atoms"
            problems.append(
                f"{len(wrong)} systems have another number of {kind}, such as {names[k]}: {own[k]}, "
                f"expected {sizes[names[k]]}"
            )
    return problems


def _forces(structure: Structure, prediction: EnergyAndForces, layout: Layout) -> NDArray[np.float64]:
    return prediction.forces[structure.free] if layout == "legacy" else prediction.forces


def _refuse_shared_names(structures: Sequence[Structure], names: NDArray) -> None:
    """A system that comes twice, as batches of several processes may have it, is one; two under one name are not."""
    seen: dict[str, Structure] = {}
    for structure, name in zip(structures, names.tolist(), strict=True):
        other = seen.setdefault(name, structure)
        if other is not structure and not (
            np.array_equal(other.numbers, structure.numbers) and np.array_equal(other.positions, structure.positions)
        ):
            raise DataError(
                f"Two structures are called {name}. The leaderboard layout names a structure by its `sid` alone; the "
                "legacy one tells frames of a system apart by `fid`."
            )
