"""Splits of a frame store by trajectory, as published for PubChemQCR, and what each part holds.

The published code (divelab/AIRS) shuffles the numbers of the trajectories, in the order of the files and keys, with
Python's generator of seed 42, or, where an item of its data set is one random frame of a trajectory, with PyTorch's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tdn.data.shards import SUMS, save_arrays
from tdn.data.store import INDEX, PARTS, SPLIT, FrameStore, StoreView
from tdn.errors import DataError
from tdn.files import write_json
from tdn.neighbors import neighbor_list

Parts = dict[str, NDArray[np.int64]]

PUBLISHED = {"subset": (0.6, 0.2), "full": (0.8, 0.1)}
"""Name of a published split -> shares of training and validation; the rest is for testing."""
SEED = 42
NEIGHBOR_CUTOFF = 5.0  # Å, of the estimate of neighbours
NEIGHBOR_FRAMES = 200
_NAMES = {"val": "valid", "validation": "valid"}


def shuffled_split(count: int, shares: Sequence[float], *, one_frame: bool = False, seed: int = SEED) -> Parts:
    """The published shuffle.

    Args:
        count: Number of trajectories.
        shares: Of training and validation.
        one_frame: The split of the data set whose items are one frame of each trajectory.
        seed: Of the shuffle.
    """
    if len(shares) != 2 or min(shares) <= 0 or sum(shares) > 1 + 1e-12:
        raise DataError(f"A split needs the shares of training and validation, such as 0.8/0.1, got {shares}.")
    if one_frame:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    else:
        numbers = list(range(count))
        random.Random(seed).shuffle(numbers)
        order = np.array(numbers, dtype=np.int64)
    train, valid = (int(share * count) for share in shares)
    return dict(zip(PARTS, np.split(order, [train, train + valid]), strict=True))


def read_split(path: str | Path, names: Sequence[str]) -> Parts:
    """A split from a JSON file: lists under `train`, `valid` (or `val`, `validation`) and `test`.

    Entries are names of trajectories (CIDs, with or without leading zeros), or their numbers from 0 where these fit and
    names do not.

    Args:
        path: The file.
        names: Of all trajectories, in order.

    Raises:
        DataError: If it is damaged, a trajectory is unknown or in two parts.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        lists = {_NAMES.get(name, name): list(content[name]) for name in content if _NAMES.get(name, name) in PARTS}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no split that can be read ({error}).") from error
    if set(lists) != set(PARTS):
        raise DataError(f"{path} should hold lists for train, valid and test, got {', '.join(map(str, content))}.")
    number_of = {_plain(name): k for k, name in enumerate(names)}
    by_name = {part: [number_of.get(_plain(entry), -1) for entry in entries] for part, entries in lists.items()}
    unknown = sum(number < 0 for numbers in by_name.values() for number in numbers)
    entries = [entry for some in lists.values() for entry in some]
    are_numbers = all(type(entry) is int and 0 <= entry < len(names) for entry in entries)
    if unknown and not are_numbers:
        example = next(e for part, some in lists.items() for e, n in zip(some, by_name[part], strict=True) if n < 0)
        raise DataError(
            f"{path} names {unknown} trajectories that the store lacks, such as {example!r}: was it converted with "
            "another stage, or only in part?"
        )
    parts = {part: np.array(lists[part] if unknown else by_name[part], dtype=np.int64) for part in PARTS}
    if len(np.unique(np.concatenate(list(parts.values())))) != len(entries):
        raise DataError(f"{path} has a trajectory twice.")
    return parts


def _plain(name: Any) -> str:
    return str(name).lstrip("0")


def split_store(store: FrameStore, rule: str) -> FrameStore:
    """Give a store a split, with statistics of each part.

    Args:
        store: Anything but frozen: its index is written anew.
        rule: `subset` (60/20/20) or `full` (80/10/10), as published; other shares such as `0.9/0.05`; either with
            `one-frame:` before it for the published mode without full trajectories; or a JSON file (`read_split`).

    Raises:
        DataError: If the rule is not understood or a part is empty.
    """
    one_frame, shares = rule.startswith("one-frame:"), rule.removeprefix("one-frame:")
    if shares.endswith(".json"):
        parts, label = read_split(shares, store.trajectory_names()), Path(shares).name
    else:
        parts = shuffled_split(store.num_trajectories, PUBLISHED.get(shares) or _shares(shares), one_frame=one_frame)
        label = shares
    empty = [name for name, part in parts.items() if not len(part) and (name != "test" or store.num_trajectories > 2)]
    if empty:
        raise DataError(
            f"{store.num_trajectories} trajectories are too few for the split {rule}: no {', '.join(empty)}."
        )
    save_arrays(store.path / SPLIT, parts)
    index = {**store.index, "split": {"rule": label, "seed": SEED, "one_frame": one_frame}}
    write_json(store.path / INDEX, index)
    store = FrameStore(store.path)
    index["statistics"] = {name: statistics(store, part, store.view(name)) for name, part in parts.items() if len(part)}
    write_json(store.path / INDEX, index)
    return FrameStore(store.path)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split("/")[:2])
    except ValueError:
        raise DataError(
            f"{text!r} is no split: subset, full, shares of training and validation such as 0.8/0.1, or a JSON file."
        ) from None


def statistics(store: FrameStore, trajectories: NDArray[np.int64], view: StoreView) -> dict[str, Any]:
    """What a part of a store holds; energies are above the references that the source publishes, if it does.

    Args:
        store: The store.
        trajectories: Of the part.
        view: Its frames.
    """
    sums: Mapping[str, float] = dict(zip(SUMS, store.trajectory_sums[trajectories].sum(0).tolist(), strict=True))
    found = sums["energies"] or np.nan
    mean = sums["energy"] / found
    elements: Sequence[int] = sorted({int(z) for t in trajectories for z in _elements(store, int(t))})
    neighbors = mean_neighbors(view, NEIGHBOR_CUTOFF)
    content = {
        "trajectories": len(trajectories),
        "frames": len(view),
        "atoms": int(view.num_atoms.sum()),
        "atoms_min": int(view.num_atoms.min()),
        "atoms_max": int(view.num_atoms.max()),
        "elements": elements,
        "energy_per_atom_mean_ev": mean,
        "energy_per_atom_std_ev": float(np.sqrt(max(sums["energy_squared"] / found - mean**2, 0.0))),
        "force_rms_ev_per_angstrom": float(np.sqrt(sums["force_squared"] / (sums["force_components"] or np.nan))),
        f"mean_neighbors_within_{NEIGHBOR_CUTOFF:g}_angstrom": neighbors,
    }
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in content.items()}


def mean_neighbors(view: StoreView, r_max: float, max_neighbors: int | None = None) -> float:
    """Neighbours of an atom on average, estimated from evenly spread frames."""
    edges = atoms = 0
    for structure in view.spread(NEIGHBOR_FRAMES):
        senders, receivers, _ = neighbor_list(structure, r_max)
        counts = np.bincount(receivers, minlength=len(structure))
        edges += int(np.minimum(counts, max_neighbors).sum()) if max_neighbors else len(senders)
        atoms += len(structure)
    return edges / max(atoms, 1)


def _elements(store: FrameStore, trajectory: int) -> set[int]:
    """Elements of a trajectory, from its first frame."""
    arrays, k = store.locate(int(store.trajectory_starts[trajectory]))
    first, last = arrays["offsets"][k : k + 2].tolist()
    return set(arrays["numbers"][first:last].tolist())
