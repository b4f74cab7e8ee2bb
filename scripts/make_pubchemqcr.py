"""LMDB shards in the exact format of PubChemQCR, from the quantum-chemistry relaxations that ship with the package.

    python scripts/make_pubchemqcr.py FOLDER --trajectories 2000 --atoms 37 --steps 37

The real files are 3.5 million trajectories; these are for tests and benchmarks. A trajectory is one or several shipped
molecules side by side, turned at random, each taking the steps of its real B3LYP/6-31G* relaxation, so that `DFT_1st`
and `DFT_2nd` hold true energies and gradients of each molecule. The stages `pm3` and `hf` hold the same molecules with
shifted energies: stand-ins with the right shape, without scientific meaning. With --irregular, records take turns in
having everything odd that the format allows (`IRREGULARITIES`).
"""

from __future__ import annotations

import argparse
import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import lmdb
import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from tdn.data.pubchemqcr import CONSTANTS
from tdn.datasets import organics_path

EV, EV_PER_ANGSTROM = CONSTANTS["published"]
Record = dict[str, Any]
APART = 12.0  # Å between molecules of one trajectory, beyond any cutoff


def relaxations() -> list[list[Atoms]]:
    """The shipped relaxations, one list of steps a molecule."""
    molecules: dict[str, list[Atoms]] = {}
    for split in ("train", "valid", "test"):
        for atoms in ase.io.read(organics_path(split), index=":"):
            if atoms.info["config_type"] == "relaxation":
                molecules.setdefault(atoms.info["molecule"], []).append(atoms)
    return [sorted(steps, key=lambda atoms: atoms.info["step"]) for steps in molecules.values()]


def make_step(parts: list[Atoms], turns: list[Rotation], charge: bool = True, shift: float = 0.0) -> Record:
    """One step: molecules side by side, in hartree, hartree/bohr and Å."""
    coordinates, gradient, energy = [], [], 0.0
    for k, (atoms, turn) in enumerate(zip(parts, turns, strict=True)):
        energy += float(atoms.info["REF_energy"]) / EV
        positions = turn.apply(atoms.positions) + np.array([APART * k, 0.0, 0.0])
        slopes = turn.apply(-atoms.arrays["REF_forces"]) / EV_PER_ANGSTROM
        for symbol, number, (x, y, z), (dx, dy, dz) in zip(
            atoms.symbols, atoms.numbers.tolist(), positions.tolist(), slopes.tolist(), strict=True
        ):
            extra = {"charge": float(number)} if charge else {}
            coordinates.append({"atom": symbol, **extra, "x": x, "y": y, "z": z})
            gradient.append({"atom": symbol, **extra, "dx": dx, "dy": dy, "dz": dz})
    return {"coordinates": coordinates, "energy": energy + shift, "gradient": gradient}


