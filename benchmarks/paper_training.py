"""Short training runs on the shipped molecules, and what `paper_twins.py` and `paper_fixes.py` measure of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import mean_over_seeds, write_result

from tdn import load_config, load_model, train
from tdn.checks.probes import transformed
from tdn.cp.couplings import random_rotations
from tdn.data.dataset import GraphDataset
from tdn.data.reading import read_frames
from tdn.datasets import organics_path
from tdn.evaluation.evaluate import predict
from tdn.models.potential import Potential
from tdn.structure import Structure

SMALL = {"architecture": "PaperTDN", "num_channels": 64, "num_layers": 3, "num_gaussians": 64}
# Twice as fast as at the published rate on so few steps; forces weigh more as they are learned last.
PAPER_TRAINING = {"lr": 2e-3, "energy_weight": 1.0, "forces_weight": 10.0}


def train_small(folder: Path, model: Mapping[str, Any], seed: int, steps: int) -> tuple[Path, dict[str, Any]]:
    """Train on the shipped molecules: the model file, and the test errors."""
    training = PAPER_TRAINING if model["architecture"] == "PaperTDN" else {}
    files = f"[{organics_path('train')}, {organics_path('isolated_atoms')}]"
    settings = [f"train={files}", f"valid={organics_path('valid')}", f"test={organics_path('test')}"]
    settings += [f"output={folder}/run", "threads=1", f"seed={seed}", f"max_steps={steps}", "training.compile=false"]
    settings += ["training.batch_size=8", "training.tensorboard=false", "device=cpu"]
    settings += [f"model.{key}={json.dumps(value)}" for key, value in model.items()]
    settings += [f"training.{key}={value}" for key, value in training.items()]
    result = train(load_config(None, settings))
    if result.signal is not None:
        raise SystemExit("interrupted: run the same command to go on")
    table = result.errors["test"]
    assert table.energy_per_atom is not None
    assert table.forces is not None
    return result.model_path, {
        "energy_mae_mev_per_atom": table.energy_per_atom.mae,
        "forces_mae_mev_per_ang": table.forces.mae,
        "forces_rmse_mev_per_ang": table.forces.rmse,
    }


def equivariance_error(path: Path, turns: int = 4) -> dict[str, float]:
    """What random rotations of the test molecules change.

    Root mean square of the change of the energy per atom over the spread of the predicted energies per atom above the
    references, and of `F(R x) - R F(x)` over that of the forces; float32, as trained.
    """
    potential = load_model(path)
    structures = list(read_frames(organics_path("test")).structures)
    atoms = np.array([len(structure) for structure in structures])
    references = np.array([reference_energy(potential, structure) for structure in structures])
    still = predictions(potential, structures)
    spread = np.std([(p.energy - r) / n for p, r, n in zip(still, references, atoms, strict=True)])
    magnitude = np.mean(np.concatenate([p.forces for p in still]) ** 2) ** 0.5
    energy, forces = [], []
    for matrix in random_rotations(turns, np.random.default_rng(0)):
        turned = predictions(potential, [transformed(structure, matrix) for structure in structures])
        for first, second, n in zip(still, turned, atoms, strict=True):
            energy.append((second.energy - first.energy) / n)
            forces.append(second.forces - first.forces @ matrix.T)
    return {
        "rotation_energy": float(np.mean(np.square(energy)) ** 0.5 / spread),
        "rotation_forces": float(np.mean(np.concatenate(forces) ** 2) ** 0.5 / magnitude),
    }


def reference_energy(potential: Potential, structure: Structure) -> float:
    """Sum of the reference energies, eV."""
    index = potential.element_index[torch.as_tensor(structure.numbers)]
    return float(potential.reference_energies[index].sum())


def predictions(potential: Potential, structures: list[Structure]):
    """Of every structure, in order."""
    return predict(potential, GraphDataset(structures, potential.r_max))


def run_all(
    jobs: Iterable[tuple[str, Mapping[str, Any], int]], steps: int, path: Path, command: str, extra: Any
) -> dict[str, dict[str, Any]]:
    """Train every (name, model, seed) that the file does not hold yet, and write the file after each.

    Args:
        jobs: In the order of training.
        steps: Of each.
        path: JSON.
        command: That measures it again.
        extra: More to measure: takes the model file, returns numbers by name.
    """
    runs: dict[str, dict[str, Any]] = {}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        runs = found["runs"] if found["steps"] == steps else {}
    for name, model, seed in jobs:
        key = f"{name} seed {seed}"
        if key in runs:
            continue
        with tempfile.TemporaryDirectory() as folder:
            model_path, errors = train_small(Path(folder), model, seed, steps)
            runs[key] = {"variant": name, "seed": seed, **errors, **extra(model_path)}
        print(key, {k: round(v, 6) for k, v in runs[key].items() if isinstance(v, float)}, flush=True)
        content = {"steps": steps, "batch_size": 8, "runs": runs, "summary": mean_over_seeds(runs)}
        write_result(path, command, content, 1)
    return runs
