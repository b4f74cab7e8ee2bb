"""A few seconds on real data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdn.training.config import load_config
from tdn.training.run import train


@pytest.mark.slow
def test_ethanol_is_learnt_in_few_steps(data_dir: Path, tmp_path: Path):
    """The mean absolute force is 800 meV/Å; 150 steps must leave less than a quarter of it, whatever the seed."""
    path = data_dir / "rmd17" / "rmd17_ethanol_train_01.npz"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    overrides = [f"data.train={path}", "valid=50", f"output={tmp_path / 'run'}", "num_channels=16", "threads=1"]
    result = train(load_config(None, [*overrides, "max_steps=150", "warmup_steps=20", "tensorboard=false"]))
    assert result.errors["valid"].forces.mae < 200
    assert result.errors["valid"].energy.mae < 120
