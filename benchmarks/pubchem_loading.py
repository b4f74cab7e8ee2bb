"""Frames a second from PubChemQCR: a frame store beside the public loader's access pattern; the converter; batches.

    python benchmarks/pubchem_loading.py --trajectories 2000

The shards are synthetic, in the exact format (`scripts/make_pubchemqcr.py`). For every frame, the public loader reads
the record of the whole trajectory, decompresses and unpickles it, and makes one frame of it; `Pattern` does that and
nothing more, with `pickle.loads`, which is faster than our own reader. Frames are random, and the two take turns.
"""

from __future__ import annotations

import argparse
import gzip
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from common import interleaved_times, write_result

from tdn.data.batches import prefetched
from tdn.data.convert import convert
from tdn.data.lazy import LazyGraphDataset
from tdn.data.pubchemqcr import PubChemQCR
from tdn.data.store import FrameStore
from tdn.data.trajectory_splits import split_store
from tdn.models.architectures import build_potential
from tdn.reproduce.pubchemqcr import run_config
from tdn.training.loss import residuals

ROOT = Path(__file__).parents[1]
HARTREE, BOHR = 27.2114, 1.8897
PAPER_GPU = 770.8  # structures a second, Table 4 of the paper: its network at L = 1, batches of 128, one A100


class Pattern:
    """One frame by what the public loader does for it."""

    def __init__(self, path: Path) -> None:
        self.environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
        with self.environment.begin() as view:
            self.keys = [bytes(key) for key in view.cursor().iternext(keys=True, values=False)]

    def read(self, trajectory: int, step: int) -> tuple[torch.Tensor, float, torch.Tensor]:
        """Positions, energy and forces in the units of the package."""
        with self.environment.begin() as view:
            record = pickle.loads(gzip.decompress(bytes(view.get(self.keys[trajectory]) or b"")))
        frame = record["DFT_1st"][step]
        positions = torch.tensor([[atom["x"], atom["y"], atom["z"]] for atom in frame["coordinates"]])
        slopes = torch.tensor([[atom["dx"], atom["dy"], atom["dz"]] for atom in frame["gradient"]])
        return positions, frame["energy"] * HARTREE, slopes * (-HARTREE * BOHR)


def random_access(shard: Path, store: FrameStore, frames: int, rounds: int, seed: int) -> dict[str, Any]:
    """Frames a second of both, on the same frames in turns."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(store), frames, replace=False).tolist()
    starts = store.trajectory_starts
    owners = (np.searchsorted(starts, chosen, side="right") - 1).tolist()
    places = [(k, frame - int(starts[k])) for k, frame in zip(owners, chosen, strict=True)]
    pattern = Pattern(shard)
    for frame, place in zip(chosen[:20], places[:20], strict=True):
        positions, energy, _ = pattern.read(*place)
        assert abs(energy - (store[frame].energy or 0.0)) < 1e-6, "the two read different frames"
        assert np.allclose(positions.numpy(), store[frame].positions, atol=1e-5)

    def ours() -> None:
        for frame in chosen:
            store[frame]

    def theirs() -> None:
        for place in places[: max(frames // 50, 10)]:
            pattern.read(*place)

    times = interleaved_times({"store": ours, "pattern": theirs}, rounds)
    rates = {"store": frames / times["store"] * 1e3, "pattern": max(frames // 50, 10) / times["pattern"] * 1e3}
    return {
        **{f"{name}_frames_per_s": round(float(np.median(values)), 1) for name, values in rates.items()},
        "ratio": round(float(np.median(rates["store"] / rates["pattern"])), 1),
        "ratio_least": round(float((rates["store"] / rates["pattern"]).min()), 1),
    }


def conversion(shards: Path, folder: Path, workers: int) -> dict[str, float]:
    """Throughput of the converter, start of its processes included."""
    start = time.perf_counter()
    store = convert(PubChemQCR(str(shards), "1st", True), folder, dtype="float32", workers=workers)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return {
        "seconds": round(seconds, 2),
        "frames_per_s": round(len(store) / seconds, 1),
        "trajectories_per_s": round(store.num_trajectories / seconds, 1),
        "store_megabytes": round(size / 1e6, 1),
    }


def batches(store: FrameStore, count: int, batch_size: int, workers: int) -> dict[str, float]:
    """Batches a second with their neighbours, and the paper's training step on one of them, uncompiled, on this CPU."""
    config = run_config("tdn", Path("run"), subset=True, overrides=(), options={})
    data = LazyGraphDataset(store.view("train"), config.model.r_max)
    order = np.random.default_rng(0).integers(len(data), size=(count, batch_size)).tolist()
    start = time.perf_counter()
    for _, made in prefetched(data.batch, order, workers):
        graph, targets = made
    seconds = (time.perf_counter() - start) / count
    torch.manual_seed(0)
    potential = build_potential(config.model, store.reference_energies, 1.0, {})
    start = time.perf_counter()
    found = residuals(potential.to(torch.float32)(graph), graph, targets)
    (found.energy_per_atom.abs().mean() + found.force_norms.mean()).backward()
    step = time.perf_counter() - start
    return {
        "batch_size": batch_size,
        "threads": workers,
        "batches_per_s": round(1 / seconds, 2),
        "frames_per_s": round(batch_size / seconds, 1),
        "over_paper_gpu": round(batch_size / seconds / PAPER_GPU, 1),
        "cpu_step_s": round(step, 2),
        "batches_made_in_a_step": round(step / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=2000)
    parser.add_argument("--atoms", type=int, default=37)
    parser.add_argument("--steps", type=int, default=37)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument(
        "--shards", type=Path, help="Folder for the shards, kept; made anew in a temporary one without."
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/pubchem_loading.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        shards = arguments.shards or Path(temporary) / "shards"
        if not (shards / "Data06.lmdb").is_file():
            sizes = [f"--{name}={getattr(arguments, name)}" for name in ("trajectories", "atoms", "steps")]
            make = [sys.executable, str(ROOT / "scripts/make_pubchemqcr.py"), str(shards), *sizes]
            subprocess.run(make, check=True)
        converted = {f"{n} workers": conversion(shards, Path(temporary) / f"store-{n}", n) for n in (1, 2)}
        store = split_store(FrameStore(Path(temporary) / "store-1"), "subset")
        content = {
            "trajectories": store.num_trajectories,
            "frames": len(store),
            "mean_atoms": round(store.index["atoms"] / len(store), 1),
            "shard_megabytes": round((shards / "Data06.lmdb").stat().st_size / 1e6, 1),
            "random_access": random_access(shards / "Data06.lmdb", store, min(5000, len(store)), arguments.rounds, 0),
            "conversion": converted,
            "batches": {f"{n} threads": batches(store, arguments.batches, 64, n) for n in (1, 2)},
        }
    command = f"python benchmarks/pubchem_loading.py --trajectories {arguments.trajectories}"
    write_result(arguments.json, command, content)
    for name in ("random_access", "conversion", "batches"):
        print(name, content[name])


if __name__ == "__main__":
    main()
