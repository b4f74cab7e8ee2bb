"""Two processes take the same path as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from ase.io import write

from tdn.errors import ConfigError
from tdn.training.config import RunConfig
from tdn.training.distributed import Processes
from tdn.training.loop import batch_sampler
from tdn.training.prepare import prepare
from tdn.training.run import train

from .conftest import morse_clusters, run_config, run_content, weights_of

# Dropout is a random choice of each process, so there is none.
PAPER = {
    **{"architecture": "PaperTDN", "lmax": 1, "num_channels": 8, "num_layers": 1, "num_heads": 2, "num_gaussians": 8},
    **{"r_max": 4.0, "dropout": 0.0, "energy": "per_structure", "bond_order_lmax": 3},
}
NETWORKS = {
    "flagship": ({}, {}),
    "paper": (PAPER, {"loss": "l1", "energy_per": "structure", "warmup_epochs": 1, "warmup_factor": 0.2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_two_processes_train_the_same_potential_as_one(network: str, tmp_path: Path):
    # Frames differ in size and some have no forces, so that averaging the processes' own means would be wrong.
    frames = morse_clusters(24)
    for atoms in frames[::5]:
        del atoms.arrays["REF_forces"]
    write(tmp_path / "data.extxyz", frames)
    model, training = NETWORKS[network]
    content = {**run_content(tmp_path / "data.extxyz", tmp_path / "one", **training), "dtype": "float64"}
    content["data"]["allow_partial"] = True
    content["model"] = model or content["model"]
    train(RunConfig.parse(content))
    config = tmp_path / "two.yaml"
    config.write_text(yaml.safe_dump({**content, "output": str(tmp_path / "two")}))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "tdn.cli.main", "train", str(config), "--device", "cpu"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    one, two = weights_of(tmp_path / "one" / "model.tdn"), weights_of(tmp_path / "two" / "model.tdn")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-9, atol=1e-9)


def test_the_processes_share_the_batches_of_one(clusters: Path, tmp_path: Path):
    config = run_config(clusters, tmp_path / "run")
    problem = prepare(config, lambda _: None, lambda _: None)
    whole = batch_sampler(problem.train, config.training, Processes(), seed=7).batches(3)
    parts = [batch_sampler(problem.train, config.training, Processes(k, 2), seed=7).batches(3) for k in range(2)]
    assert whole == [a + b for a, b in zip(*parts, strict=True)]


def test_a_batch_that_cannot_be_shared_is_refused(clusters: Path, tmp_path: Path):
    config = run_config(clusters, tmp_path / "run")
    problem = prepare(config, lambda _: None, lambda _: None)
    with pytest.raises(ConfigError, match="multiple of their number, 3"):
        batch_sampler(problem.train, config.training, Processes(0, 3))
