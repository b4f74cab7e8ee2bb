"""Configuration of a training run: what it learns from, the network's shape, and how it is trained.

All defaults of the optimisation are in `TrainingConfig`, and nowhere else.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from tdn.config import StrictConfig
from tdn.data.ocp import OCPOptions, read_oc20_references
from tdn.errors import ConfigError
from tdn.models.architectures import ARCHITECTURES, DEFAULT, ModelChoice
from tdn.models.tdn import TDNConfig

PRESETS = ("tiny", "small", "medium", "large")
DEFAULT_STEPS = 20_000
FINE_TUNING_LR = 3e-3

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: Any) -> Any:
    """Seconds from `90`, `90s`, `15m`, `1h30m` or `2d`; anything else is left for the validator to refuse.

    Raises:
        ValueError: If a text is no duration.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise ValueError("expected a duration such as 90s, 15m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", text))


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Files = str | list[str]
LinearReference = Annotated[str, Field(pattern=r"\.npz$")]
References = Literal["auto", "isolated", "least_squares", "zero"] | LinearReference | dict[str | int, float]


class OCPReading(StrictConfig):
    """How LMDBs of OC20 and OC22 are read; see `tdn.data.ocp.OCPOptions`.

    Attributes:
        geometry: `initial` or `relaxed` positions of relaxations.
        oc20_ref: The published `oc20_ref.pkl`, which makes total energies of OC20's adsorption energies.
        surfaces: `adslabs` or `slabs` of OC22, or `all`.
        max_energy: Leave out structures with a larger |energy|, eV.
        max_force: Leave out structures with a larger force on an atom, eV/Å.
    """

    geometry: Literal["initial", "relaxed"] = "initial"
    oc20_ref: str | None = None
    surfaces: Literal["all", "adslabs", "slabs"] = "all"
    max_energy: float | None = Field(default=None, gt=0)
    max_force: float | None = Field(default=None, gt=0)

    def options(self) -> OCPOptions:
        """The same for the reader, the reference energies read."""
        references = None if self.oc20_ref is None else read_oc20_references(self.oc20_ref)
        return OCPOptions(self.geometry, references, self.surfaces, self.max_energy, self.max_force)


class DataConfig(StrictConfig):
    """What to learn from.

    Attributes:
        train: Training file, or several, or glob patterns: all that ASE reads, ASE databases, rMD17's npz.
        valid: Validation files, or a fraction (below 1) or number of the training frames to hold out at random.
        test: Test files, or a fraction or number of frames; only looked at after training.
        energy_key: Name of the energies in the files; `auto` searches, `none` ignores them.
        forces_key: The same for forces.
        stress_key: The same for stress; a key with `virial` in its name is read as a virial.
        allow_partial: Accept frames that lack a label which others have.
        split_by: Name of an info entry, such as `molecule`, whose frames stay together when frames are held out.
        reference_energies: `isolated` (isolated-atom frames), `least_squares`, `auto` (the first if there are such
            frames, else the second), `zero`, an npz of linear references as published with OC22, or eV by element.
        output_scale: Scale of what the network says, eV; null takes the RMS force component of the training frames.
        binding_energies: Start from the mean energy of each element above its reference; `false` starts from none.
        ocp: How LMDBs of OC20 and OC22 are read.
    """

    train: Files
    valid: float | Files = 0.05
    test: float | Files | None = None
    energy_key: str = "auto"
    forces_key: str = "auto"
    stress_key: str = "auto"
    allow_partial: bool = False
    split_by: str | None = None
    reference_energies: References = "auto"
    output_scale: float | None = Field(default=None, gt=0)
    binding_energies: bool = True
    ocp: OCPReading = OCPReading()