def make_record(rng: np.random.Generator, molecules: list[list[Atoms]], atoms: int, steps: int, smash: bool) -> Record:
    """A regular record of about `atoms` atoms and `steps` steps of `DFT_1st`."""
    chosen = [molecules[rng.integers(len(molecules))]]
    while sum(len(molecule[0]) for molecule in chosen) + 5 < atoms:
        chosen.append(molecules[rng.integers(len(molecules))])
    turns = [Rotation.random(rng=rng) for _ in chosen]

    def stage(count: int, shift: float, charge: bool) -> list[Record]:
        # Every molecule goes through its own relaxation at its own pace.
        paces = [np.sort(rng.integers(len(molecule), size=count)) for molecule in chosen]
        return [
            make_step([molecule[pace[k]] for molecule, pace in zip(chosen, paces, strict=True)], turns, charge, shift)
            for k in range(count)
        ]

    return {
        "pm3": stage(max(1, steps * 3 // 4), 1.0, True),
        "hf": stage(max(1, steps // 2), 0.5, True),
        "DFT_1st": stage(steps, 0.0, not smash),
        "DFT_2nd": stage(max(1, steps // 6), 0.0, True),
    }


def _step(record: Record, number: int = 0) -> Record:
    return record["DFT_1st"][number]


def _rename(record: Record, symbol: str) -> None:
    for step in record["DFT_1st"]:
        step["coordinates"][0]["atom"] = step["gradient"][0]["atom"] = symbol


def _upper_case(record: Record) -> None:
    for step in record["DFT_1st"]:
        for atom in step["coordinates"]:
            atom["atom"] = atom["atom"].upper()


# What a record may be in the real files, or what its readers guard against.
IRREGULARITIES: dict[str, Callable[[Record], Any]] = {
    "DFT_1st is None, the HF file was copied": lambda r: r.update(DFT_1st=None),
    "no DFT_2nd": lambda r: r.pop("DFT_2nd"),
    "DFT_1st is empty": lambda r: r.update(DFT_1st=[]),
    "HF copied to DFT_1st": lambda r: r.update(DFT_1st=r["hf"]),
    "energy None": lambda r: _step(r).update(energy=None),
    "energy missing in the last step": lambda r: _step(r, -1).pop("energy"),
    "no energies at all": lambda r: [step.pop("energy") for step in r["DFT_1st"]],
    "gradient missing": lambda r: _step(r).pop("gradient"),
    "gradient None": lambda r: _step(r).update(gradient=None),
    "gradient empty": lambda r: _step(r).update(gradient=[]),
    "gradient too short": lambda r: _step(r)["gradient"].pop(),
    "coordinates missing": lambda r: _step(r).pop("coordinates"),
    "coordinates too short": lambda r: _step(r)["coordinates"].pop(),
    "coordinates and gradient too short": lambda r: [_step(r)[k].pop() for k in ("coordinates", "gradient")],
    "NaN energy": lambda r: _step(r).update(energy=float("nan")),
    "NaN gradient": lambda r: _step(r)["gradient"][0].update(dx=float("nan")),
    "infinite position": lambda r: _step(r)["coordinates"][0].update(x=float("inf")),
    "NaN in the last step": lambda r: _step(r, -1)["coordinates"][0].update(x=float("nan")),
    "lithium": lambda r: _rename(r, "Li"),
    "sodium": lambda r: _rename(r, "NA"),
    "iodine": lambda r: _rename(r, "i"),
    "unknown symbol": lambda r: _rename(r, "Xx"),
    "upper-case symbols": _upper_case,
    "numbers as text": lambda r: _step(r)["coordinates"][0].update(x=str(_step(r)["coordinates"][0]["x"])),
    "malformed atom": lambda r: _step(r)["coordinates"][0].pop("x"),
    "overlapping atoms": lambda r: _step(r)["coordinates"][1].update(
        {k: _step(r)["coordinates"][0][k] for k in ("x", "y", "z")}
    ),
}


def write_shards(
    folder: Path,
    trajectories: int,
    *,
    files: int = 1,
    atoms: int = 10,
    steps: int = 5,
    smash: float = 0.3,
    irregular: bool = False,
    subset: bool = True,
    seed: int = 0,
    protocol: int = 4,
) -> list[Path]:
    """Write `trajectories` records to `files` shards; if `subset`, the last is called `Data06.lmdb`.

    Args:
        folder: Where to.
        trajectories: In all.
        files: Number of shards.
        atoms: About how many atoms a trajectory has.
        steps: Steps of `DFT_1st`.
        smash: Share of records whose `DFT_1st` is by SMASH, without charges.
        irregular: Whether every second record has one of `IRREGULARITIES`, in turn.
        subset: Whether one shard has the name of PubChemQCR-S.
        seed: Of everything random.
        protocol: Of the pickles.
    """
    rng = np.random.default_rng(seed)
    molecules = relaxations()
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"Data{k + 1:02d}.lmdb" for k in range(files)]
    if subset:
        names[-1] = "Data06.lmdb"
    oddities = list(IRREGULARITIES.values())
    number = 0
    for k, name in enumerate(names):
        with lmdb.open(str(folder / name), subdir=False, lock=False, map_size=1 << 36) as environment:
            for _ in range(trajectories // files + (k < trajectories % files)):
                record = make_record(rng, molecules, atoms, steps, bool(rng.random() < smash))
                if irregular and number % 2:
                    oddities[number // 2 % len(oddities)](record)
                value = gzip.compress(pickle.dumps(record, protocol), 6)
                with environment.begin(write=True) as view:
                    view.put(f"{984 + 7 * number:09d}".encode(), value)
                number += 1
    return [folder / name for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trajectories", type=int, default=2000)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--atoms", type=int, default=37)
    parser.add_argument("--steps", type=int, default=37)
    parser.add_argument("--irregular", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    for path in write_shards(arguments.pop("folder"), arguments.pop("trajectories"), **arguments):
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
