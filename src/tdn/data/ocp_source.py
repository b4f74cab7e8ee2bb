"""LMDBs of OC20 and OC22 as a source of `tdn data convert`: in pieces, so that 10⁸ frames are read in parallel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tdn.data.formats import expand_paths
from tdn.data.ocp import OCPOptions, count_records, iterate_lmdb, read_oc20_references
from tdn.data.sources import Notes, Trajectory, Unit

RECORDS_PER_PIECE = 5000


@dataclass(frozen=True)
class OpenCatalyst:
    """Every record is on its own: these data sets come with their splits, one folder each.

    Attributes:
        paths: LMDB files, folders of them, or patterns.
        geometry: As in `OCPOptions`, and so are `surfaces`, `max_energy` and `max_force`.
        oc20_ref: The published `oc20_ref.pkl`, which makes total energies of OC20's adsorption energies.
    """

    paths: tuple[str, ...]
    geometry: Literal["initial", "relaxed"] = "initial"
    oc20_ref: str | None = None
    surfaces: Literal["all", "adslabs", "slabs"] = "all"
    max_energy: float | None = None
    max_force: float | None = None

    def describe(self) -> dict[str, Any]:
        """The options."""
        content = {name: value for name, value in vars(self).items() if name not in ("paths", "oc20_ref")}
        digest = None if self.oc20_ref is None else hashlib.sha256(Path(self.oc20_ref).read_bytes()).hexdigest()
        return {"format": "ocp", **content, "oc20_ref_sha256": digest}

    def units(self) -> list[Unit]:
        """A few thousand records each."""
        pieces = []
        for file in expand_paths(self.paths):
            count = count_records(file)
            firsts = range(0, count, RECORDS_PER_PIECE)
            pieces += [Unit(os.path.abspath(file), k, min(RECORDS_PER_PIECE, count - k), str(k)) for k in firsts]
        return pieces

    def read(self, unit: Unit, notes: Notes) -> Iterator[Trajectory]:
        """The records of one piece."""
        references = None if self.oc20_ref is None else read_oc20_references(self.oc20_ref)
        options = OCPOptions(self.geometry, references, self.surfaces, self.max_energy, self.max_force)
        span = range(unit.first, unit.first + unit.count)
        for key, structure in iterate_lmdb(unit.path, options, span, notes.drops):
            yield Trajectory(f"{Path(unit.path).name}:{key}", (structure,))
