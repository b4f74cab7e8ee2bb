"""Fine-tuning: a run that starts from a trained model, with frozen parts, new elements and old data beside the new."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch

import numpy as np
import torch
from torch import Tensor

from tdn.data.reading import FrameSet
from tdn.data.reference import ReferenceEnergies, fit_reference_energies
from tdn.errors import ConfigError
from tdn.graph import AtomGraph
from tdn.modelfile import copy_tables, load_model, read_header
from tdn.models.architectures import build_potential, parse_model_config
from tdn.models.potential import Potential
from tdn.structure import Structure
from tdn.training.config import RunConfig, StartConfig

# Reference energies have as many unknowns as there are elements: some hundred frames determine them.
MOST_FRAMES_FOR_REFERENCES = 200
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)


def with_model_of_start(config: RunConfig) -> RunConfig:
    """The run with the network shape of the model that it starts from; unchanged if it starts from none.

    Raises:
        ConfigError: If the run asks for another shape.
        ModelFileError: If the file is no model.
    """
    if config.start is None:
        return config
    path = os.path.abspath(config.start.path)
    model = parse_model_config(read_header(path)["config"], path)
    given, stored = config.model.model_dump(), model.model_dump()
    wrong = [name for name in config.model.model_fields_set if given[name] != stored.get(name)]
    if wrong:
        asked = ", ".join(f"model.{name}={given[name]} ({stored.get(name)} there)" for name in sorted(wrong))
        raise ConfigError(f"The run starts from {config.start.path}, which has another shape: leave out {asked}.")
    return config.model_copy(update={"model": model, "start": config.start.model_copy(update={"path": path})})


def with_replay(frames: FrameSet, old: FrameSet, number: int | None, seed: int) -> FrameSet:
    """Training frames with old ones beside them, so that the old data are not forgotten.

    Args:
        frames: The new ones.
        old: Frames that the model was trained on, labelled like the new ones.
        number: How many of them to take at random; all if None or if there are fewer.
        seed: Of the choice.
    """
    if number is not None and number < len(old):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(old))[:number])
        old = old.select(chosen.tolist())
    return replace(
        frames,
        structures=(*frames.structures, *old.structures),
        isolated_atoms={**old.isolated_atoms, **frames.isolated_atoms},
        source=f"{frames.source}, {old.source}",
        fingerprint=frames.fingerprint + old.fingerprint,
        origins=(*frames.origins, *old.origins),
    )


def start_potential(
    start: StartConfig, frames: FrameSet, references: ReferenceEnergies, say: Callable[[str], None]
) -> tuple[Potential, ReferenceEnergies]:
    """The model to start from, fitted to the new data's elements and zero of energy.

    What the model is off by on the training frames, element by element, is a matter of another zero of energy, not of
    physics. It goes into the reference energies, or, where those are known (isolated atoms, or given), into the mean
    binding energies.

    Args:
        start: Where from.
        frames: Training frames.
        references: As resolved from the new data.
        say: Called with every choice.
    """
    old = load_model(start.path)
    fitted = references.origin == "least squares"
    known = dict(zip(old.elements, old.reference_energies.tolist(), strict=True))
    energies = {**references.energies, **known} if fitted else {**known, **references.energies}
    potential = grown(old, energies)
    off = fit_reference_energies(_residuals(potential, frames.structures)).energies
    if fitted:
        energies = {z: energy + off.get(z, 0.0) for z, energy in energies.items()}
        potential = grown(old, energies)
    else:
        with torch.no_grad():
            for z, value in off.items():
                potential.shift[potential.elements.index(z)] += value / potential.scale
    new = [z for z in potential.elements if z not in known]
    say(f"starting from {start.path}" + (f", with the new elements {_symbols(new)}" if new else ""))
    origin = f"those of {os.path.basename(start.path)}, refitted" if fitted else references.origin
    return potential, ReferenceEnergies(dict(sorted(energies.items())), origin, references.notes)


def grown(old: Potential, energies: Mapping[int, float]) -> Potential:
    """A copy of `old` that knows the elements of `energies`; new ones start as the chemically nearest known one.

    Args:
        old: A potential.
        energies: Reference energies in eV by atomic number, of all its elements and of new ones.
    """
    elements = sorted(energies)
    potential = build_potential(old.config, energies, old.scale)
    copy_tables(old, potential)
    potential.to(old.dtype)
    rows = torch.tensor([old.elements.index(nearest_element(z, old.elements)) for z in elements])
    shapes = {name: value.shape for name, value in potential.state_dict().items()}
    weights = {name: _grow(value, shapes[name], rows) for name, value in old.state_dict().items()}
    potential.load_state_dict(weights)
    return potential


def _grow(value: Tensor, shape: torch.Size, rows: Tensor) -> Tensor:
    """Repeat the rows of elements along the axis whose size is their number."""
    axes = [axis for axis, (old, new) in enumerate(zip(value.shape, shape, strict=True)) if old != new]
    return value.index_select(axes[0], rows) if axes else value


def nearest_element(number: int, known: Sequence[int]) -> int:
    """The known element most like `number` in the periodic table: a near column counts more than a near row."""

    def distance(other: int) -> tuple[float, int]:
        (row, column), (other_row, other_column) = _place(number), _place(other)
        return abs(row - other_row) + 2.0 * abs(column - other_column), abs(number - other)

    return min(known, key=distance)


def _place(number: int) -> tuple[int, int]:
    """Row and column (1..18; 3 for the f block) in the periodic table."""
    row = next(k for k, noble in enumerate(NOBLE_GASES) if number <= noble)
    position, length = number - NOBLE_GASES[row - 1], NOBLE_GASES[row] - NOBLE_GASES[row - 1]
    if position <= (2 if length > 2 else 1):
        return row, position
    return row, max(3, position + 18 - length)


def freeze(potential: Potential, patterns: Sequence[str]) -> int:
    """Take the parameters that match out of training, and return how many numbers that are.

    Args:
        potential: Changed in place.
        patterns: Beginnings of parameter names, or patterns with `*`: `network.layers.0`, `network.*.radial`.

    Raises:
        ConfigError: If a pattern matches nothing, or all is frozen.
    """
    names = [name for name, _ in potential.named_parameters()]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            groups = sorted({".".join(name.split(".")[:3]) for name in names})
            raise ConfigError(f"freeze: no parameter is named {pattern!r}. There are {', '.join(groups)}.")
    frozen = 0
    for name, parameter in potential.named_parameters():
        if any(_matches(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    if not any(parameter.requires_grad for parameter in potential.parameters()):
        raise ConfigError("freeze: all parameters are frozen, so there is nothing to train.")
    return frozen


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")


def _residuals(potential: Potential, structures: Sequence[Structure]) -> list[Structure]:
    """Frames whose energy is what the potential is off by."""
    labelled = [structure for structure in structures if structure.energy is not None]
    step = max(1, -(-len(labelled) // MOST_FRAMES_FOR_REFERENCES))
    # Every element must be there, however rare.
    chosen = {id(structure): structure for structure in labelled[::step]}
    for z in potential.elements:
        first = next((structure for structure in labelled if z in structure.numbers), None)
        if first is not None:
            chosen[id(first)] = first
    potential = potential.eval()
    return [
        replace(structure, energy=(structure.energy or 0.0) - _energy(potential, structure))
        for structure in chosen.values()
    ]


def _energy(potential: Potential, structure: Structure) -> float:
    return float(potential(AtomGraph.from_structure(structure, potential.r_max)).energy)


def _symbols(numbers: Sequence[int]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[z] for z in numbers)
