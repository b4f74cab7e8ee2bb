"""PubChemQCR's shards: units, stages, and everything odd that the format allows."""

from __future__ import annotations

import gzip
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from pubchem_shards import generator
from tdn.data.pubchemqcr import ATOM_ENERGIES, STAGES, PubChemQCR
from tdn.data.sources import Notes, Trajectory
from tdn.errors import DataError

MAKE = generator()


@pytest.fixture(scope="module")
def molecules() -> list[Any]:
    return MAKE.relaxations()


@pytest.fixture
def record(molecules: list[Any]) -> dict[str, Any]:
    """A regular record of about ten atoms: four steps of DFT_1st, three of pm3, two of hf, one of DFT_2nd."""
    return MAKE.make_record(np.random.default_rng(0), molecules, 10, 4, smash=False)


def frames_of(record: Any, stage: str = "1st", **options: Any) -> tuple[list[Any], Counter[str]]:
    notes = Notes()
    frames = PubChemQCR("", stage, **options).frames(record, "000000984", notes)
    return frames, notes.drops


def read(source: PubChemQCR) -> tuple[list[Trajectory], Notes]:
    notes = Notes()
    return [trajectory for unit in source.units() for trajectory in source.read(unit, notes)], notes


def test_units_are_those_of_the_published_code(record: dict[str, Any]) -> None:
    (frame, *_), drops = frames_of(record)
    step = record["DFT_1st"][0]
    assert frame.energy == step["energy"] * 27.2114
    gradient = np.array([[atom["dx"], atom["dy"], atom["dz"]] for atom in step["gradient"]])
    np.testing.assert_allclose(frame.forces, -gradient * 27.2114 * 1.8897, rtol=1e-15)
    assert frame.positions.tolist() == [[atom["x"], atom["y"], atom["z"]] for atom in step["coordinates"]]
    assert frame.symbols == [atom["atom"] for atom in step["coordinates"]]
    assert frame.info == {"cid": "000000984", "stage": "DFT_1st", "step": 0}
    assert not frame.pbc.any()
    assert not drops


def test_published_target_is_the_energy_per_atom_above_the_references(record: dict[str, Any]) -> None:
    (frame, *_), _ = frames_of(record)
    references = PubChemQCR("").describe()["reference_energies"]
    above = (frame.energy - sum(references[str(z)] for z in frame.numbers)) / len(frame)
    atoms = sum(ATOM_ENERGIES[int(z)] for z in frame.numbers)
    assert above == pytest.approx((record["DFT_1st"][0]["energy"] - atoms) * 27.2114 / len(frame), abs=1e-10)
    assert -10 < above < 0


def test_codata_constants_differ_as_expected(record: dict[str, Any]) -> None:
    published, codata = frames_of(record)[0][0], frames_of(record, constants="codata")[0][0]
    assert codata.energy / published.energy == pytest.approx(27.211386245988 / 27.2114, rel=1e-12)
    np.testing.assert_allclose(codata.forces, published.forces * (1 + 1.3e-5), atol=2e-6)


@pytest.mark.parametrize(
    ("stage", "count"), [("pm3", 3), ("hf", 2), ("1st", 4), ("1st_smash", 0), ("2nd", 1), ("mixing", 5)]
)
def test_stages(record: dict[str, Any], stage: str, count: int) -> None:
    frames, _ = frames_of(record, stage)
    assert len(frames) == count
    assert {frame.info["stage"] for frame in frames} <= set(STAGES[stage])


def test_smash_records_have_no_charges(molecules: list[Any]) -> None:
    smash = MAKE.make_record(np.random.default_rng(0), molecules, 10, 4, smash=True)
    assert len(frames_of(smash, "1st_smash")[0]) == 4
    smash["DFT_1st"][1]["coordinates"][0]["charge"] = 6.0
    frames, drops = frames_of(smash, "1st_smash")
    assert (len(frames), drops) == (3, {"steps: not by SMASH": 1})


def test_mixing_takes_its_reference_from_the_last_stage_that_has_one(record: dict[str, Any]) -> None:
    record["DFT_2nd"][0]["coordinates"].pop()
    record["DFT_2nd"][0]["gradient"].pop()
    assert frames_of(record, "mixing")[1] == {"steps: another number of atoms than the reference step": 4}
    record["DFT_2nd"][0]["energy"] = None
    assert len(frames_of(record, "mixing")[0]) == 4


