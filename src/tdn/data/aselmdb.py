"""`.aselmdb`: ASE databases in LMDB files as fairchem writes them, read without `ase-db-backends`.

Values are zlib-compressed JSON of an ASE row under the keys 1, 2, ...; fairchem 1 wrote arrays as plain lists, later
versions as ase.io.jsonio does (`{"__ndarray__": [shape, dtype, numbers]}`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tdn.data.lmdb_file import numbered_keys, read_lmdb
from tdn.errors import DataError

if TYPE_CHECKING:
    from ase.db.row import AtomsRow

# What an ASE row holds as arrays; older files give plain lists.
_ARRAYS = {
    **dict.fromkeys(("numbers", "tags"), int),
    **dict.fromkeys(("positions", "cell", "forces", "stress", "stresses", "energies", "momenta", "masses"), float),
    **dict.fromkeys(("charges", "magmoms", "initial_charges", "initial_magmoms", "dipole", "free_energies"), float),
    "pbc": bool,
}


def read_rows(path: str | Path) -> Iterator[AtomsRow]:
    """The rows of an `.aselmdb` in the order of their ids; deleted ones are left out.

    Raises:
        DataError: If the file is missing or damaged.
    """
    from ase.db.row import AtomsRow

    with read_lmdb(path) as transaction:
        deleted = set(_decode(transaction.get(b"deleted_ids"), path) or ())
        for number in numbered_keys(transaction):
            if number in deleted:
                continue
            content = _decode(transaction.get(str(number).encode()), path)
            if not isinstance(content, dict) or "numbers" not in content:
                raise DataError(f"{path}: entry {number} is no row of an ASE database.")
            yield AtomsRow({**_as_arrays(content), "id": number})


def _decode(value: bytes | None, path: str | Path) -> Any:
    """JSON in either dialect."""
    from ase.io.jsonio import decode

    if value is None:
        return None
    try:
        text = zlib.decompress(value).decode("utf-8")
        # `always_array` would turn lists of the newer dialect that are meant as lists into arrays.
        return decode(text, always_array=False)
    except (zlib.error, UnicodeDecodeError, json.JSONDecodeError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: an entry cannot be decoded ({error}). Download the file again.") from error


def _as_arrays(content: dict[str, Any]) -> dict[str, Any]:
    arrays = {name: np.asarray(content[name], dtype=kind) for name, kind in _ARRAYS.items() if name in content}
    return {"unique_id": "", "ctime": 0.0, "mtime": 0.0, "user": "", **content, **arrays}
