"""Frame stores: nothing is lost, whatever the number of workers, kills and moves; splits are those published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pubchem_shards import generator
from tdn.cli.main import app
from tdn.data.convert import convert
from tdn.data.frame_files import FrameFiles
from tdn.data.pubchemqcr import PubChemQCR
from tdn.data.reading import read_frames
from tdn.data.shards import map_arrays, map_shard, save_arrays, structure_at, write_shard
from tdn.data.sources import Trajectory, open_source
from tdn.data.store import FrameStore, is_store
from tdn.data.trajectory_splits import read_split, shuffled_split, split_store
from tdn.datasets import organics_path
from tdn.errors import DataError
from tdn.structure import Structure


def assert_same(found: Structure, expected: Structure) -> None:
    for field in fields(Structure):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


def crystal(rng: np.random.Generator) -> Structure:
    return Structure(
        numbers=np.array([26, 8, 118]),
        positions=rng.normal(size=(3, 3)) * 5,
        cell=np.eye(3) * 7 + rng.normal(size=(3, 3)),
        pbc=np.array([True, True, True]),
        energy=float(rng.normal()) * 1e5,
        forces=rng.normal(size=(3, 3)),
        stress=rng.normal(size=(3, 3)),
        info={"config_type": "bulk", "n": 3, "x": 0.1, "flag": True, "é": "ü"},
        fixed=np.array([True, False, False]),
        tags=np.array([0, 1, 2]),
    )


def test_every_field_survives_bit_for_bit(tmp_path: Path) -> None:
    full = crystal(np.random.default_rng(0))
    bare = Structure(np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    frames = [full, bare, replace(full, stress=None, fixed=None), replace(full, forces=None, tags=None, energy=None)]
    write_shard(tmp_path / "a", [Trajectory("a", frames[:3]), Trajectory("b", frames[3:])], "float64", {})
    arrays, metadata = map_arrays(tmp_path / "a")
    assert json.loads(metadata["names"]) == ["a", "b"]
    assert arrays["trajectories"].tolist() == [0, 3, 4]
    for k, frame in enumerate(frames):
        assert_same(structure_at(arrays, k), frame)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qcr")
    generator().write_shards(folder, 60, files=3, atoms=8, steps=3, irregular=True)
    return folder


@pytest.fixture(scope="module")
def store(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    return convert(PubChemQCR(str(shards)), tmp_path_factory.mktemp("store") / "s")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_store_holds_the_trajectories_of_its_source(shards: Path, store: FrameStore) -> None:
    from tdn.data.sources import Notes

    notes, source = Notes(), PubChemQCR(str(shards))
    trajectories = [t for unit in source.units() for t in source.read(unit, notes)]
    assert store.trajectory_names() == [t.name for t in trajectories]
    assert np.diff(store.trajectory_starts).tolist() == [len(t.frames) for t in trajectories]
    for k, frame in enumerate(frame for t in trajectories for frame in t.frames):
        assert_same(store[k], frame)
        assert store.num_atoms[k] == len(frame)
    assert store.index["drops"] == dict(sorted(notes.drops.items()))
    assert store.reference_energies[6] == -37.8462799513 * 27.2114
    assert store.verify() == []


def test_workers_write_the_same_bytes(shards: Path, store: FrameStore, tmp_path: Path) -> None:
    heard: list[Any] = []
    convert(PubChemQCR(str(shards)), tmp_path / "s", workers=2, progress=lambda *a: heard.append(a))
    assert contents(tmp_path / "s") == contents(store.path)
    assert heard[0] == (0, 3, 0)
    assert heard[-1] == (3, 3, len(store))


def test_interrupted_conversion_goes_on(shards: Path, store: FrameStore, tmp_path: Path, monkeypatch) -> None:
    """A kill leaves shards without notes, notes without shards, or half a shard under a temporary name."""
    source = PubChemQCR(str(shards))
    original = PubChemQCR.read

    def killed(self: Any, unit: Any, notes: Any) -> Any:
        for k, trajectory in enumerate(original(self, unit, notes)):
            if unit.path.endswith("Data02.lmdb") and k == 3:
                raise KeyboardInterrupt
            yield trajectory

    monkeypatch.setattr(PubChemQCR, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "s")
    with pytest.raises(DataError, match="no finished frame store"):
        FrameStore(tmp_path / "s")
    (tmp_path / "s" / "shard-00002.safetensors").write_bytes(b"half")
    read: list[str] = []
    monkeypatch.setattr(
        PubChemQCR, "read", lambda self, unit, notes: read.append(unit.path) or original(self, unit, notes)
    )
    convert(source, tmp_path / "s")
    assert [Path(path).name for path in read] == ["Data02.lmdb", "Data06.lmdb"]
    assert contents(tmp_path / "s") == contents(store.path)


KILLED = """
import os, signal, sys
from pathlib import Path
from tdn.data import shards
from tdn.data.convert import convert
from tdn.data.pubchemqcr import PubChemQCR

