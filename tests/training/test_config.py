"""Configuration: what is refused, what it is called, and how overrides are read."""

from __future__ import annotations

import pytest
import yaml

from tdn.errors import ConfigError
from tdn.models.architectures import ARCHITECTURES
from tdn.models.paper import PaperTDNConfig
from tdn.models.tdn import TDNConfig
from tdn.training.config import (
    DEFAULT_STEPS,
    PRESETS,
    SECTIONS,
    DataConfig,
    RunConfig,
    TrainingConfig,
    differences,
    load_config,
    parse_duration,
    read_preset,
    write_config,
)

MINIMAL = ["data.train=a.xyz", "output=run"]


def test_everything_but_data_and_output_has_a_default():
    config = load_config(None, MINIMAL)
    assert config.training.max_steps == DEFAULT_STEPS
    assert config.seed == 0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.lrr=1", "did you mean 'lr'"),
        ("num_chanels=3", "did you mean 'model.num_channels'"),
        ("lr", "key=value"),
    ],
)
def test_wrong_overrides_are_refused_with_a_remedy(override: str, expected: str):
    with pytest.raises(ConfigError, match=expected):
        load_config(None, [*MINIMAL, override])


def test_unknown_keys_of_a_file_are_refused_with_the_nearest_name(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {train: a.xyz}\noutput: run\ntraining: {batchsize: 3}\n")
    with pytest.raises(ConfigError, match=r"training\.batchsize: unknown key; did you mean 'batch_size'"):
        load_config(path)


@pytest.mark.parametrize("text", ["- a list", "just text", "data: [unclosed"])
def test_files_that_hold_no_mapping_are_refused(tmp_path, text: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"No configuration file at nowhere\.yaml"):
        load_config("nowhere.yaml")


def test_overrides_win_over_the_file_and_need_no_section(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {train: a.xyz}\noutput: run\ntraining: {lr: 0.5, max_epochs: 3}\n")
    config = load_config(path, ["lr=1e-2", "lmax=1", "training.betas=[0.8, 0.99]", "valid=0.2"])
    assert config.training.lr == 0.01
    assert config.training.betas == (0.8, 0.99)
    assert config.training.max_epochs == 3
    assert config.training.max_steps is None
    assert config.model.lmax == 1
    assert config.data.valid == 0.2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15m", 900), ("90s", 90), ("1h30m", 5400), ("45", 45), ("1.5h", 5400), (7.0, 7), ("1d", 86400)],
)
def test_durations(text, seconds: float):
    assert TrainingConfig.parse({"max_time": text}).max_time == seconds
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["15 minutes", "m", "-5m", "0s", "soon"])
def test_other_texts_are_no_durations(text: str):
    with pytest.raises(ConfigError, match="max_time"):
        TrainingConfig.parse({"max_time": text})


def test_no_option_name_is_in_two_sections_so_that_short_names_are_unique():
    names = [name for keys in SECTIONS.values() for name in keys] + list(RunConfig.model_fields)
    assert len(names) == len(set(names))


def test_architecture_chooses_the_keys_of_the_model_and_the_defaults_of_the_training():
    config = load_config(None, [*MINIMAL, "architecture=PaperTDN", "num_heads=2"])
    assert isinstance(config.model, PaperTDNConfig)
    assert config.model.num_heads == 2
    assert config.training.lr == PaperTDNConfig.TRAINING["lr"] != TrainingConfig().lr
    assert load_config(None, [*MINIMAL, "architecture=PaperTDN", "lr=0.1"]).training.lr == 0.1
    assert isinstance(load_config(None, [*MINIMAL, "num_channels=2"]).model, TDNConfig)
    assert differences(config, RunConfig.parse(yaml.safe_load(write_config(config)))) == []
    assert "avg_degree" not in write_config(config)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["architecture=Paper"], "no such architecture, there are TDN, PaperTDN"),
        (["num_heads=2"], r"model\.num_heads: unknown key"),
        (["architecture=PaperTDN", "model.num_heeds=2"], r"model\.num_heeds: unknown key; did you mean 'num_heads'"),
        (["architecture=PaperTDN", "model.lmax=9"], r"model\.lmax: Input should be less"),
    ],
)
def test_keys_of_other_architectures_are_refused(overrides: list[str], expected: str):
    with pytest.raises(ConfigError, match=expected):
        load_config(None, [*MINIMAL, *overrides])


def test_energies_weigh_more_at_the_end_unless_their_weight_is_given():
    default, given = TrainingConfig(), TrainingConfig(energy_weight=3.0)
    assert default.energy_weight_final is not None
    assert default.energy_weight_final > default.energy_weight
    assert (given.energy_weight, given.energy_weight_final) == (3.0, None)
    both = TrainingConfig(energy_weight=3.0, energy_weight_final=5.0)
    for config in (default, given, both):
        assert TrainingConfig(**config.model_dump()) == config


def test_written_configuration_reads_back_equal_and_differences_are_named(tmp_path):
    config = load_config(None, [*MINIMAL, "max_time=2m", "model.num_channels=8"])
    path = tmp_path / "config.yaml"
    path.write_text(write_config(config))
    again = load_config(path)
    assert differences(config, again) == []
    assert differences(config, load_config(path, ["lr=0.5", "seed=4"])) == ["training.lr", "seed"]


def test_every_option_is_documented():
    for section in [RunConfig, DataConfig, TrainingConfig, *(own.config for own in ARCHITECTURES.values())]:
        for name in section.model_fields:
            assert f"{name}:" in section.__doc__ or f"`{name}`" in section.__doc__, (section, name)


def test_small_is_what_a_run_takes_without_a_preset():
    plain, small = load_config(None, MINIMAL), load_config(None, [*MINIMAL, "preset=small"])
    assert differences(plain, small) == ["preset"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_grow_and_give_way_to_what_is_said(name: str):
    config = load_config(None, [*MINIMAL, f"preset={name}"])
    channels = [load_config(None, [*MINIMAL, f"preset={size}"]).model.num_channels for size in PRESETS]
    assert channels == sorted(channels)
    assert config.model.num_channels == read_preset(name)["model"]["num_channels"]
    changed = load_config(None, [*MINIMAL, f"preset={name}", "num_channels=7", "lr=0.5"])
    assert (changed.model.num_channels, changed.training.lr) == (7, 0.5)
    assert changed.model.lmax == config.model.lmax
    assert differences(config, RunConfig.parse(yaml.safe_load(write_config(config)))) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["preset=huge"], "'tiny', 'small', 'medium' or 'large'"),
        (["preset=tiny", "architecture=PaperTDN"], "sizes of TDN"),
        (["preset=tiny", "start.path=model.tdn"], "leave out the preset"),
    ],
)
def test_presets_that_make_no_sense_are_refused(overrides: list[str], expected: str):
    with pytest.raises(ConfigError, match=expected):
        load_config(None, [*MINIMAL, *overrides])
