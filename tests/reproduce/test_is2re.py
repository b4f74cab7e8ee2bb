"""`tdn reproduce oc20-is2re|oc22-is2re` end to end on tiny files in the official layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from oc_files import fields, is2re_record, slabs, write_records
from tdn.cli.reproduce import app
from tdn.data.reading import read_frames
from tdn.errors import DataError
from tdn.evaluation import evaluate
from tdn.evaluation.submission import check_submission, read_npz
from tdn.modelfile import load_model, read_header
from tdn.reproduce.is2re import PUBLISHED, TEST, VALID, find_splits, run_content
from tdn.training.config import RunConfig

TINY = (
    *("num_channels=8", "num_layers=1", "num_heads=2", "num_gaussians=8", "max_neighbors=12", "r_max=4.0"),
    *("max_epochs=2", "warmup_epochs=1", "batch_size=8", "compile=false", "tensorboard=false"),
)


def download(folder: Path, dataset: str) -> Path:
    """A training split of twenty structures, validation splits of ten of them, test splits without targets."""
    extra = {} if dataset == "oc20" else {"oc22": 1}
    records = [is2re_record(atoms, k, **extra) for k, atoms in enumerate(slabs(20))]
    for split in ("train", *VALID[dataset]):
        write_records(folder / split / "data.lmdb", records if split == "train" else records[:10])
    for split in TEST[dataset].values():
        write_records(folder / split / "data.lmdb", [fields(a, 100 + k) for k, a in enumerate(slabs(4))], "new")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["oc20", "oc22"])
def test_from_downloads_to_the_row_of_the_table(dataset: str, tmp_path: Path):
    download(tmp_path / ("is2re/all" if dataset == "oc20" else "oc22/is2re"), dataset)
    run = tmp_path / "run"
    arguments = [f"{dataset}-is2re", "--root", str(tmp_path), "--output", str(run), "--threads", "1", *TINY]
    result = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "results.json")])
    assert result.exit_code == 0, result.output
    assert "this run" in result.output
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == json.loads((run / "results.json").read_text())
    assert found["training_structures"] == 20
    # All validation splits are the same here; the number is that of the model file, computed anew.
    splits = find_splits(dataset, tmp_path)
    structures = read_frames(splits["val_id"], required=()).structures
    predictions = evaluate(load_model(run / "run" / "model.tdn"), structures).predictions
    errors = [abs(p.energy - s.energy) for s, p in zip(structures, predictions, strict=True)]
    assert found["mae_ev"] == pytest.approx([np.mean(errors)] * (len(VALID[dataset]) + 1))
    config = read_header(run / "run" / "model.tdn")["config"]
    assert config["forces"] == "none"
    assert config["bond_order_lmax"] == (9 if dataset == "oc22" else None)
    tests = {split: read_frames(splits[name], required=()).structures for split, name in TEST[dataset].items()}
    assert check_submission(read_npz(run / "submission.npz"), "is2re", dataset=dataset, structures=tests) == []


@pytest.mark.parametrize("dataset", ["oc20", "oc22"])
def test_the_set_up_is_the_papers(dataset: str, tmp_path: Path):
    config = RunConfig.parse(run_content(dataset, {"train": "a", "val_id": "b"}, tmp_path, None, ()))
    training = {name: getattr(config.training, name) for name in ("optimizer", "lr", "weight_decay", "batch_size")}
    assert training == {"optimizer": "adamw", "lr": 2e-4, "weight_decay": 1e-3, "batch_size": 32}
    assert (config.training.schedule, config.training.warmup_epochs, config.training.warmup_factor) == (
        "cosine",
        2,
        0.2,
    )
    assert (config.training.loss, config.training.energy_per) == ("l1", "structure")
    assert (config.model.num_channels, config.model.num_layers, config.model.lmax) == (256, 6, 1)
    epochs, r_max, neighbors, order, references = {
        "oc20": (32, 5.0, 500, None, "zero"),
        "oc22": (1000, 12.0, 20, 9, "least_squares"),
    }[dataset]
    assert config.training.max_epochs == epochs
    assert config.model.r_max == r_max
    assert config.model.nearest_neighbors == neighbors
    assert config.model.bond_order_lmax == order
    assert config.data.reference_energies == references


def test_published_averages_are_those_of_their_splits():
    for dataset, rows in PUBLISHED.items():
        for row in rows:
            assert len(row.mae) == len(VALID[dataset]) + 1
            # Printed numbers are rounded, so up to one unit of the last digit.
            unit = 1e-4 if dataset == "oc20" else 1e-2
            assert np.mean(row.mae[:-1]) == pytest.approx(row.mae[-1], abs=1.01 * unit), row.name


@pytest.mark.parametrize("dataset", ["oc20", "oc22"])
def test_downloads_are_found_at_every_depth(dataset: str, tmp_path: Path):
    unpacked, part = {
        "oc20": ("is2res_train_val_test_lmdbs/data", "is2re/all"),
        "oc22": ("is2res_total_train_val_test_lmdbs/data/oc22", "is2re-total"),
    }[dataset]
    folder = tmp_path / unpacked / part
    for split in ("train", *VALID[dataset]):
        (folder / split).mkdir(parents=True)
    for root in (folder, tmp_path / unpacked, tmp_path):
        assert find_splits(dataset, root)["train"] == str(folder / "train")


def test_missing_splits_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="No training split of OC20"):
        find_splits("oc20", tmp_path)
    download(tmp_path, "oc22")
    assert set(find_splits("oc22", tmp_path)) == {"train", *VALID["oc22"], *TEST["oc22"].values()}
    (tmp_path / "val_ood" / "data.lmdb").unlink()
    (tmp_path / "val_ood").rmdir()
    with pytest.raises(DataError, match="has no val_ood"):
        find_splits("oc22", tmp_path)
