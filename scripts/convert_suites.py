"""Data sets of the accuracy suite that are published in other formats, as extended XYZ for `tdn reproduce SUITE`.

    python scripts/convert_suites.py mlearn mlearn/data data/mlearn
    python scripts/convert_suites.py lips matsciml/matsciml/datasets/lips/devset/data.lmdb data/lips

The first reads a clone of materialsvirtuallab/mlearn, whose stress is in kbar with the sign of pressure, in VASP's
order xx yy zz xy yz zx; the second one of IntelLabs/matsciml, whose records are pickles: nothing in them is executed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.units import GPa

from tdn.data.foreign import TENSORS
from tdn.data.unpickling import loads
from tdn.files import atomic_write

XX, YY, ZZ, XY, YZ, ZX = range(6)


def labelled(atoms: Atoms, energy: float, forces: Any) -> Atoms:
    """With energy, eV, and forces, eV/Å."""
    atoms.info["REF_energy"] = float(energy)
    atoms.set_array("REF_forces", np.asarray(forces))
    return atoms


def mlearn(record: dict[str, Any]) -> Atoms:
    """A frame with stress in eV/Å³ of ASE's sign, and what it is a frame of."""
    structure, outputs = record["structure"], record["outputs"]
    symbols, positions = ([site[key] for site in structure["sites"]] for key in ("label", "xyz"))
    atoms = Atoms(symbols, positions=positions, cell=structure["lattice"]["matrix"], pbc=True)
    kbar = np.array(outputs["virial_stress"])
    atoms.info["REF_stress"] = -0.1 * GPa * kbar[[[XX, XY, ZX], [XY, YY, YZ], [ZX, YZ, ZZ]]]
    atoms.info |= {"group": record["group"], "description": record["description"]}
    return labelled(atoms, outputs["energy"], outputs["forces"])


def lips(path: Path) -> Iterator[Atoms]:
    """Frames in the order of their numbers."""
    import lmdb

    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as database, database.begin() as transaction:
        for number in range(database.stat()["entries"]):
            record = loads(transaction.get(str(number).encode()) or b"", TENSORS)
            numbers, positions, cell = (np.asarray(record[key]) for key in ("atomic_numbers", "pos", "cell"))
            atoms = Atoms(numbers.astype(int), positions=positions, cell=cell.reshape(3, 3), pbc=True)
            yield labelled(atoms, record["energy"], record["force"])


def write(path: Path, frames: Sequence[Atoms]) -> None:
    """As extended XYZ."""
    with atomic_write(path) as temporary:
        ase.io.write(temporary, frames, format="extxyz")
    print(f"{path}: {len(frames)} frames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["mlearn", "lips"])
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    if arguments.suite == "lips":
        write(arguments.output / "lips_200.extxyz", list(lips(arguments.source)))
        return
    for symbol in ("Si", "Li"):
        for part in ("training", "test"):
            records = json.loads((arguments.source / symbol / f"{part}.json").read_text(encoding="utf-8"))
            write(arguments.output / f"{symbol}_{part}.extxyz", [mlearn(record) for record in records])


if __name__ == "__main__":
    main()
