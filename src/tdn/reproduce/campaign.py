"""`tdn reproduce SUITE`: every contender on every entry, one after the other, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tdn.bench.rounds import WorkerError
from tdn.reproduce.accuracy import run_contender
from tdn.reproduce.contenders import Conditions, Contender, check
from tdn.reproduce.entries import choose_entries, data_folder, read_entry
from tdn.reproduce.summary import Group, gather, write_summary
from tdn.training.logs import Reporter


class Campaign(NamedTuple):
    """What came of it.

    Attributes:
        groups: All results in the folder, by entry.
        failures: What kept a peer from having one.
    """

    groups: dict[str, list[Group]]
    failures: list[str]


def reproduce_suite(
    suite: str,
    data: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    contenders: Sequence[Contender],
    conditions: Conditions,
    *,
    entries: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Campaign:
    """Train and test; results of earlier calls in the same folder are kept and shown beside.

    Args:
        suite: Of `tdn.reproduce.suites.SUITES`.
        data: Folder with its files, or the folder that holds it.
        output: Folder for the runs, `results.json`, `results.md` and `errors.png`, in one of the suite's name.
        contenders: Whom to train.
        conditions: Time, seed, threads and the like.
        entries: Names; all whose files are there if empty.
        reporter: Hears what happens.

    Returns:
        All results in the folder; peers that failed do not keep the others from going on.

    Raises:
        ConfigError: If a preset or a change to it is not valid.
        DataError: If files are missing; says where to get them.
        TDNError: If a training of ours was interrupted or failed, or a peer is not installed.
    """
    reporter = reporter or Reporter()
    for who in contenders:
        check(who, conditions)
    folder = data_folder(suite, data)
    chosen, remarks = choose_entries(suite, folder, entries)
    for remark in remarks:
        reporter.line(f"left out: {remark}")
    target, failures = Path(output) / suite, []
    for entry in chosen:
        frames = read_entry(entry, folder)
        counts = ", ".join(f"{count} {part}" for part, count in frames.counts().items())
        reporter.line(f"{entry.name}: {counts} frames")
        for who in contenders:
            try:
                run_contender(suite, entry, frames, target, who, conditions, reporter)
            except WorkerError as error:
                failures.append(f"{entry.name}, {error}")
                reporter.warning(failures[-1])
    return Campaign(summarise_suite(suite, output), failures)


def summarise_suite(suite: str, output: str | os.PathLike[str]) -> dict[str, list[Group]]:
    """Write the tables and the picture of all results in the folder, and return them."""
    target = Path(output) / suite
    groups = gather(target)
    if groups:
        write_summary(suite, target, groups)
    return groups