source, destination, where = sys.argv[1:]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)

def save_half(path, arrays, metadata, save=shards.save_arrays):
    if path.name == "shard-00002.safetensors":
        with shards.atomic_write(path) as temporary:
            temporary.write_bytes(b"half")
            kill()
    save(path, arrays, metadata)

if __name__ == "__main__":
    if where == "within a shard":
        shards.save_arrays = save_half
        convert(PubChemQCR(source), destination)
    convert(PubChemQCR(source), destination, workers=2, progress=lambda done, *_: done == 2 and kill())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("where", ["within a shard", "with two workers"])
def test_killed_conversion_goes_on_to_the_same_bytes(where: str, tmp_path: Path) -> None:
    """Nothing is lost, nothing comes twice, no temporary file and no worker stays behind."""
    generator().write_shards(tmp_path / "qcr", 30, files=5, atoms=8, steps=3, irregular=True)
    (tmp_path / "killed.py").write_text(KILLED)
    source, whole = PubChemQCR(str(tmp_path / "qcr")), tmp_path / "whole"
    convert(source, whole)
    command = [sys.executable, str(tmp_path / "killed.py"), source.root, str(tmp_path / "s"), where]
    # Workers hold the pipes of the output: that this returns at all shows that they end, too.
    result = subprocess.run(command, capture_output=True, timeout=60)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    left = contents(tmp_path / "s")
    assert "index.json" not in left
    if where == "within a shard":
        done = sorted(name for name in left if name.endswith(".safetensors"))
        assert done == ["shard-00000.safetensors", "shard-00001.safetensors"]
        assert any(name.endswith(".tmp") for name in left)
    store = convert(source, tmp_path / "s")
    assert contents(tmp_path / "s") == contents(whole)
    assert store.verify() == []
    names = store.trajectory_names()
    assert len(set(names)) == len(names)


class Killed(PubChemQCR):
    """Reading its second file kills the process, as running out of memory does."""

    def read(self, unit: Any, notes: Any) -> Any:
        if unit.path.endswith("Data02.lmdb"):
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().read(unit, notes)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_worker_that_dies_is_an_error_that_says_so(shards: Path, store: FrameStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="A worker was killed"):
        convert(Killed(str(shards)), tmp_path / "s", workers=2)
    convert(PubChemQCR(str(shards)), tmp_path / "s")
    assert contents(tmp_path / "s") == contents(store.path)


