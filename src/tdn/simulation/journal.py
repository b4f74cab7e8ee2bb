"""`Journal`: what is finished of a long job over many structures, safe against kills and shared by several workers.

A folder holds `job.json`, which says what the job is, and one file a worker with a line of JSON for every finished
structure. A line that a kill cut short does not count. Every worker sees what all have finished, so that a lost one is
replaced by starting its shard again, or by the run that collects.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tdn.errors import ConfigError
from tdn.files import write_json

JOB = "job.json"


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of a job: structures `number - 1`, `number - 1 + count`, ...

    Attributes:
        number: From 1 to `count`.
        count: Number of parts.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"A shard is one of 1/n to n/n, got {self}.")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from `2/8`.

        Raises:
            ConfigError: If `text` is anything else.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None:
            raise ConfigError(f"A shard is written i/n, such as 2/8, got {text!r}.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def __contains__(self, index: int) -> bool:
        return index % self.count == self.number - 1


class Journal:
    """Records of finished structures in `folder`; a context manager that closes its file.

    Args:
        folder: Made if it does not exist.
        job: Everything that the results depend on, as JSON values.
        worker: Name of this worker's file.
        resume: Whether a journal of the same job may be there already.

    Raises:
        ConfigError: If there is a journal and `resume` is false, or it belongs to another job, or the folder cannot be
            written.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], worker: str = "all", resume: bool = False) -> None:
        self.folder = folder
        if (folder / JOB).is_file():
            self._check(job, resume)
        else:
            try:
                write_json(folder / JOB, job)
            except OSError as error:
                raise ConfigError(f"The folder {folder.parent} cannot be written ({error.strerror}).") from error
        self._where: dict[int, tuple[Path, int]] = {}
        path = folder / f"{worker}.jsonl"
        _drop_torn_line(path)
        for file in sorted(folder.glob("*.jsonl")):
            self._where.update((record["index"], (file, start)) for start, record in _lines(file))
        self._file = path.open("ab")

    def __contains__(self, index: int) -> bool:
        return index in self._where

    def __len__(self) -> int:
        return len(self._where)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, record: Mapping[str, Any]) -> None:
        """Note one finished structure; it is on the disk when this returns, safe against kills and power cuts.

        Raises:
            OSError: If the disk is full; what was noted before stays.
        """
        self.extend([record])

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Note several finished structures; the disk is waited for once."""
        where = {}
        for record in records:
            where[record["index"]] = Path(self._file.name), self._file.tell()
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._where |= where

    def read(self, index: int) -> dict[str, Any]:
        """The record of a finished structure."""
        path, start = self._where[index]
        with path.open("rb") as file:
            file.seek(start)
            return json.loads(file.readline())

    def remove(self) -> None:
        """Delete the folder, once its results are elsewhere."""
        self._file.close()
        shutil.rmtree(self.folder)

    def _check(self, job: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            raise ConfigError(
                f"{self.folder} holds an unfinished run: --resume continues it, --overwrite starts again."
            )
        known = json.loads((self.folder / JOB).read_text(encoding="utf-8"))
        changed = [key for key in {**known, **job} if known.get(key) != job.get(key)]
        if changed:
            raise ConfigError(
                f"The run in {self.folder} was started with another {', '.join(sorted(changed))}: --resume continues "
                "it as it was; --overwrite starts again."
            )


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Where each whole record starts, and the record."""
    with path.open("rb") as file:
        start = 0
        for line in file:
            if line.endswith(b"\n"):
                yield start, json.loads(line)
            start += len(line)


def _drop_torn_line(path: Path) -> None:
    """Cut what a kill or a full disk left of an unfinished last line."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        content = file.seek(0, os.SEEK_END)
        size = content
        while size:
            block = min(size, 65536)
            file.seek(size - block)
            last = file.read(block).rfind(b"\n")
            if last >= 0:
                size += last + 1 - block
                break
            size -= block
        if size < content:
            file.truncate(size)
