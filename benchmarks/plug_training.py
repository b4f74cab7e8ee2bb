"""MACE and NequIP on rMD17 ethanol, with e3nn's tensor products and with ours of shared paths, trained side by side.

    flock /tmp/bench.lock MACE_PYTHON benchmarks/plug_training.py --data FOLDER --package mace
    flock /tmp/bench.lock NEQUIP_PYTHON benchmarks/plug_training.py --data FOLDER --package nequip

The packages need different versions of e3nn, so each command runs with the interpreter of an environment that has its
package and the dependencies of tdn, and writes its part of the JSON. FOLDER holds rmd17_ethanol_{train,test}_01.npz.

Both models see the same batches, a step of one after a step of the other, so times compare whatever else the machine
does. A plain loop for both packages: AdamW, cosine to zero, mean squares of energies and force components, weights 10
and 100, float32. Peak memory is that of a few training steps in a process of its own, above what it held before.
NequIP has the shape of the paper's Tables 5 and 9: L = 2, 4 layers, 64 channels, even parity.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.metadata
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import summarise, write_result
from torch import Tensor, nn

import tdn.plug
from tdn.bench.worker import forget_peak, peak_mib, resident_mib

warnings.filterwarnings("ignore")
RESULTS = Path(__file__).parent / "results"
EV = 1.0 / 23.060547830619026  # kcal/mol
CUTOFF = 5.0
VARIANTS = ("e3nn", "ours")
NAMES = {"mace": ("mace-torch", "e3nn"), "nequip": ("nequip", "e3nn")}
PUBLISHED = {  # Tables 5 and 9: PubChemQCR-S, validation; meV/atom, meV/Å, minutes an epoch
    "NequIP": {"energy": 11.22, "forces": 90.09, "minutes": 7.5},
    "NequIP + CP + PS": {"energy": 11.15, "forces": 92.49, "minutes": 2.0},
}
Predict = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]


class Frames(NamedTuple):
    """Frames of one molecule, eV and Å: numbers `[N]`, positions and forces `[F, N, 3]`, energies `[F]`.

    Energies are above a reference, the mean of the training frames, so that float32 is no limit.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray


class Package(NamedTuple):
    """How to build a model, how to make a batch of frames, and how to get energies and forces from both."""

    build: Callable[[], nn.Module]
    batch: Callable[[np.ndarray], Any]
    predict: Predict
    shape: str
    lr: float


def read_frames(path: Path, count: int) -> Frames:
    with np.load(path, allow_pickle=False) as arrays:
        return Frames(arrays["nuclear_charges"].astype(int), arrays["coords"][:count], EV * arrays["energies"][:count],
                      EV * arrays["forces"][:count])  # fmt: skip


def mace(frames: Frames, channels: int) -> Package:
    from mace import data, modules, tools
    from mace.tools.torch_geometric import Batch

    o3 = importlib.import_module("e3nn.o3")  # after MACE, which sets what lets its old e3nn read its tables
    numbers = sorted(set(frames.numbers.tolist()))
    table = tools.AtomicNumberTable(numbers)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]

    def build() -> nn.Module:
        return modules.ScaleShiftMACE(
            r_max=CUTOFF, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, interaction_cls=interaction,
            interaction_cls_first=interaction, num_interactions=2, num_elements=len(numbers),
            hidden_irreps=o3.Irreps(f"{channels}x0e+{channels}x1o"), MLP_irreps=o3.Irreps("16x0e"),
            gate=nn.functional.silu, atomic_energies=np.zeros(len(numbers)),
            avg_num_neighbors=len(frames.numbers) - 1.0, atomic_numbers=numbers, correlation=3,
            atomic_inter_scale=float(frames.forces.std()), atomic_inter_shift=0.0,
        )  # fmt: skip

    def batch(positions: np.ndarray) -> Any:
        configs = [data.Configuration(frames.numbers, p, properties={}, property_weights={}) for p in positions]
        graphs = [data.AtomicData.from_config(c, z_table=table, cutoff=CUTOFF) for c in configs]
        return Batch.from_data_list(graphs).to_dict()

    def predict(model: nn.Module, inputs: Any) -> tuple[Tensor, Tensor]:
        found = model(dict(inputs), training=model.training)
        return found["energy"], found["forces"]

    return Package(build, batch, predict, f"2 layers, {channels} channels, max_L=1, max_ell=3, correlation 3", 0.01)


def nequip(frames: Frames, channels: int) -> Package:
    from ase import Atoms
    from ase.data import chemical_symbols
    from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    numbers = sorted(set(frames.numbers.tolist()))
    types = torch.tensor([numbers.index(number) for number in frames.numbers])
    symbols = [chemical_symbols[number] for number in numbers]

    def build() -> nn.Module:
        return NequIPGNNModel(
            seed=0, model_dtype="float32", type_names=symbols, r_max=CUTOFF, num_layers=4, l_max=2, parity=False,
            num_features=channels, radial_mlp_depth=2, radial_mlp_width=64, avg_num_neighbors=len(types) - 1.0,
            per_type_energy_scales=float(frames.forces.std()), compile_mode="eager",
            per_type_energy_shifts=dict.fromkeys(symbols, 0.0),
        )  # fmt: skip

    def batch(positions: np.ndarray) -> Any:
        graphs = [compute_neighborlist_(from_ase(Atoms(frames.numbers, p)), r_max=CUTOFF) for p in positions]
        return {**AtomicDataDict.batched_from_list(graphs), AtomicDataDict.ATOM_TYPE_KEY: types.repeat(len(positions))}

    def predict(model: nn.Module, inputs: Any) -> tuple[Tensor, Tensor]:
        found = model(dict(inputs))
        return found[AtomicDataDict.TOTAL_ENERGY_KEY].view(-1), found[AtomicDataDict.FORCE_KEY]

    return Package(build, batch, predict, f"4 layers, {channels} features, l_max 2, even parity", 0.005)