class TrainingConfig(StrictConfig):
    """How to train.

    A run ends at the first of `max_epochs`, `max_steps` and `max_time` that is reached, and the learning rate anneals
    to that end; without any of them it takes 20 000 steps.

    Attributes:
        max_epochs: Passes over the training set.
        max_steps: Optimiser steps.
        max_time: Wall-clock time of the loop, validation included: seconds, or a text such as `15m` or `1h30m`.
        batch_size: Most structures in a step, over all processes.
        max_edges: Most edges in a batch of one process, whatever the sizes of its structures; bounds the memory.
        optimizer: `muon` for the matrices that mix channels and AdamW for the rest (`tdn.training.muon`), `adamw` for
            all, or `adam`, whose weight decay is a term of the loss.
        lr: Highest learning rate.
        schedule: `cosine` anneals to the end of the run, `plateau` lowers the rate when the validation stops improving,
            `constant` leaves it.
        lr_final: What the cosine leaves at the end, as a fraction.
        warmup_steps: Steps of linear growth at the start.
        warmup_epochs: Passes over the data during which the rate grows from `warmup_factor` of `lr` to all of it; the
            schedule acts after them.
        warmup_factor: Where that growth starts, as a fraction.
        plateau_patience: Validations without improvement that `plateau` lets pass.
        plateau_factor: What it then leaves of the rate.
        betas: Decay of the first and second moments.
        amsgrad: Keep the largest second moment.
        weight_decay: Of the matrices that mix channels; embeddings, coefficients of elements, norms, biases and binding
            energies do not decay.
        clip_grad: Largest norm of the gradient; null for none.
        ema_decay: Of the moving average of the weights, which is what is validated and saved; 0 for none.
        loss: `mse`, or `huber`, which is linear in errors above `huber_delta`, both in units of the output scale; or
            `l1`, as in 2507.01131: the absolute error of the energy in eV, and the root of the mean squared length of
            the force errors of a structure in eV/Å, mean over structures.
        huber_delta: In units of the output scale, the RMS force component.
        energy_per: Whether the loss counts the energy per `atom` or per `structure`.
        select_by: What the best validation is: that of the least `loss`, or of the least mean absolute error of the
            `energy` (per atom or structure, as `energy_per`).
        energy_weight: Of the squared error of the energy per atom.
        energy_weight_final: The same in the last part of the run, MACE's "stage two"; null leaves it, and is what
            stands where `energy_weight` alone is given. Validations are judged by the final weights all along.
        final_fraction: How much of the run that last part is.
        forces_weight: Of the squared error of a force component.
        stress_weight: Of the squared error of a component of the virial per atom.
        compile: Run compiled code, which takes one to three minutes to make the first time; null does so for runs of at
            least 1000 steps, two minutes, or any number of epochs, where there is a compiler.
        validate_every: Steps between validations, or `epoch`; null gives it about a twentieth of the time.
        patience: Validations without improvement after which to stop; null for never.
        checkpoint_interval: Seconds between checkpoints.
        tensorboard: Log to TensorBoard too, if it is installed.
        wandb_project: Log to this project of Weights & Biases too.
    """

    max_epochs: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    max_time: Duration | None = None
    batch_size: int = Field(default=5, ge=1)
    max_edges: int | None = Field(default=20_000, ge=1)
    optimizer: Literal["muon", "adamw", "adam"] = "muon"
    lr: float = Field(default=2e-2, gt=0)
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    lr_final: float = Field(default=1e-3, ge=0, le=1)
    warmup_steps: int = Field(default=100, ge=0)
    warmup_epochs: float = Field(default=0.0, ge=0)
    warmup_factor: float = Field(default=0.0, ge=0, le=1)
    plateau_patience: int = Field(default=2, ge=0)
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.95)
    amsgrad: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    clip_grad: float | None = Field(default=10.0, gt=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    loss: Literal["mse", "huber", "l1"] = "huber"
    huber_delta: float = Field(default=0.1, gt=0)
    energy_per: Literal["atom", "structure"] = "atom"
    select_by: Literal["loss", "energy"] = "loss"
    energy_weight: float = Field(default=1.0, ge=0)
    energy_weight_final: float | None = Field(default=10.0, ge=0)
    final_fraction: float = Field(default=0.25, gt=0, le=1)
    forces_weight: float = Field(default=1.0, ge=0)
    stress_weight: float = Field(default=1.0, ge=0)
    compile: bool | None = None
    validate_every: Annotated[int, Field(ge=1)] | Literal["epoch"] | None = None
    patience: int | None = Field(default=None, ge=1)
    checkpoint_interval: float = Field(default=60.0, ge=0)
    tensorboard: bool = True
    wandb_project: str | None = None

    @property
    def compiles(self) -> bool:
        """Whether to run compiled code."""
        if self.compile is not None:
            return self.compile
        return (self.max_steps or 1000) >= 1000 and (self.max_time or 120.0) >= 120.0

    @model_validator(mode="before")
    @classmethod
    def _keep_energy_weight(cls, content: Any) -> Any:
        """A weight of energies that is given alone holds to the end."""
        if isinstance(content, dict) and "energy_weight" in content:
            return {"energy_weight_final": None, **content}
        return content

    @model_validator(mode="before")
    @classmethod
    def _set_end(cls, content: Any) -> Any:
        """Without any limit a run would not end."""
        if isinstance(content, dict) and all(
            content.get(f"max_{unit}") is None for unit in ("epochs", "steps", "time")
        ):
            return {**content, "max_steps": DEFAULT_STEPS}
        return content


class StartConfig(StrictConfig):
    """A trained model to start from.

    Attributes:
        path: Model file.
        freeze: Parameters that stay as they are: beginnings of their names, or patterns with `*`.
        replay: Files with old training frames to train on besides, labelled like the new ones.
        replay_frames: How many of them, at random; null for all.
    """

    path: str
    freeze: tuple[str, ...] = ()
    replay: Files | None = None
    replay_frames: int | None = Field(default=None, ge=1)


class RunConfig(StrictConfig):
    """A training run.

    Attributes:
        preset: A size from `PRESETS`, whose values stand where `model` and `training` do not say otherwise; `small` is
            what stands without.
        data: What to learn from.
        model: Architecture and shape of the network; averages of neighbours and atoms are taken from the training data
            unless they are given.
        training: How to train; the learning rate of a run that starts from a model is 0.003 at most unless given.
        start: A model to start from; null for fresh weights.
        output: Folder of the run.
        seed: Of the initial weights, the split and the order of the frames.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: `float32` or `float64`.
        threads: CPU threads; 0 leaves PyTorch's choice.
    """

    preset: Literal["tiny", "small", "medium", "large"] | None = None
    data: DataConfig
    model: ModelChoice = TDNConfig()
    training: TrainingConfig = TrainingConfig()
    start: StartConfig | None = None
    output: str
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, content: Any) -> Any:
        """Defaults that suit preset, architecture, and a trained model, which is lost at the rate of fresh weights."""
        if not isinstance(content, dict):
            return content
        if content.get("preset") in PRESETS:
            content = _with_preset(content)
        model, training = content.get("model") or {}, content.get("training") or {}
        if not isinstance(model, dict) or not isinstance(training, dict):
            return content
        chosen = ARCHITECTURES.get(model.get("architecture", DEFAULT))
        defaults = dict(chosen.config.TRAINING) if chosen else {}
        if content.get("start"):
            defaults["lr"] = min(defaults.get("lr", FINE_TUNING_LR), FINE_TUNING_LR)
        return {**content, "training": {**defaults, **training}} if defaults else content


