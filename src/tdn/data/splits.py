"""Splitting frames into training, validation and test sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tdn.data.reading import FrameSet
from tdn.errors import DataError


@dataclass(frozen=True)
class Split:
    """Three disjoint frame sets; `valid` and `test` may be empty."""

    train: FrameSet
    valid: FrameSet
    test: FrameSet


def split_frames(
    frames: FrameSet, valid: float, test: float = 0, *, seed: int = 0, group_key: str | None = None
) -> Split:
    """Split at random.

    Args:
        frames: What to split.
        valid: Share of the validation set: a fraction below 1, or a whole number of frames.
        test: The same for the test set.
        seed: Seed of the shuffle; the same frames and seed give the same split.
        group_key: Name of an `info` entry, such as `molecule`: frames that share its value stay together, and sizes
            are reached as nearly as whole groups allow.

    Raises:
        DataError: If nothing is left for training, or a frame lacks `group_key`.
    """
    total = len(frames)
    wanted = [_count(valid, total, "valid"), _count(test, total, "test")]
    if sum(wanted) >= total:
        raise DataError(f"{wanted[0]} validation and {wanted[1]} test frames leave none of {total} for training.")
    groups = _groups(frames, group_key)
    order = np.random.default_rng(seed).permutation(len(groups))
    parts: list[list[int]] = [[], [], []]
    for position in order:
        group = groups[position]
        part = next((k for k in (0, 1) if _fits(len(group), wanted[k] - len(parts[k]))), 2)
        parts[part] += group
    names = ("validation", "test", "training")
    for name, part, count in zip(names, parts, [*wanted, total - sum(wanted)], strict=True):
        if count and not part:
            raise DataError(
                f"The {len(groups)} groups of `{group_key}` are too large to give any to the {name} set: ask for a "
                "larger share, or split by another key."
            )
    held_out, tested, trained = (frames.select(sorted(part)) for part in parts)
    return Split(trained, held_out, tested)


def _count(share: float, total: int, name: str) -> int:
    """Number of frames for a fraction or a count; a fraction above 0 gives at least one."""
    if share < 0 or (share >= 1 and share != int(share)):
        raise DataError(f"`{name}` must be a fraction in [0, 1) or a whole number of frames, got {share}.")
    if share >= 1 or share == 0:
        return int(share)
    return max(1, round(share * total))


def _fits(size: int, room: int) -> bool:
    """Whether a group brings a part nearer to its wanted size."""
    return abs(room - size) < room


def _groups(frames: FrameSet, key: str | None) -> Sequence[list[int]]:
    """Indices that must stay together."""
    if key is None:
        return [[k] for k in range(len(frames))]
    groups: dict[object, list[int]] = {}
    for k, structure in enumerate(frames.structures):
        if key not in structure.info:
            raise DataError(
                f"Frame {frames.origins[k]} has no `{key}` to split by; its info has: "
                f"{', '.join(structure.info) or 'nothing'}."
            )
        groups.setdefault(structure.info[key], []).append(k)
    return list(groups.values())