PACKAGES = {"mace": mace, "nequip": nequip}


def build(package: Package, variant: str) -> nn.Module:
    torch.manual_seed(0)
    with tdn.plug.decomposed(rank="exact", share_paths=True) if variant == "ours" else nullcontext():
        return package.build()


class Trainer:
    """A model, its optimiser, and a step of training."""

    def __init__(self, package: Package, model: nn.Module, frames: Frames, steps: int) -> None:
        self.package, self.model, self.frames = package, model, frames
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=package.lr, amsgrad=True, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def step(self, inputs: Any, chosen: np.ndarray) -> float:
        """Loss of a batch, after which the weights are new."""
        energies, forces = self.package.predict(self.model, inputs)
        energy_errors, force_errors = errors(self.frames, chosen, energies, forces)
        loss = 10.0 * energy_errors.square().mean() + 100.0 * force_errors.square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())


def errors(frames: Frames, chosen: np.ndarray, energies: Tensor, forces: Tensor) -> tuple[Tensor, Tensor]:
    wanted = torch.as_tensor(frames.energies[chosen]).to(energies.dtype)
    wanted_forces = torch.as_tensor(frames.forces[chosen]).to(forces.dtype)
    return energies - wanted, forces - wanted_forces.view_as(forces)


def batches(frames: int, size: int, steps: int) -> Iterator[np.ndarray]:
    rng, order = np.random.default_rng(0), np.empty(0, dtype=int)
    for _ in range(steps):
        if len(order) < size:
            order = rng.permutation(frames)
        yield order[:size]
        order = order[size:]


def test_errors(trainer: Trainer, frames: Frames, size: int) -> dict[str, float]:
    trainer.model.eval()
    found = []
    for chosen in np.array_split(np.arange(len(frames.energies)), -(-len(frames.energies) // size)):
        energies, forces = trainer.package.predict(trainer.model, trainer.package.batch(frames.positions[chosen]))
        found.append([e.detach() for e in errors(frames, chosen, energies, forces)])
    energy_errors, force_errors = (torch.cat(part) for part in zip(*found, strict=True))
    return {"energy_mae_mev": round(1e3 * float(energy_errors.abs().mean()), 2),
            "forces_mae_mev_a": round(1e3 * float(force_errors.abs().mean()), 2)}  # fmt: skip


def train(package: Package, data: tuple[Frames, Frames], steps: int, size: int) -> dict[str, Any]:
    frames, test = data
    trainers = {name: Trainer(package, build(package, name), frames, steps) for name in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for k, chosen in enumerate(batches(len(frames.energies), size, steps)):
        inputs = package.batch(frames.positions[chosen])
        losses = {}
        for name, trainer in trainers.items():
            start = time.perf_counter()
            losses[name] = trainer.step(inputs, chosen)
            times[name].append(1e3 * (time.perf_counter() - start))
        if (k + 1) % 50 == 0:
            means = ", ".join(f"{name} loss {losses[name]:.4f}, {np.median(times[name]):.0f} ms" for name in VARIANTS)
            print(f"step {k + 1}: {means}", flush=True)
    speed = summarise({name: np.array(values[5:]) for name, values in times.items()}, "ours")
    return {
        name: {**speed[name], **test_errors(trainer, test, 4 * size),
               "parameters": sum(p.numel() for p in trainer.model.parameters())}
        for name, trainer in trainers.items()
    }  # fmt: skip


def peak(package: Package, frames: Frames, variant: str, size: int) -> float:
    """MiB of a few training steps above what the process held before."""
    trainer = Trainer(package, build(package, variant), frames, 6)
    # First a few steps of one frame: modules that load late, generated code and the optimiser's state are not counted.
    for count in (1, size):
        chosen = np.arange(count)
        inputs = package.batch(frames.positions[chosen])
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        idle = resident_mib()
        forget_peak()
        for _ in range(3):
            trainer.step(inputs, chosen)
    return round(peak_mib() - idle, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--package", choices=list(PACKAGES), required=True)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--test-frames", type=int, default=200)
    parser.add_argument("--memory", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=RESULTS / "plug_training.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts = {"train": 950, "test": arguments.test_frames}
    data = [read_frames(arguments.data / f"rmd17_ethanol_{part}_01.npz", count) for part, count in counts.items()]
    data = [frames._replace(energies=frames.energies - data[0].energies.mean()) for frames in data]
    package = PACKAGES[arguments.package](data[0], arguments.channels)
    if arguments.memory:
        print(peak(package, data[0], arguments.memory, arguments.batch))
        return
    rows = train(package, (data[0], data[1]), arguments.steps, arguments.batch)
    for name in VARIANTS:
        command = [sys.executable, *sys.argv, "--memory", name]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        rows[name]["peak_mib"] = float(done.stdout.split()[-1])
    known = json.loads(arguments.json.read_text(encoding="utf-8"))["packages"] if arguments.json.exists() else {}
    settings = {"shape": package.shape, "lr": package.lr, "steps": arguments.steps, "batch": arguments.batch,
                "train_frames": 950, "test_frames": arguments.test_frames, "dtype": "float32", "seed": 0}  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in NAMES[arguments.package]}
    known[arguments.package] = {"settings": settings, "versions": versions, "variants": rows}
    write_result(arguments.json, "python benchmarks/plug_training.py --data FOLDER --package mace  # and nequip",
                 {"packages": known, "published": PUBLISHED})  # fmt: skip
    for name, row in rows.items():
        print(name, row)


if __name__ == "__main__":
    main()