# Section -> its keys; those of all architectures count as keys of `model`.
SECTIONS: dict[str, tuple[str, ...]] = {
    "data": tuple(DataConfig.model_fields),
    "model": tuple(dict.fromkeys(name for own in ARCHITECTURES.values() for name in own.config.model_fields)),
    "training": tuple(TrainingConfig.model_fields),
}

# What may differ between a run and its continuation: nothing that a step depends on, except where the end is.
CHANGEABLE = frozenset(
    {
        *(f"training.{name}" for name in ("max_epochs", "max_steps", "max_time", "patience", "checkpoint_interval")),
        *("training.tensorboard", "training.wandb_project", "data.test", "output", "device", "threads"),
    }
)


def read_preset(name: str) -> dict[str, Any]:
    """The `model` and `training` blocks of a preset.

    Raises:
        ConfigError: If there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"No preset {name!r}; there are {', '.join(PRESETS)}.")
    with resources.as_file(resources.files("tdn.training") / "presets" / f"{name}.yaml") as path:
        return read_yaml(path)


def _with_preset(content: dict[str, Any]) -> dict[str, Any]:
    """Plain values of a run with those of its preset where it says nothing."""
    preset = read_preset(content["preset"])
    model = content.get("model") or {}
    if content.get("start"):
        raise ConfigError("A run that starts from a model has its shape: leave out the preset.")
    if isinstance(model, dict) and model.get("architecture", DEFAULT) != preset["model"]["architecture"]:
        raise ConfigError(f"The presets are sizes of {DEFAULT}: leave out the preset, or the architecture.")
    blocks = {name: content.get(name) or {} for name in preset}
    return {
        **content,
        **{name: {**preset[name], **own} for name, own in blocks.items() if isinstance(own, dict)},
    }


def load_config(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `key=value` overrides.

    Args:
        path: YAML file; None starts from nothing.
        overrides: Such as `training.lr=0.01`; the section may be left out (`lr=0.01`), since no name is in two of them.

    Raises:
        ConfigError: If the file is missing or no YAML mapping, or a key or value is not valid.
    """
    content = read_yaml(path) if path is not None else {}
    for override in overrides:
        apply_override(content, override)
    return RunConfig.parse(content, f"{path}" if path is not None else "The command line")


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        ConfigError: If the file is missing or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"No configuration file at {path} ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} should hold `section:` blocks ({', '.join(RunConfig.model_fields)}), got {content!r}."
        )
    return content


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one `key=value` in nested `content`, in place.

    Raises:
        ConfigError: If it is no `key=value`, or the key does not exist.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"Expected key=value, such as training.lr=0.01, got {override!r}.")
    *sections, name = _full_key(key.strip()).split(".")
    target = content
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{key}: `{section}` holds {target!r} and not a block of keys.")
    target[name] = parse_value(text)


