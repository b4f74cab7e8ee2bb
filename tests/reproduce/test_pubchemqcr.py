"""`tdn reproduce pubchemqcr` end to end on synthetic shards in the exact format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pubchem_shards import generator
from tdn.cli.reproduce import app
from tdn.data.reading import read_frames
from tdn.errors import ConfigError, DataError
from tdn.evaluation import evaluate
from tdn.modelfile import load_model
from tdn.reproduce.pubchemqcr import COLUMNS, PUBLISHED, VARIANTS, reproduce_pubchemqcr, run_config

TINY = (
    *("num_channels=8", "num_layers=1", "num_heads=2", "num_gaussians=8", "max_epochs=1", "batch_size=16"),
    *("compile=false", "tensorboard=false"),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pubchemqcr")
    generator().write_shards(folder, 20, atoms=10, steps=3, irregular=True)
    return folder


def test_from_shards_to_the_rows_of_the_table(shards: Path, tmp_path: Path):
    run, file = tmp_path / "run", tmp_path / "results.json"
    arguments = ["pubchemqcr", "--root", str(shards), "--output", str(run), "--subset", "--threads", "1"]
    arguments += ["--variant", "tdn", "--variant", "cg_paths", "--json", str(file), *TINY]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "TDN w/o CP+PS (this run)" in result.output
    assert "26.43" in result.output
    found = json.loads(file.read_text())
    assert found == json.loads((run / "results.json").read_text())
    assert "TDN (this run)" in (run / "results.md").read_text()
    # The numbers are those of the model file, computed anew.
    test = read_frames(f"{run / 'store'}::test", required=())
    errors = evaluate(load_model(run / "tdn" / "model.tdn"), test.structures).overall
    row = found["rows"]["TDN (this run)"]
    assert errors.energy_per_atom is not None
    assert row["test E"] == pytest.approx(errors.energy_per_atom.mae, rel=1e-4)
    assert row["test F"] == pytest.approx(errors.force_vector_rmse, rel=1e-4)
    assert found["frames"]["test"] == len(test)
    # The same command again trains nothing and finds the same.
    before, history = load_model(run / "tdn" / "model.tdn").state_dict(), (run / "tdn" / "metrics.csv").read_text()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert json.loads(file.read_text()) == found
    after = load_model(run / "tdn" / "model.tdn").state_dict()
    assert all(after[name].equal(value) for name, value in before.items())
    assert (run / "tdn" / "metrics.csv").read_text() == history


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("subset", [True, False])
def test_every_variant_has_a_valid_configuration(variant: str, subset: bool):
    config = run_config(variant, Path("run"), subset=subset, overrides=(), options={})
    assert config.training.max_epochs == (100 if subset else 15)
    assert str(config.data.test).endswith("store::test")
    if variant != "flagship":
        assert config.model.architecture == "PaperTDN"
        assert getattr(config.model, "avg_degree") == (18.6 if subset else 16.7)  # noqa: B009
        assert (config.training.optimizer, config.training.loss, config.training.lr) == ("adam", "l1", 5e-4)


def test_ablations_differ_from_tdn_in_their_products_alone():
    contents = {}
    for variant in VARIANTS:
        if variant != "flagship":
            config = run_config(variant, Path("run"), subset=True, overrides=(), options={})
            contents[variant] = config.model_dump(exclude={"output": True, "model": {"products", "shared_linear"}})
    assert all(content == contents["tdn"] for content in contents.values())


def test_published_rows_are_complete():
    assert all(len(row.values) == len(COLUMNS) for rows in PUBLISHED.values() for row in rows)


def test_unknown_variants_are_refused_before_anything_is_written(shards: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="cg_paths"):
        reproduce_pubchemqcr(shards, tmp_path / "run", subset=True, variants=["spam"])
    assert not (tmp_path / "run").exists()


def test_a_folder_without_shards_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="lmdb"):
        reproduce_pubchemqcr(tmp_path, tmp_path / "run", subset=True)


def test_the_flagship_trains_on_the_same_store(shards: Path, tmp_path: Path):
    small = ("num_channels=8", "num_layers=1", "max_epochs=1", "lmax=1", "compile=false", "tensorboard=false")
    options = {"threads": 1, "device": "cpu"}
    found = reproduce_pubchemqcr(shards, tmp_path, subset=True, variants=["flagship"], overrides=small, options=options)
    assert found is not None
    assert all(value is not None and value > 0 for value in found.rows[0].values)