def test_another_conversion_is_not_mixed_in(shards: Path, tmp_path: Path) -> None:
    convert(PubChemQCR(str(shards)), tmp_path / "s")
    with pytest.raises(DataError, match="another source"):
        convert(PubChemQCR(str(shards), "hf"), tmp_path / "s")
    with pytest.raises(DataError, match="another dtype"):
        convert(PubChemQCR(str(shards)), tmp_path / "s", dtype="float32")
    assert convert(PubChemQCR(str(shards), "hf"), tmp_path / "s", overwrite=True)[0].info["stage"] == "hf"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(DataError, match="no frame store"):
        convert(PubChemQCR(str(shards)), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_damage_is_found(shards: Path, tmp_path: Path) -> None:
    store = convert(PubChemQCR(str(shards)), tmp_path / "s")
    path = tmp_path / "s" / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert store.verify() == ["shard-00001.safetensors has changed since it was written"]
    path.write_bytes(content[:-8])
    fresh = FrameStore(tmp_path / "s")
    with pytest.raises(DataError, match="is missing or not of"):
        fresh[int(fresh.index["shards"][0]["frames"])]


def test_arrays_that_do_not_belong_together_are_refused(store: FrameStore, tmp_path: Path) -> None:
    arrays, _ = map_arrays(store.path / "shard-00000.safetensors")
    offsets = np.array(arrays["offsets"])
    backwards = offsets[[0, 2, 1, *range(3, len(offsets))]]
    for changes in (
        {"offsets": offsets[:-1]},
        {"offsets": offsets * 2},
        {"offsets": backwards},
        {"positions": arrays["positions"][1:]},
        {"energy": arrays["energy"][:0]},
    ):
        save_arrays(tmp_path / "shard", {**arrays, **changes})
        with pytest.raises(DataError, match="convert again"):
            map_shard(tmp_path / "shard")
    save_arrays(tmp_path / "shard", {name: array for name, array in arrays.items() if name != "forces"})
    with pytest.raises(DataError, match="forces"):
        map_shard(tmp_path / "shard")


def test_frames_of_a_store_pass_the_checks_that_reading_them_skips(store: FrameStore) -> None:
    for k in range(len(store)):
        replace(store[k])  # constructs, and so checks


def test_single_precision_rounds_and_nothing_else(shards: Path, store: FrameStore, tmp_path: Path) -> None:
    small = convert(PubChemQCR(str(shards)), tmp_path / "s", dtype="float32")
    for k in (0, len(store) - 1):
        assert small[k].energy == store[k].energy
        np.testing.assert_array_equal(small[k].positions, store[k].positions.astype(np.float32))
    with pytest.raises(IndexError):
        small[len(small)]


def test_published_shuffles() -> None:
    """The numbers that Python's and PyTorch's generators give for seed 42, as the published code uses them."""
    subset = shuffled_split(10, (0.6, 0.2))
    assert [part.tolist() for part in subset.values()] == [[7, 3, 2, 8, 5, 6], [9, 4], [0, 1]]
    full = shuffled_split(10, (0.8, 0.1))
    assert [part.tolist() for part in full.values()] == [[7, 3, 2, 8, 5, 6, 9, 4], [0], [1]]
    frames = shuffled_split(10, (0.6, 0.2), one_frame=True)
    assert [part.tolist() for part in frames.values()] == [[2, 6, 1, 8, 4, 5], [0, 9], [3, 7]]


def test_frames_of_a_part_are_whole_trajectories_in_shuffled_order(store: FrameStore) -> None:
    split_store(store, "subset")
    fresh = FrameStore(store.path)
    expected = [
        range(fresh.trajectory_starts[t], fresh.trajectory_starts[t + 1])
        for t in shuffled_split(fresh.num_trajectories, (0.6, 0.2))["train"]
    ]
    assert fresh.view("train").frames.tolist() == [k for frames in expected for k in frames]
    frames = [set(fresh.view(part).frames.tolist()) for part in ("train", "valid", "test")]
    assert sum(len(part) for part in frames) == len(set.union(*frames)) == len(fresh)


def test_statistics_are_those_of_the_frames(store: FrameStore) -> None:
    fresh = split_store(store, "0.5/0.25")
    view, found = fresh.view("valid"), fresh.index["statistics"]["valid"]
    forces = np.concatenate([frame.forces for frame in view])
    references = fresh.reference_energies
    above = [(frame.energy - sum(references[int(z)] for z in frame.numbers)) / len(frame) for frame in view]
    assert found["frames"] == len(view)
    assert found["atoms"] == len(forces)
    assert found["elements"] == sorted({int(z) for frame in view for z in frame.numbers})
    assert found["force_rms_ev_per_angstrom"] == pytest.approx(np.sqrt(np.square(forces).mean()))
    assert found["energy_per_atom_mean_ev"] == pytest.approx(np.mean(above))
    assert found["energy_per_atom_std_ev"] == pytest.approx(np.std(above), rel=1e-6)


def test_one_frame_of_each_trajectory(store: FrameStore) -> None:
    view = split_store(store, "one-frame:subset").view("train")
    chosen = np.searchsorted(view.store.trajectory_starts, view.frames, side="right") - 1
    assert chosen.tolist() == shuffled_split(store.num_trajectories, (0.6, 0.2), one_frame=True)["train"].tolist()


def test_split_files_name_trajectories_or_number_them(tmp_path: Path) -> None:
    names = [f"{cid:09d}" for cid in (3, 17, 984, 15111)]
    for lists in (
        {"train": ["000000984", "000015111"], "val": ["000000003"], "test": ["000000017"]},
        {"train": [984, 15111], "valid": [3], "test": [17]},
        {"train": [2, 3], "validation": [0], "test": [1]},
    ):
        (tmp_path / "split.json").write_text(json.dumps(lists))
        parts = read_split(tmp_path / "split.json", names)
        assert {name: part.tolist() for name, part in parts.items()} == {"train": [2, 3], "valid": [0], "test": [1]}
    for wrong in ({"train": [2]}, {"train": ["7"], "val": [], "test": []}, {"train": [3], "val": [3], "test": []}, [1]):
        (tmp_path / "split.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError):
            read_split(tmp_path / "split.json", names)


@pytest.mark.parametrize("rule", ["0.9", "abc", "0.9/0.9", "0/1", "none.json"])
def test_senseless_splits_are_refused(store: FrameStore, rule: str) -> None:
    with pytest.raises(DataError):
        split_store(store, rule)


def test_files_of_frames_become_a_store_with_their_isolated_atoms(tmp_path: Path) -> None:
    paths = [str(organics_path(name)) for name in ("valid", "isolated_atoms")]
    store = convert(open_source("auto", paths, {"group_key": "molecule"}), tmp_path / "s")
    frames = read_frames(paths)
    assert len(store) == len(frames)
    assert store.reference_energies == frames.isolated_atoms
    assert store.num_trajectories == len({s.info["molecule"] for s in frames.structures})
    expected = {(s.info["molecule"], s.info["config_type"], s.info["step"]): s for s in frames.structures}
    for frame in store.view():
        assert_same(frame, expected[frame.info["molecule"], frame.info["config_type"], frame.info["step"]])


def test_wrong_formats_and_options_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No format 'qm9'"):
        open_source("qm9", ["x"], {})
    with pytest.raises(DataError, match="no option stage; it has"):
        open_source("frames", ["x"], {"stage": "hf"})
    with pytest.raises(DataError, match="one folder or file, got 2"):
        open_source("pubchemqcr", ["x", "y"], {})
    with pytest.raises(DataError, match="Nothing could be read"):
        convert(FrameFiles((str(organics_path("isolated_atoms")),)), tmp_path / "s")


def test_command(shards: Path, tmp_path: Path) -> None:
    arguments = [
        "data",
        "convert",
        str(shards),
        str(tmp_path / "s"),
        "--subset",
        "--stage",
        "mixing",
        "--split",
        "subset",
    ]
    result = CliRunner().invoke(app, [*arguments, "--precision", "float32", "--json", str(tmp_path / "j.json")])
    assert result.exit_code == 0, result.output
    assert "left out, steps: " in result.output
    assert is_store(f"{tmp_path / 's'}::train")
    written = json.loads((tmp_path / "j.json").read_text())
    assert written["source"] == {"format": "pubchemqcr", "stage": "mixing", "subset": True, "constants": "published"}
    assert set(written["statistics"]) == {"train", "valid", "test"}
