"""LMDB files, opened for reading only: no lock file is made, so data on read-only disks can be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tdn.errors import DataError


@contextlib.contextmanager
def read_lmdb(path: str | Path) -> Iterator[Any]:
    """Yield an `lmdb.Transaction` on a one-file LMDB.

    Raises:
        DataError: If lmdb is not installed, or the file is missing, truncated or no LMDB.
    """
    try:
        import lmdb
    except ImportError as error:
        raise DataError(f"{path} is an LMDB file: pip install 'tdn[datasets]' to read it.") from error
    if not Path(path).is_file():
        raise DataError(f"No such file: {path}.")
    if Path(path).stat().st_size == 0:
        raise DataError(f"{path} is empty: 0 bytes. Download it again.")
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(f"{path} cannot be opened as LMDB ({error}): is the download complete?") from error
    with environment:
        # LMDB maps the file: reading a page that a truncated file lacks would kill the process.
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if Path(path).stat().st_size < needed:
            raise DataError(f"{path} is truncated: {Path(path).stat().st_size} of {needed} bytes. Download it again.")
        with environment.begin() as transaction:
            yield transaction


def numbered_keys(transaction: Any) -> list[int]:
    """The keys that are decimal numbers, ascending; an LMDB itself sorts them as bytes: 0, 1, 10, 11, 2."""
    names = (bytes(key) for key in transaction.cursor().iternext(keys=True, values=False))
    return sorted(int(name) for name in names if name.isdigit())
