"""Tables of errors: of all frames, by element, by a key of the frames."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdn.errors import ConfigError
from tdn.evaluation.metrics import Errors, ErrorTable, FramePrediction, measure_errors
from tdn.evaluation.running import has_forces
from tdn.structure import Structure
from tdn.units import MEV_PER_EV

MOST_VALUES, RANGES = 12, 6
"""A key with more numbers than the first is cut into as many ranges as the second, with equally many frames each."""


def tabulate(structures: Sequence[Structure], predictions: Sequence[FramePrediction]) -> ErrorTable:
    """Errors of all quantities over the frames that have their labels; forces of fixed atoms do not count."""
    pairs = list(zip(structures, predictions, strict=True))
    energies = [(p.energy, s.energy, len(s)) for s, p in pairs if s.energy is not None]
    forces = [(p.forces[s.free], s.forces[s.free]) for s, p in pairs if has_forces(s, p) and s.forces is not None]
    stress = [(p.stress, s.stress) for s, p in pairs if s.stress is not None and p.stress is not None]
    total = per_atom = None
    if energies:
        predicted, reference, sizes = np.array(energies, dtype=np.float64).T
        total = measure_errors(predicted, reference, scale=MEV_PER_EV)
        per_atom = measure_errors(predicted / sizes, reference / sizes, scale=MEV_PER_EV)
    return ErrorTable(
        energy=total,
        energy_per_atom=per_atom,
        forces=_stacked(forces, relative=True),
        stress=_stacked(stress),
        frames=len(structures),
        atoms=sum(len(s) for s in structures),
        force_vector_rmse=float(np.mean([_norm(f, reference) for f, reference in forces])) if forces else None,
    )


def tabulate_elements(structures: Sequence[Structure], predictions: Sequence[FramePrediction]) -> dict[str, Errors]:
    """Force errors on the free atoms of each element, by symbol."""
    from ase.data import chemical_symbols

    labelled = [
        (p.forces[s.free], s.forces[s.free], s.numbers[s.free])
        for s, p in zip(structures, predictions, strict=True)
        if has_forces(s, p) and s.forces is not None
    ]
    if not labelled:
        return {}
    predicted, reference, numbers = (np.concatenate(parts) for parts in zip(*labelled, strict=True))
    return {
        chemical_symbols[z]: measure_errors(
            predicted[numbers == z], reference[numbers == z], scale=MEV_PER_EV, relative=True
        )
        for z in np.unique(numbers)
    }


def tabulate_config_types(
    structures: Sequence[Structure], predictions: Sequence[FramePrediction]
) -> dict[str, ErrorTable]:
    """Errors of the frames of each `config_type`; none if no frame has one."""
    if not any("config_type" in s.info for s in structures):
        return {}
    return tabulate_by(structures, predictions, "config_type")


def tabulate_by(
    structures: Sequence[Structure], predictions: Sequence[FramePrediction], key: str
) -> dict[str, ErrorTable]:
    """Errors of the frames with each value of `info[key]`, in order; frames without one are `other`.

    More than 12 different numbers are cut into six ranges with equally many frames each.

    Raises:
        ConfigError: If no frame has the key.
    """
    check_key(structures, key)
    names = _names([s.info.get(key) for s in structures])
    return {
        name: tabulate([structures[k] for k in members], [predictions[k] for k in members])
        for name, members in ((name, [k for k, own in enumerate(names) if own == name]) for name in _ordered(names))
    }


def check_key(structures: Sequence[Structure], key: str) -> None:
    """Refuse a key that no frame has.

    Raises:
        ConfigError: With the keys that there are.
    """
    known = sorted({name for s in structures for name in s.info})
    if key not in known:
        raise ConfigError(f"No frame has {key!r} to group errors by; their keys: {', '.join(known) or 'none'}.")


def _names(values: Sequence[Any]) -> list[str]:
    """The group of each value."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < sum(v is not None for v in values) or len(set(numbers)) <= MOST_VALUES:
        return ["other" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, RANGES + 1)))
    labels = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    place = [0 if v is None else int(np.clip(np.searchsorted(edges, v, side="right") - 1, 0, len(labels) - 1))
             for v in values]  # fmt: skip
    return ["other" if v is None else labels[k] for v, k in zip(values, place, strict=True)]


def _ordered(names: Sequence[str]) -> list[str]:
    """Each name once: numbers by size, then words by the alphabet."""

    def rank(name: str) -> tuple[bool, float, str]:
        try:
            return False, float(name.partition(" to ")[0]), name
        except ValueError:
            return True, 0.0, name

    return sorted(set(names), key=rank)


def _norm(predicted: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Root of the mean squared length of the force errors of a frame, meV/Å."""
    return MEV_PER_EV * float(np.sqrt(np.square(predicted - reference).sum(-1).mean()))


def _stacked(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], relative: bool = False) -> Errors | None:
    if not pairs:
        return None
    predicted, reference = (np.concatenate([np.atleast_2d(part) for part in parts]) for parts in zip(*pairs))  # noqa: B905
    return measure_errors(predicted, reference, scale=MEV_PER_EV, relative=relative)
