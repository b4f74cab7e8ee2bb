"""Frames on disk give the same graphs, batches, errors and weights as frames in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tdn.cli.main import app
from tdn.data.batches import places, prefetched
from tdn.data.convert import convert
from tdn.data.dataset import EdgeBudgetSampler, GraphDataset, Labelled
from tdn.data.frame_files import FrameFiles
from tdn.data.labels import LabelKeys
from tdn.data.lazy import LazyGraphDataset
from tdn.data.reading import read_frames
from tdn.data.store import FrameStore
from tdn.data.trajectory_splits import split_store
from tdn.datasets import organics_path
from tdn.errors import DataError
from tdn.evaluation import evaluate
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.training.config import RunConfig
from tdn.training.run import train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    paths = tuple(str(organics_path(name)) for name in ("valid", "isolated_atoms"))
    store = convert(FrameFiles(paths), tmp_path_factory.mktemp("store") / "organics")
    return split_store(store, "0.5/0.25")


def assert_same(found: Labelled, expected: Labelled) -> None:
    for a, b in zip(found, expected, strict=True):
        for name, value in vars(b).items():
            same = (
                torch.equal(getattr(a, name), value) if isinstance(value, torch.Tensor) else getattr(a, name) == value
            )
            assert same, name


def test_batches_are_those_in_memory(store: FrameStore) -> None:
    view = store.view("train")
    lazy, memory = LazyGraphDataset(view, 4.0), GraphDataset(list(view), 4.0)
    assert_same(lazy.batch([5, 0, 7]), memory.batch([5, 0, 7]))
    assert lazy.mean_atoms == pytest.approx(memory.mean_atoms)
    assert lazy.mean_neighbors == pytest.approx(memory.mean_neighbors, rel=0.1)
    assert lazy.num_edges.sum() == pytest.approx(sum(memory.num_edges), rel=0.1)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_prefetched_batches_come_in_order(store: FrameStore, workers: int) -> None:
    lazy = LazyGraphDataset(store.view(), 4.0)
    sampler = EdgeBudgetSampler(lazy.num_edges, batch_size=4, seed=3)
    wanted = places(sampler, 1, 2)
    made = prefetched(lambda place: lazy.batch(place.indices), (next(wanted) for _ in range(6)), workers)
    for place, batch in made:
        assert place.indices == sampler.batches(place.epoch)[place.batch]
        assert_same(batch, lazy.batch(place.indices))


def test_errors_of_a_worker_reach_the_caller() -> None:
    def load(k: int) -> int:
        if k == 3:
            raise DataError("broken")
        return k

    with pytest.raises(DataError, match="broken"):
        list(prefetched(load, range(10), 2))


def test_evaluation_gives_the_errors_in_memory(store: FrameStore) -> None:
    torch.manual_seed(0)
    shape = TDNConfig(num_channels=4, num_layers=1, radial_hidden=(8,), r_max=4.0)
    potential = Potential(shape, store.reference_energies).double().eval()
    view = store.view("train")
    streamed, whole = evaluate(potential, view, max_edges=300), evaluate(potential, list(view))
    a, b = streamed.to_dict(), whole.to_dict()
    for name in ("energy", "energy_per_atom", "forces"):
        assert a[name] == pytest.approx(b[name], rel=1e-9)
    assert a["force_vector_rmse"] == pytest.approx(b["force_vector_rmse"])
    assert a["stress"] is None
    assert list(a["per_element"]) == list(b["per_element"])
    for symbol, errors in a["per_element"].items():
        assert errors == pytest.approx(b["per_element"][symbol])


def run(data: dict[str, Any], output: Path, **training: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    model = {"lmax": 1, "num_channels": 4, "num_layers": 1, "product_order": 2, "radial_hidden": [8], "r_max": 3.0}
    settings = {"max_steps": 6, "batch_size": 4, "max_edges": None, "tensorboard": False, "compile": False, **training}
    content = {"data": data, "model": model, "training": settings, "output": str(output), "threads": 1}
    result = train(RunConfig.parse(content))
    assert set(result.errors) == {"valid", "test"}
    return load_file(output / "model.tdn")


def test_training_on_a_store_gives_the_weights_of_training_in_memory(store: FrameStore, tmp_path: Path) -> None:
    from ase.io import write

    files = {}
    for part in ("train", "valid", "test"):
        frames = []
        for structure in store.view(part):
            atoms = structure.to_ase()
            atoms.info["REF_energy"], atoms.arrays["REF_forces"] = structure.energy, structure.forces
            frames.append(atoms)
        files[part] = str(tmp_path / f"{part}.extxyz")
        write(files[part], frames)
    files["train"] = [files["train"], str(organics_path("isolated_atoms"))]
    lazy = run({part: f"{store.path}::{part}" for part in files}, tmp_path / "lazy")
    memory = run(files, tmp_path / "memory")
    for name, value in memory.items():
        torch.testing.assert_close(lazy[name], value, rtol=1e-4, atol=1e-6, msg=name)
    resumed = RunConfig.parse({"data": {"train": f"{store.path}::train"}, "output": str(tmp_path / "other")})
    with pytest.raises(DataError, match="name the parts"):
        train(resumed)


def test_commands_take_a_store(store: FrameStore, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "check", f"{store.path}::train", "--json", str(tmp_path / "c.json")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "c.json").read_text())["sets"]["train"]["frames"] == len(store.view("train"))
    assert "checksums of 1 shards are right" in result.output
    with pytest.raises(DataError, match="no stress"):
        read_frames(f"{store.path}::train", required=("stress",))


def test_labels_of_a_store_may_be_left_out(store: FrameStore) -> None:
    frames = read_frames(store.path, LabelKeys(forces="none"), required=("energy",))
    assert "no forces" in str(frames.report)
    for part in (frames.structures, frames.structures[:3], frames.structures.spread(2), frames.structures.select([1])):
        assert part[0].forces is None
        assert part[0].energy is not None
    with pytest.raises(DataError, match="chosen by tdn data convert"):
        read_frames(store.path, LabelKeys(forces="dft_forces"))


def test_sampler_of_a_million_frames_needs_little_memory() -> None:
    """A hundred million frames have to fit into the memory of a node: no Python object for each."""
    import tracemalloc

    sizes = np.random.default_rng(0).integers(200, 1500, size=1_000_000)
    tracemalloc.start()
    batches = EdgeBudgetSampler(sizes, batch_size=64, max_edges=60_000, seed=1).batches(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(sizes)
    assert len(batches) >= 1_000_000 / 64
    assert sum(sizes[batches[3]]) <= 60_000
