"""PubChemQCR (2506.23008): relaxations of small molecules in LMDB files of gzipped pickles, which are never executed.

A record has, for each stage of its calculation, a list of steps: `coordinates` (Å), `energy` (hartree) and `gradient`
(hartree/bohr). A step is used as in the published training code (divelab/AIRS): with the length of the stage's
reference step, all three parts, and finite numbers. Whatever is left out is counted by its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tdn.data.foreign import NUMPY
from tdn.data.lmdb_file import read_lmdb
from tdn.data.sources import Notes, Trajectory, Unit
from tdn.data.unpickling import decompress, loads
from tdn.errors import DataError
from tdn.structure import Structure
from tdn.units import EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE

STAGES: dict[str, tuple[str, ...]] = {
    "pm3": ("pm3",),
    "hf": ("hf",),
    "1st": ("DFT_1st",),
    "1st_smash": ("DFT_1st",),
    "2nd": ("DFT_2nd",),
    "mixing": ("DFT_1st", "DFT_2nd"),
}
"""Stage of the calculation -> parts of a record, in the order of their steps."""

# Hartree, as published; other elements have none.
ATOM_ENERGIES = {
    **{1: -0.5002727762, 4: -14.6684425428, 5: -24.6543539532, 6: -37.8462799513, 7: -54.5844893657},
    **{8: -75.0606214015, 9: -99.7155354215, 14: -289.3723539998, 15: -341.2580898032, 16: -398.1049925382},
    **{17: -460.1362417086, 21: -760.5813501324, 22: -849.3013849537, 23: -943.8255794204, 24: -1044.2810289455},
    **{25: -1150.8680174849, 26: -1263.5207828239406, 27: -1382.5485719267936, 28: -1508.0542451335},
    **{29: -1640.1731641564784, 31: -1924.5926070018, 32: -2076.6914561594, 33: -2235.5683127287},
    **{34: -2401.2347730327, 35: -2573.8397377628},
}

# eV per hartree, and eV/Å per hartree/bohr. The published numbers are those of the published errors.
CONSTANTS = {
    "published": (27.2114, 27.2114 * 1.8897),
    "codata": (EV_PER_HARTREE, EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR),
}

SUBSET = "Data06.lmdb"
CLOSEST = 0.1  # Å; neighbour lists refuse atoms closer than this
TRAJECTORIES_A_UNIT = 1000

_NUMBERS = {case(s): z for z, s in enumerate(chemical_symbols) if z for case in (str, str.upper, str.lower)}
_POSITION, _GRADIENT, _SYMBOL = itemgetter("x", "y", "z"), itemgetter("dx", "dy", "dz"), itemgetter("atom")


@dataclass(frozen=True)
class PubChemQCR:
    """A folder of PubChemQCR's LMDB files as a source of trajectories (`tdn.data.sources.Source`).

    Attributes:
        root: The folder, or one file.
        stage: One of `STAGES`.
        subset: Read `Data06.lmdb` only, which is PubChemQCR-S.
        constants: `published` (1 hartree = 27.2114 eV, 1.8897 bohr/Å) or `codata` (2018).
    """

    root: str
    stage: str = "1st"
    subset: bool = False
    constants: Literal["published", "codata"] = "published"

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise DataError(f"PubChemQCR has the stages {', '.join(STAGES)}, not {self.stage!r}.")
        if self.constants not in CONSTANTS:
            raise DataError(f"The constants are published or codata, not {self.constants!r}.")

    @property
    def files(self) -> list[Path]:
        """The LMDB files, in the published order.

        Raises:
            DataError: If there are none.
        """
        root = Path(self.root)
        files = [root] if root.is_file() else sorted(root.glob("*.lmdb"))
        found = [file for file in files if not self.subset or SUBSET in str(file)]
        if not found:
            wanted = f"no {SUBSET}" if self.subset and files else "no LMDB files"
            raise DataError(f"{root} holds {wanted}: name the folder with PubChemQCR's *.lmdb files.")
        return found

    def describe(self) -> dict[str, Any]:
        """What decides the content, and the reference energies in eV."""
        factor = CONSTANTS[self.constants][0]
        references = {str(z): energy * factor for z, energy in ATOM_ENERGIES.items()}
        return {"format": "pubchemqcr", **asdict(self), "reference_energies": references}

    def units(self) -> list[Unit]:
        """Pieces of 1000 records."""
        found = []
        for file in self.files:
            keys = _keys(file)
            for first in range(0, len(keys), TRAJECTORIES_A_UNIT):
                some = keys[first : first + TRAJECTORIES_A_UNIT]
                found.append(Unit(str(file), first, len(some), some[0].hex()))
        return found

    def spread(self, count: int) -> list[Unit]:
        """At most `count` single records, evenly spread over the files."""
        places = [(file, k, key) for file in self.files for k, key in enumerate(_keys(file))]
        chosen = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)).tolist()
        return [Unit(str(file), k, 1, key.hex()) for file, k, key in (places[number] for number in chosen)]

    def read(self, unit: Unit, notes: Notes) -> Iterator[Trajectory]:
        """The trajectories of one piece that have any usable step; `notes` counts the others.

        Raises:
            DataError: If a record is damaged or would run code; names the file and the key.
        """
        with read_lmdb(unit.path) as view:
            cursor = view.cursor()
            if not cursor.set_range(bytes.fromhex(unit.start)):
                raise DataError(f"{unit.path} has changed: the key {unit.start} is gone.")
            for _ in range(unit.count):
                cid = bytes(cursor.key()).decode("utf-8", "replace")
                try:
                    record = loads(decompress(bytes(cursor.value())), NUMPY)
                except DataError as error:
                    raise DataError(f"{unit.path}, key {cid}: {error}") from error
                frames = self.frames(record, cid, notes)
                if frames:
                    yield Trajectory(cid, frames)
                cursor.next()

    def frames(self, record: Any, cid: str, notes: Notes) -> list[Structure]:
        """The usable steps of one record, in the order of the published code.

        Args:
            record: Content of the LMDB.
            cid: Its key.
            notes: Counts what is left out, by its reason.
        """
        if not isinstance(record, dict):
            notes.drops["records: not a dictionary of stages"] += 1
            return []
        phases = [record.get(name) for name in STAGES[self.stage]]
        reference, why = _reference(phases, self.stage)
        if reference is None:
            notes.drops[f"records: {why}"] += 1
            return []
        frames = []
        for name, phase in zip(STAGES[self.stage], phases, strict=True):
            for number, step in enumerate(phase or ()):
                try:
                    frames.append(self._frame(step, reference, {"cid": cid, "stage": name, "step": number}))
                except _Unusable as reason:
                    notes.drops[f"steps: {reason}"] += 1
        return frames

    def _frame(self, step: Any, reference: _Reference, info: Mapping[str, Any]) -> Structure:
        """One step in eV and Å."""
        if not isinstance(step, dict):
            raise _Unusable("malformed")
        coordinates, energy, gradient = step.get("coordinates"), step.get("energy"), step.get("gradient")
        if not coordinates:
            raise _Unusable("no coordinates")
        if energy is None:
            raise _Unusable("no energy")
        if not gradient:
            raise _Unusable("no gradient")
        try:
            if not len(gradient) == len(coordinates) == reference.size:
                raise _Unusable("another number of atoms than the reference step")
            if self.stage == "1st_smash" and "charge" in coordinates[0]:
                raise _Unusable("not by SMASH")
            numbers = _atomic_numbers(coordinates)
            positions, gradients = _table(coordinates, _POSITION), _table(gradient, _GRADIENT)
            hartree = float(energy)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _Unusable("malformed") from None
        if not (reference.finite and all(_finite(part) for part in (hartree, positions, gradients))):
            raise _Unusable("not finite")
        if _closest(positions) < CLOSEST:
            raise _Unusable(f"atoms closer than {CLOSEST} Å")
        ev, ev_per_angstrom = CONSTANTS[self.constants]
        return Structure(
            numbers,
            positions,
            np.zeros((3, 3)),
            np.zeros(3, bool),
            hartree * ev,
            -gradients * ev_per_angstrom,
            info=info,
        )


def _keys(file: Path) -> list[bytes]:
    with read_lmdb(file) as view:
        return [bytes(key) for key in view.cursor().iternext(keys=True, values=False)]


class _Unusable(Exception):
    """A step that is left out; says why."""


@dataclass(frozen=True)
class _Reference:
    """What the published code takes from the last step with an energy.

    Attributes:
        size: Its number of atoms.
        finite: Whether its numbers are; no step of the trajectory is used otherwise.
    """

    size: int
    finite: bool


def _reference(phases: Sequence[Any], stage: str) -> tuple[_Reference | None, str]:
    """The reference step, of the last stage that has one, or why there is none."""
    if not any(isinstance(phase, list) and phase for phase in phases):
        return None, "stage missing"
    for phase in reversed(phases):
        steps = [step for step in phase or () if isinstance(step, dict) and step.get("energy") is not None]
        if steps:
            break
    else:
        return None, "no step with an energy"
    coordinates = steps[-1].get("coordinates")
    if not coordinates:
        return None, "reference step without coordinates"
    try:
        if stage == "1st_smash" and "charge" in coordinates[0]:
            return None, "not by SMASH"
        finite = _finite(_table(coordinates, _POSITION)) and _finite(float(steps[-1]["energy"]))
        return _Reference(len(coordinates), finite), ""
    except (KeyError, TypeError, ValueError, AttributeError):
        return None, "reference step malformed"


def _finite(values: Any) -> bool:
    """Whether all values are finite in single precision, which is what the published code looks at."""
    return bool(np.abs(values).max() < 1e38)


def _table(atoms: Any, columns: Any) -> NDArray[np.float64]:
    return np.array([columns(atom) for atom in atoms], dtype=np.float64)


def _atomic_numbers(coordinates: Any) -> NDArray[np.int64]:
    symbols = [_SYMBOL(atom) for atom in coordinates]
    try:
        numbers = [_NUMBERS[symbol] for symbol in symbols]
    except KeyError as error:
        raise _Unusable(f"unknown symbol {str(error.args[0])[:8]!r}") from None
    unknown = sorted({number for number in numbers if number not in ATOM_ENERGIES})
    if unknown:
        raise _Unusable(f"no reference energy of {', '.join(chemical_symbols[z] for z in unknown)}")
    return np.array(numbers, dtype=np.int64)


def _closest(positions: NDArray[np.float64]) -> float:
    """Smallest distance of two atoms, Å."""
    offsets = positions[:, None] - positions[None]
    squares = np.einsum("ijk,ijk->ij", offsets, offsets)
    squares[np.diag_indices(len(squares))] = np.inf
    return float(np.sqrt(squares.min()))