def parse_value(text: str) -> Any:
    """A value as YAML reads it, and numbers such as `1e-2` too, which YAML 1.1 takes for text.

    Raises:
        ConfigError: If it is not valid YAML.
    """
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", text.strip()):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} is not a valid value: {error}") from error


def write_config(config: RunConfig) -> str:
    """The configuration as YAML, every key given, except averages that are left to the data."""
    return yaml.safe_dump(_dump(config), sort_keys=False)


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Full names of the keys in which two runs differ."""
    flat_old, flat_new = (_flatten(_dump(config)) for config in (old, new))
    return [key for key in {**flat_old, **flat_new} if flat_old.get(key) != flat_new.get(key)]


def _dump(config: RunConfig) -> dict[str, Any]:
    content = config.model_dump(mode="json")
    for name in config.model.left_to_data:
        del content["model"][name]
    return content


def _flatten(content: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for key, value in content.items():
        if key in SECTIONS:
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def _full_key(key: str) -> str:
    """`lr` -> `training.lr`; keys with a section stay and are checked with the rest."""
    if "." in key or key in RunConfig.model_fields:
        return key
    owners = [section for section, keys in SECTIONS.items() if key in keys]
    if len(owners) == 1:
        return f"{owners[0]}.{key}"
    names = [*RunConfig.model_fields, *(name for keys in SECTIONS.values() for name in keys)]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {_full_key(close[0])!r}?" if close else f"sections: {', '.join(SECTIONS)}"
    raise ConfigError(f"{key}: unknown key; {hint}")
