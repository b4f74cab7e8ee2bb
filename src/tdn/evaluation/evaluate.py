"""`evaluate`: a potential against labelled structures, in batches of bounded size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from tdn.data.batches import prefetched
from tdn.data.dataset import EdgeBudgetSampler, GraphDataset
from tdn.data.lazy import LazyGraphDataset
from tdn.data.store import StoreView
from tdn.errors import DataError
from tdn.evaluation.metrics import Errors, ErrorTable, FramePrediction
from tdn.evaluation.running import RunningTable
from tdn.evaluation.tables import tabulate, tabulate_config_types, tabulate_elements
from tdn.graph import AtomGraph, Prediction, collate
from tdn.models.potential import Potential
from tdn.structure import Structure

# A few hundred MB for a network of 64 channels; larger batches are no faster.
MAX_EDGES = 16384

KEPT = 2000
"""Structures of a frame store whose predictions an evaluation keeps, evenly spread, for pictures."""

Observer = Callable[[Sequence[Structure], Sequence[FramePrediction]], None]
"""Called with structures and their predictions, batch by batch, each structure once."""


@dataclass(frozen=True)
class Timing:
    """How long an evaluation took.

    Attributes:
        neighbors_s: Neighbour lists of all frames, s.
        predict_s: Energies, forces and stress of all frames, s.
        ms_per_frame: Prediction alone.
        us_per_atom: Prediction alone.
        device: `cpu`, `cuda`, ...
        dtype: Precision of the network.
        threads: CPU threads of PyTorch.
    """

    neighbors_s: float
    predict_s: float
    ms_per_frame: float
    us_per_atom: float
    device: str
    dtype: str
    threads: int


@dataclass(frozen=True)
class Evaluation:
    """A potential against labelled structures.

    Attributes:
        structures: The structures with their reference labels; of a frame store at most `KEPT`, evenly spread.
        predictions: One a structure, in the same order.
        overall: Errors over all frames.
        per_element: Force errors by chemical symbol, in the order of atomic numbers.
        per_config_type: Errors by the frames' `config_type`, in alphabetical order; empty if no frame has one.
        reference_energies: Of the potential, eV by atomic number: plots show energies relative to them.
        timing: How long it took.
    """

    structures: Sequence[Structure]
    predictions: tuple[FramePrediction, ...]
    overall: ErrorTable
    per_element: dict[str, Errors]
    per_config_type: dict[str, ErrorTable]
    reference_energies: dict[int, float]
    timing: Timing

    def to_dict(self) -> dict[str, object]:
        """The tables as JSON types under stable names: what `tdn eval --json` writes."""
        return {
            **self.overall.to_dict(),
            "per_element": {symbol: errors.to_dict() for symbol, errors in self.per_element.items()},
            "per_config_type": {name: table.to_dict() for name, table in self.per_config_type.items()},
            "timing": asdict(self.timing),
        }


def evaluate(
    potential: Potential,
    structures: Sequence[Structure],
    *,
    max_edges: int = MAX_EDGES,
    origins: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    observe: Observer | None = None,
) -> Evaluation:
    """Predict every structure and measure the errors where there are labels.

    Args:
        potential: The model, on its device and in evaluation mode.
        structures: At least one; labels may be missing.
        max_edges: Most edges in a batch.
        origins: Names of the structures for messages.
        progress: Called with (frames done, frames) after each batch.
        observe: Hears of every structure, those of a frame store included.

    Raises:
        DataError: If there is no structure, one has an element that the potential does not know, or atoms overlap.
    """
    if not len(structures):
        raise DataError("There are no frames to evaluate: isolated atoms alone do not count. Give labelled structures.")
    if isinstance(structures, StoreView):
        return _evaluate_store(potential, structures, max_edges, progress, observe)
    potential.check_elements(np.unique(np.concatenate([s.numbers for s in structures])).tolist())
    start = time.perf_counter()
    dataset = GraphDataset(structures, potential.r_max, origins, max_neighbors=potential.config.nearest_neighbors)
    # A process's first call loads kernels, which says nothing about the model.
    potential(dataset.batch([0])[0].to(potential.device))
    middle = time.perf_counter()
    predictions = predict(potential, dataset, max_edges, progress)
    seconds = time.perf_counter() - middle
    if observe is not None:
        observe(dataset.structures, predictions)
    return summarize(potential, dataset.structures, predictions, seconds, neighbors_s=middle - start)


def summarize(
    potential: Potential,
    structures: Sequence[Structure],
    predictions: tuple[FramePrediction, ...],
    predict_s: float,
    neighbors_s: float = 0.0,
) -> Evaluation:
    """The errors of predictions that took `predict_s` seconds, and their neighbour lists `neighbors_s`."""
    overall = tabulate(structures, predictions)
    return Evaluation(
        structures=structures,
        predictions=predictions,
        overall=overall,
        per_element=tabulate_elements(structures, predictions),
        per_config_type=tabulate_config_types(structures, predictions),
        reference_energies=_references(potential),
        timing=_timing(potential, overall, predict_s, neighbors_s),
    )


def summarize_sums(
    potential: Potential, sums: RunningTable, kept: Sequence[tuple[Structure, FramePrediction]], predict_s: float
) -> Evaluation:
    """The same of the frames of a store, of which some are kept."""
    table = sums.table()
    structures, predictions = zip(*kept, strict=True)
    timing = _timing(potential, table, predict_s, 0.0)
    return Evaluation(structures, predictions, table, sums.per_element(), {}, _references(potential), timing)


def evenly_spread(count: int) -> set[int]:
    """Indices of the frames of a store of `count` that an evaluation keeps."""
    return set(np.linspace(0, count - 1, min(KEPT, count)).astype(int).tolist())


def _references(potential: Potential) -> dict[int, float]:
    return dict(zip(potential.elements, potential.reference_energies.tolist(), strict=True))


def _timing(potential: Potential, table: ErrorTable, predict_s: float, neighbors_s: float) -> Timing:
    return Timing(
        neighbors_s=neighbors_s,
        predict_s=predict_s,
        ms_per_frame=1e3 * predict_s / table.frames,
        us_per_atom=1e6 * predict_s / table.atoms,
        device=potential.device.type,
        dtype=str(potential.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


def _evaluate_store(
    potential: Potential,
    view: StoreView,
    max_edges: int,
    progress: Callable[[int, int], None] | None,
    observe: Observer | None,
) -> Evaluation:
    """The same for frames on disk: of most, nothing is kept but their share of the errors."""
    potential.check_elements(view.store.elements)
    dataset = LazyGraphDataset(view, potential.r_max, potential.config.nearest_neighbors)
    sums, done = RunningTable(), 0
    wanted = evenly_spread(len(view))
    kept: list[tuple[Structure, FramePrediction]] = []

    def load(indices: list[int]) -> tuple[list[Structure], AtomGraph]:
        structures = [view[k] for k in indices]
        return structures, collate([dataset.graph(k, s) for k, s in zip(indices, structures, strict=True)])

    start = time.perf_counter()
    batches = EdgeBudgetSampler(dataset.num_edges, max_edges=max_edges, shuffle=False).batches()
    for batch, (structures, graph) in prefetched(load, batches, dataset.workers):
        predictions = split(potential(graph.to(potential.device)), structures)
        sums.add(structures, predictions)
        kept += [(s, p) for k, s, p in zip(batch, structures, predictions, strict=True) if k in wanted]
        if observe is not None:
            observe(structures, predictions)
        done += len(batch)
        if progress is not None:
            progress(done, len(view))
    return summarize_sums(potential, sums, kept, time.perf_counter() - start)


def predict(
    potential: Potential,
    dataset: GraphDataset,
    max_edges: int = MAX_EDGES,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FramePrediction, ...]:
    """Energies, forces and stress of every structure of `dataset`, in its order; nothing is differentiated twice."""
    found: dict[int, FramePrediction] = {}
    for batch in EdgeBudgetSampler(dataset.num_edges, max_edges=max_edges, shuffle=False).batches():
        graph, _ = dataset.batch(batch)
        prediction = potential(graph.to(potential.device))
        found.update(zip(batch, split(prediction, [dataset.structures[k] for k in batch]), strict=True))
        if progress is not None:
            progress(len(found), len(dataset))
    return tuple(found[k] for k in range(len(dataset)))


def split(prediction: Prediction, structures: Sequence[Structure]) -> list[FramePrediction]:
    """A batch's prediction as one of each structure, on the CPU in float64."""
    energy = prediction.energy.detach().cpu().double().numpy()
    forces = prediction.forces.detach().cpu().double().numpy()
    stress = prediction.stress.detach().cpu().double().numpy()
    ends = np.cumsum([len(s) for s in structures])
    return [
        FramePrediction(
            float(energy[k]), own, stress[k] if s.volume is not None and not np.isnan(stress[k]).all() else None
        )
        for k, (s, own) in enumerate(zip(structures, np.split(forces, ends[:-1]), strict=True))
    ]
