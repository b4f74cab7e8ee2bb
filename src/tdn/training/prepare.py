"""From files to everything that training needs: frames, graphs, reference energies, scales, and the fresh potential."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from tdn.data.dataset import GraphDataset
from tdn.data.labels import LabelKeys
from tdn.data.lazy import Graphs, LazyGraphDataset
from tdn.data.preflight import check_frames
from tdn.data.reading import FrameSet, read_frames
from tdn.data.reference import ReferenceEnergies, fit_reference_energies, force_rms, resolve_reference_energies
from tdn.data.splits import split_frames
from tdn.data.store import StoreView
from tdn.errors import DataError
from tdn.models.architectures import build_potential
from tdn.models.config import ModelConfig
from tdn.models.potential import Potential
from tdn.training.config import DataConfig, RunConfig
from tdn.training.start import start_potential, with_replay

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Problem:
    """What there is to learn.

    Attributes:
        frames: Frame sets by part; `train` always, `valid` and `test` if there are any.
        train: Training graphs.
        valid: Validation graphs, or None.
        references: Reference energies.
        model: Network shape, what is left to the data filled in.
        scale: Output scale of the potential, eV.
        shifts: Mean binding energy by element, eV.
        dtype: Precision.
        seed: Of the initial weights.
        start: Trained potential to start from, or None.
    """

    frames: Mapping[str, FrameSet]
    train: Graphs
    valid: Graphs | None
    references: ReferenceEnergies
    model: ModelConfig
    scale: float
    shifts: Mapping[int, float]
    dtype: torch.dtype
    seed: int
    start: Potential | None = None

    @property
    def fingerprint(self) -> str:
        """Of training and validation data together: two runs with the same one saw the same frames."""
        parts = [self.frames[name] for name in ("train", "valid") if name in self.frames]
        names = [p.fingerprint + ("" if p.on_disk else ",".join(p.origins)) for p in parts]
        return hashlib.sha256("".join(names).encode()).hexdigest()

    def fresh_potential(self, device: torch.device) -> Potential:
        """A potential with the weights to start from; initial ones depend on the seed only."""
        if self.start is not None:
            return copy.deepcopy(self.start).to(self.dtype).to(device)
        torch.manual_seed(self.seed)
        return build_potential(self.model, self.references.energies, self.scale, self.shifts).to(self.dtype).to(device)


def prepare(config: RunConfig, say: Callable[[str], None], warn: Callable[[str], None]) -> Problem:
    """Read, split, check and scale the data; every choice is said.

    Args:
        config: The run.
        say: Called with every choice.
        warn: Called with everything odd.

    Raises:
        DataError: If the data cannot be used.
    """
    frames = read_parts(config, say)
    start = None
    if config.start is not None and config.start.replay is not None:
        old = _read(config.data, config.start.replay, config)
        frames["train"] = with_replay(frames["train"], old, config.start.replay_frames, config.seed)
        say(f"replay: {len(frames['train'].origins)} training frames with those of {_basenames(old)}")
    valid = frames.get("valid")
    train = frames["train"].sample()
    looked_at = {name: part.sample() for name, part in frames.items()}
    if frames["train"].on_disk:
        say(f"checks, references and scales from {len(train)} of {len(frames['train'])} training frames")
    references = resolve_reference_energies(config.data.reference_energies, train)
    if config.start is not None:
        start, references = start_potential(config.start, train, references, say)
    say(str(references))
    valid_part, test_part = looked_at.get("valid"), looked_at.get("test")
    findings = check_frames(train, valid_part, test_part, references, config.model.r_max, learns_forces(config))
    for finding in findings:
        if finding.severity != "error":
            (warn if finding.severity == "warning" else say)(f"{finding.severity}: {finding.message}")
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError("The data cannot be trained on: " + "; ".join(errors))
    dataset = make_graphs(frames["train"], config.model)
    model = config.model.with_statistics(dataset.mean_neighbors, dataset.mean_atoms, len(references.energies))
    scale = config.data.output_scale or _scale(train, references, model) if start is None else start.scale
    shifts = binding_shifts(train, references) if start is None and config.data.binding_energies else {}
    say(f"{dataset.mean_neighbors:.1f} neighbours an atom within {model.r_max:g} Å; output scale {scale:.3f} eV")
    return Problem(
        frames=frames,
        train=dataset,
        valid=make_graphs(valid, model) if valid else None,
        references=references,
        model=model,
        scale=scale,
        shifts=shifts,
        dtype=getattr(torch, config.dtype),
        seed=config.seed,
        start=start,
    )


def make_graphs(frames: FrameSet, model: ModelConfig) -> Graphs:
    """Graphs of what the network sees: in memory, or made for every batch anew if the frames are on disk."""
    if isinstance(frames.structures, StoreView):
        return LazyGraphDataset(frames.structures, model.r_max, model.nearest_neighbors)
    return GraphDataset(frames.structures, model.r_max, frames.origins, max_neighbors=model.nearest_neighbors)


def label_keys(data: DataConfig) -> LabelKeys:
    """The names of the labels that the run asks for."""
    return LabelKeys(energy=data.energy_key, forces=data.forces_key, stress=data.stress_key)


def learns_forces(config: RunConfig) -> bool:
    """Whether forces are predicted, read and weighed."""
    return bool(config.model.predicts_forces and config.data.forces_key != "none" and config.training.forces_weight)


def _scale(frames: FrameSet, references: ReferenceEnergies, model: ModelConfig) -> float:
    """The output scale that the configuration fixes, or that of the data."""
    return model.output_scale or output_scale(frames, references, per_atom=not model.intensive)


def output_scale(frames: FrameSet, references: ReferenceEnergies, per_atom: bool = True) -> float:
    """RMS force component; without forces, the spread of the energies (per atom) above their references; eV."""
    rms = force_rms(frames.structures)
    if rms:
        return rms
    labelled = [s for s in frames.structures if s.energy is not None]
    residuals = torch.tensor([(s.energy or 0.0) - references.total(s.numbers) for s in labelled], dtype=torch.float64)
    sizes = torch.tensor([len(s) if per_atom else 1 for s in labelled], dtype=torch.float64)
    spread = float((residuals / sizes).std(correction=0)) if labelled else 0.0
    return spread or 1.0


def binding_shifts(frames: FrameSet, references: ReferenceEnergies) -> Mapping[int, float]:
    """Mean energy by element that is left above the references, eV; fitted references leave none."""
    labelled = [s for s in frames.structures if s.energy is not None]
    if references.origin == "least squares" or not labelled:
        return {}
    above = [replace(s, energy=(s.energy or 0.0) - references.total(s.numbers)) for s in labelled]
    return fit_reference_energies(above).energies


def read_parts(config: RunConfig, say: Callable[[str], None]) -> dict[str, FrameSet]:
    """The three parts, from files of their own or held out from the training files."""
    data = config.data
    parts = {"train": _read(data, data.train, config)}
    held_out: dict[str, float] = {}
    for name, source in (("valid", data.valid), ("test", data.test)):
        if isinstance(source, int | float):
            held_out[name] = float(source)
        elif source is not None:
            parts[name] = _read(data, source, config)
    for name, part in parts.items():
        say(f"{name}: {len(part)} frames of {_basenames(part)}: {part.report}")
    if not len(parts["train"]):
        raise DataError("There are no training frames: the training files hold isolated atoms only.")
    if any(held_out.values()) and parts["train"].on_disk:
        raise DataError(
            f"Frames of a store are split by tdn data convert --split, by trajectory: name the parts, such as train: "
            f"{parts['train'].source}::train and valid: {parts['train'].source}::valid."
        )
    if any(held_out.values()):
        split = split_frames(
            parts["train"],
            held_out.get("valid", 0.0),
            held_out.get("test", 0.0),
            seed=config.seed,
            group_key=data.split_by,
        )
        parts["train"] = split.train
        parts |= {name: getattr(split, name) for name, share in held_out.items() if share}
        kind = f"by `{data.split_by}`" if data.split_by else "at random"
        counts = ", ".join(f"{len(parts[name])} {name}" for name in PARTS if name in parts)
        say(f"held out {kind} with seed {config.seed}: {counts} frames")
    return {name: parts[name] for name in PARTS if name in parts and len(parts[name])}


def _read(data: DataConfig, files: str | list[str], config: RunConfig) -> FrameSet:
    """One part; energies are always required, forces unless they are switched off or have no weight."""
    keys = label_keys(data)
    if not config.model.predicts_stress:
        keys = replace(keys, stress="none")
    if not config.model.predicts_forces:
        keys = replace(keys, forces="none")
    required = ("energy", "forces") if learns_forces(config) else ("energy",)
    return read_frames(files, keys, required=required, allow_partial=data.allow_partial, ocp=data.ocp.options())


def _basenames(frames: FrameSet) -> str:
    names = [os.path.basename(name) for name in frames.source.split(", ")]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