# Name in the generator -> frames that are left of four, and why the others are not.
LEFT: dict[str, tuple[int, str]] = {
    "DFT_1st is None, the HF file was copied": (0, "records: stage missing"),
    "no DFT_2nd": (4, ""),
    "DFT_1st is empty": (0, "records: stage missing"),
    "HF copied to DFT_1st": (2, ""),
    "energy None": (3, "steps: no energy"),
    "energy missing in the last step": (3, "steps: no energy"),
    "no energies at all": (0, "records: no step with an energy"),
    "gradient missing": (3, "steps: no gradient"),
    "gradient None": (3, "steps: no gradient"),
    "gradient empty": (3, "steps: no gradient"),
    "gradient too short": (3, "steps: another number of atoms than the reference step"),
    "coordinates missing": (3, "steps: no coordinates"),
    "coordinates too short": (3, "steps: another number of atoms than the reference step"),
    "coordinates and gradient too short": (3, "steps: another number of atoms than the reference step"),
    "NaN energy": (3, "steps: not finite"),
    "NaN gradient": (3, "steps: not finite"),
    "infinite position": (3, "steps: not finite"),
    "NaN in the last step": (0, "steps: not finite"),
    "lithium": (0, "steps: no reference energy of Li"),
    "sodium": (0, "steps: no reference energy of Na"),
    "iodine": (0, "steps: no reference energy of I"),
    "unknown symbol": (0, "steps: unknown symbol 'Xx'"),
    "upper-case symbols": (4, ""),
    "numbers as text": (4, ""),
    "malformed atom": (3, "steps: malformed"),
    "overlapping atoms": (3, "steps: atoms closer than 0.1 Å"),
}


@pytest.mark.parametrize("name", MAKE.IRREGULARITIES)
def test_irregular_records_lose_what_cannot_be_used_and_say_so(name: str, record: dict[str, Any]) -> None:
    MAKE.IRREGULARITIES[name](record)
    frames, drops = frames_of(record)
    left, why = LEFT[name]
    assert len(frames) == left
    assert list(drops) == ([why] if why else [])


@pytest.mark.parametrize("junk", [None, [], {"DFT_1st": 5}, {"DFT_1st": [1, None]}, {"DFT_1st": [{"energy": 1.0}]}])
def test_junk_is_counted(junk: Any) -> None:
    frames, drops = frames_of(junk)
    assert frames == []
    assert sum(drops.values()) == 1


def test_files_and_keys_come_in_the_published_order(tmp_path: Path) -> None:
    MAKE.write_shards(tmp_path, 7, files=3, atoms=3, steps=2)
    trajectories, _ = read(PubChemQCR(str(tmp_path)))
    assert [path.name for path in PubChemQCR(str(tmp_path)).files] == ["Data01.lmdb", "Data02.lmdb", "Data06.lmdb"]
    assert [trajectory.name for trajectory in trajectories] == [f"{984 + 7 * k:09d}" for k in range(7)]
    subset, _ = read(PubChemQCR(str(tmp_path), subset=True))
    assert [trajectory.name for trajectory in subset] == [f"{984 + 7 * k:09d}" for k in (5, 6)]


def test_missing_files_and_unknown_stages_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no LMDB files"):
        PubChemQCR(str(tmp_path)).units()
    MAKE.write_shards(tmp_path, 1, atoms=3, steps=1, subset=False)
    with pytest.raises(DataError, match=r"no Data06\.lmdb"):
        PubChemQCR(str(tmp_path), subset=True).units()
    with pytest.raises(DataError, match="1st_smash"):
        PubChemQCR(str(tmp_path), "3rd")


def test_a_record_that_would_run_code_is_named(tmp_path: Path) -> None:
    pickler = importlib.import_module("pickle")
    with lmdb.open(str(tmp_path / "Data01.lmdb"), subdir=False) as file, file.begin(write=True) as view:
        view.put(b"000000001", gzip.compress(pickler.dumps({"DFT_1st": importlib.import_module("os").system})))
    with pytest.raises(DataError, match=r"Data01\.lmdb, key 000000001: .*posix\.system"):
        read(PubChemQCR(str(tmp_path)))
