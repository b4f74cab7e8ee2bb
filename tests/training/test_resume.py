"""A run that is interrupted, and even killed, ends with the same bits as one that is not."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tdn.training.config import RunConfig
from tdn.training.logs import Reporter
from tdn.training.run import train

from .conftest import assert_same_bits, run_config, run_content


class StopAfter(Reporter):
    """Presses Ctrl-C at the first validation."""

    def line(self, text: str) -> None:
        if " step 5 " in text:
            os.kill(os.getpid(), signal.SIGINT)


PAPER = {
    **{"loss": "l1", "optimizer": "adam", "schedule": "plateau", "plateau_patience": 0, "select_by": "energy"},
    **{"ema_decay": 0.0, "clip_grad": None, "lr": 0.02, "betas": (0.9, 0.999), "warmup_steps": 0},
}


def rows_without_time(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "elapsed_s"} for row in csv.DictReader(file)]


def wait_for_change(path: Path, before: int, process: subprocess.Popen) -> None:
    """Until the file at `path` is another one than `before`."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.002)
    raise AssertionError(f"the run never wrote {path.name}; it returned {process.poll()}")


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 16},
        {"max_steps": None, "max_epochs": 3},
        {"patience": 1},
        {"energy_weight_final": 1000.0, "final_fraction": 0.5, "weight_decay": 0.01},
        {"max_steps": None, "max_epochs": 5, "validate_every": "epoch", "batch_size": 4, **PAPER},
    ],
)
def test_ctrl_c_and_resume_give_the_same_bits_and_the_same_rows(clusters: Path, tmp_path: Path, options: dict):
    train(run_config(clusters, tmp_path / "whole", **options))
    interrupted = train(run_config(clusters, tmp_path / "cut", **options), StopAfter())
    assert interrupted.signal == signal.SIGINT
    assert interrupted.steps == 5
    train(run_config(clusters, tmp_path / "cut", **options), resume=True)
    assert_same_bits(tmp_path / "whole" / "model.tdn", tmp_path / "cut" / "model.tdn")
    assert rows_without_time(tmp_path / "whole") == rows_without_time(tmp_path / "cut")


def test_dropout_goes_on_where_it_was_interrupted(clusters: Path, tmp_path: Path):
    model = {"architecture": "PaperTDN", "num_channels": 4, "num_layers": 1, "num_heads": 2, "num_gaussians": 4}
    contents = {name: {**run_content(clusters, tmp_path / name), "model": model} for name in ("whole", "cut")}
    train(RunConfig.parse(contents["whole"]))
    assert train(RunConfig.parse(contents["cut"]), StopAfter()).steps == 5
    train(RunConfig.parse(contents["cut"]), resume=True)
    assert_same_bits(tmp_path / "whole" / "model.tdn", tmp_path / "cut" / "model.tdn")


def test_resuming_where_nothing_is_yet_starts_a_run(clusters: Path, tmp_path: Path):
    assert train(run_config(clusters, tmp_path / "run"), resume=True).steps == 12


@pytest.mark.slow
def test_kills_at_any_moment_do_not_change_a_bit(clusters: Path, tmp_path: Path):
    """Three runs are cut, by SIGTERM and twice by SIGKILL, at random moments between or within checkpoints."""
    options = {"max_steps": 150, "validate_every": 20}
    train(run_config(clusters, tmp_path / "whole", **options))
    options["checkpoint_interval"] = 0.03

    folder, config = tmp_path / "cut", tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run_content(clusters, folder, **options)))
    command = [sys.executable, "-m", "tdn.cli.main", "train", str(config), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    checkpoint, moments = folder / "checkpoint.safetensors", random.Random(3)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        wait_for_change(checkpoint, before, process)
        time.sleep(moments.uniform(0.0, 0.3))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM), said
        if number == signal.SIGTERM:
            assert f"tdn train --resume --output {folder}" in said
    train(run_config(clusters, folder, **options), resume=True)
    assert_same_bits(tmp_path / "whole" / "model.tdn", folder / "model.tdn")
    assert rows_without_time(tmp_path / "whole") == rows_without_time(folder)
    assert not list(folder.glob(".*.tmp"))
