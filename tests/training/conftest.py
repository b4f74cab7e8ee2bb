"""Clusters with Morse forces: small enough to train on in a second, with labels that can be learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.morse import MorsePotential
from ase.io import write

from tdn.training.config import RunConfig


def morse_clusters(count: int, seed: int = 0) -> list[Atoms]:
    """Bent chains of three to five atoms of H and C."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        size = 3 + k % 3
        positions = np.stack([1.1 * np.arange(size), 0.5 * (np.arange(size) % 2), np.zeros(size)], axis=1)
        atoms = Atoms("CHCHC"[:size], positions=positions + rng.normal(scale=0.1, size=(size, 3)))
        atoms.calc = MorsePotential(epsilon=1.0, r0=1.2, rho0=3.0, rcut1=4.0, rcut2=4.5)
        atoms.info["REF_energy"] = atoms.get_potential_energy() - 10.0 * size
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.info["molecule"] = f"chain-{size}"
        atoms.calc = None
        frames.append(atoms)
    return frames


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extended-XYZ file of 24 labelled clusters."""
    path = tmp_path_factory.mktemp("clusters") / "clusters.extxyz"
    write(path, morse_clusters(24))
    return path


def run_content(data: Path, output: Path, **training: Any) -> dict[str, Any]:
    """A run with a tiny network, as plain values."""
    model = {"lmax": 1, "num_channels": 4, "num_layers": 2, "product_order": 2, "radial_hidden": [8], "r_max": 4.0}
    defaults = {
        "max_steps": 12,
        "batch_size": 4,
        "warmup_steps": 2,
        "validate_every": 5,
        "tensorboard": False,
        "compile": False,
    }
    return {
        "data": {"train": str(data), "valid": 4},
        "model": model,
        "training": {**defaults, **training},
        "output": str(output),
        "threads": 1,
    }


def run_config(data: Path, output: Path, **training: Any) -> RunConfig:
    """The same, validated."""
    return RunConfig.parse(run_content(data, output, **training))


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model file."""
    from safetensors.torch import load_file

    return load_file(model)


def assert_same_bits(first: Path, second: Path) -> None:
    """Two model files hold the same tensors, bit for bit."""
    a, b = weights_of(first), weights_of(second)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different
