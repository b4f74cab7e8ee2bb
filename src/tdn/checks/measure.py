"""What the checks share: their result, energies above reference, and the spread that errors are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tdn.checks import probes
from tdn.graph import AtomGraph, Prediction, collate
from tdn.models.potential import Potential
from tdn.structure import Structure

Array = NDArray[np.float64]
Predict = Callable[[AtomGraph], Prediction]

AMPLITUDE = 0.1
"""Standard deviation of the displacements that define the energy spread, Å."""
EDGES_PER_BATCH = 8000
"""Bounds the memory of a batch."""


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        name: Stable name.
        measured: Worst value over the structures; NaN counts as a failure.
        limit: Largest value that passes.
        unit: Unit of `measured` and `limit`.
        passed: False only where a claimed property does not hold.
        claimed: Whether the model's configuration claims the property at all.
        detail: What was measured, on what.
    """

    name: str
    measured: float
    limit: float
    unit: str
    passed: bool
    claimed: bool = True
    detail: str = ""

    @property
    def within_limit(self) -> bool:
        """Whether the property holds, claimed or not."""
        return self.measured <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; `measured` is None where it is no finite number."""
        return asdict(self) | {"measured": self.measured if np.isfinite(self.measured) else None}


def make_result(name: str, values: Sequence[float] | Array, limit: float, unit: str, detail: str) -> CheckResult:
    """Compare the worst of `values` with `limit`."""
    # np.max, not max: a NaN anywhere must not be lost.
    measured = float(np.max(values))
    return CheckResult(name, measured, limit, unit, passed=bool(measured <= limit), detail=detail)


def mark_claims(results: Sequence[CheckResult], not_claimed: Mapping[str, str]) -> tuple[CheckResult, ...]:
    """Results of a model that does not claim to pass the checks in `not_claimed`, name without precision -> reason."""
    marked = []
    for result in results:
        reason = not_claimed.get(result.name.removesuffix(" float32").removesuffix(" float64"))
        if reason is not None:
            result = replace(result, passed=True, claimed=False, detail=f"{result.detail}; not claimed: {reason}")
        marked.append(result)
    return tuple(marked)


def in_precision(potential: Potential, dtype: torch.dtype) -> Potential:
    """A copy in evaluation mode and in `dtype`."""
    return copy.deepcopy(potential).to(dtype).eval()


def energies_above_reference(potential: Potential, structures: Sequence[Structure]) -> Array:
    """Energy of each structure less the reference energies of its atoms, eV, float64 `[G]`.

    Not by subtraction: a total energy of 1e5 eV has no digits left for 1e-12 of a spread.
    """
    graphs = [AtomGraph.from_structure(structure, potential.r_max) for structure in structures]
    return np.concatenate([sum_above_reference(potential, collate(batch)) for batch in _batches(graphs)])


def sum_above_reference(potential: Potential, graph: AtomGraph) -> Array:
    """Energy above reference of each structure in a graph, eV, float64 `[G]`."""
    graph = graph.to(potential.device)
    with torch.no_grad():
        energies = potential.energies_above_reference(graph).double()
    return energies.new_zeros(graph.num_graphs).index_add(0, graph.batch, energies).cpu().numpy()


def _batches(graphs: Sequence[AtomGraph]) -> Iterator[list[AtomGraph]]:
    batch: list[AtomGraph] = []
    for graph in graphs:
        if batch and sum(member.num_edges for member in batch) + graph.num_edges > EDGES_PER_BATCH:
            yield batch
            batch = []
        batch.append(graph)
    yield batch


def energy_spreads(potential: Potential, structures: Sequence[Structure], copies: int = 8) -> Array:
    """Energy spread of each structure, eV: see the module's docstring."""
    return np.array(
        [
            energies_above_reference(potential, probes.displaced(structure, AMPLITUDE, rng, copies)).std()
            for structure, rng in with_generators(structures)
        ]
    )


def predict(potential: Potential, structure: Structure) -> Prediction:
    """Energies, forces and stress of one structure."""
    return potential(AtomGraph.from_structure(structure, potential.r_max).to(potential.device))


def with_generators(structures: Sequence[Structure]) -> Iterator[tuple[Structure, np.random.Generator]]:
    """Each structure with a random generator of its own, the same in every check."""
    for k, structure in enumerate(structures):
        yield structure, np.random.default_rng(k)


def rms(values: Array) -> float:
    """Root mean square of all entries."""
    return float(np.sqrt(np.square(values).mean()))
