"""Graphs with targets and the batches made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tdn.data.dataset import EdgeBudgetSampler, GraphDataset, Targets, collate_labelled
from tdn.data.reading import read_frames
from tdn.errors import ConfigError, DataError
from tdn.structure import Structure


def chain(length: int, **labels: object) -> Structure:
    """Carbon atoms 1.5 Å apart on a line: 2 (length - 1) edges within 2 Å."""
    positions = np.zeros((length, 3))
    positions[:, 0] = 1.5 * np.arange(length)
    return Structure(np.full(length, 6), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), **labels)


def test_targets_are_collated_with_masks() -> None:
    structures = [
        chain(2, energy=-1e5 - 1e-6, forces=np.ones((2, 3))),
        chain(3, stress=np.eye(3)),
    ]
    graph, targets = GraphDataset(structures, 2.0).batch([1, 0])
    assert graph.num_graphs == 2
    assert targets.energy.dtype == torch.float64
    assert targets.energy[1].item() == -1e5 - 1e-6
    assert targets.has_energy.tolist() == [False, True]
    assert targets.has_forces.tolist() == [False, True]
    assert targets.has_stress.tolist() == [True, False]
    assert torch.equal(targets.forces[graph.batch == 1], torch.ones(2, 3, dtype=torch.float64))
    assert torch.equal(targets.forces[graph.batch == 0], torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(targets.stress, torch.stack([torch.eye(3), torch.zeros(3, 3)]).double())


def test_batch_is_the_collation_of_its_items() -> None:
    dataset = GraphDataset([chain(n, energy=float(n)) for n in (2, 3, 4)], 2.0)
    graph, targets = dataset.batch([2, 0])
    again, same = collate_labelled([dataset[2], dataset[0]])
    assert torch.equal(graph.senders, again.senders)
    assert torch.equal(targets.energy, same.energy)
    assert targets.to("cpu").energy.tolist() == [4.0, 2.0]
    assert isinstance(targets, Targets)


def test_edges_neighbors_and_progress() -> None:
    seen: list[tuple[int, int]] = []
    dataset = GraphDataset([chain(1), chain(5)], 2.0, progress=lambda done, total: seen.append((done, total)))
    assert dataset.num_edges == [0, 8]
    assert dataset.mean_neighbors == pytest.approx(8 / 6)
    assert seen == [(1, 2), (2, 2)]


def test_overlapping_atoms_name_the_frame() -> None:
    broken = Structure(np.array([1, 1]), np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    with pytest.raises(DataError, match=r"Frame x\.xyz:7: Atoms"):
        GraphDataset([chain(2), broken], 2.0, origins=["x.xyz:6", "x.xyz:7"])


SIZES = np.random.default_rng(0).integers(1, 400, size=100).tolist()


def test_every_structure_comes_once_and_limits_hold() -> None:
    batches = EdgeBudgetSampler(SIZES, batch_size=7, max_edges=900, seed=2).batches(0)
    assert sorted(k for batch in batches for k in batch) == list(range(100))
    assert max(len(batch) for batch in batches) <= 7
    assert max(sum(SIZES[k] for k in batch) for batch in batches) <= 900


def test_a_structure_over_the_budget_is_alone() -> None:
    batches = EdgeBudgetSampler([10, 500, 10, 10], max_edges=30, shuffle=False).batches()
    assert batches == [[0], [1], [2, 3]]


def test_order_depends_on_seed_and_epoch_only() -> None:
    first = EdgeBudgetSampler(SIZES, batch_size=5, seed=1)
    first.batches(0)
    assert first.batches(3) == EdgeBudgetSampler(SIZES, batch_size=5, seed=1).batches(3)
    assert first.batches(3) != first.batches(4)
    assert first.batches(3) != EdgeBudgetSampler(SIZES, batch_size=5, seed=2).batches(3)


def test_without_shuffle_the_order_is_kept() -> None:
    assert EdgeBudgetSampler([1] * 5, batch_size=2, shuffle=False).batches(9) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_get_equally_many_batches_and_cover_everything(world_size: int) -> None:
    ranks = [
        EdgeBudgetSampler(SIZES, max_edges=1500, seed=4, rank=rank, world_size=world_size).batches(1)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert {k for batches in ranks for batch in batches for k in batch} == set(range(100))


def test_more_ranks_than_batches_repeat_them() -> None:
    ranks = [EdgeBudgetSampler([1, 1], batch_size=1, shuffle=False, rank=r, world_size=5).batches() for r in range(5)]
    assert ranks == [[[0]], [[1]], [[0]], [[1]], [[0]]]


@pytest.mark.parametrize("arguments", [{}, {"batch_size": 0}, {"max_edges": -1}, {"batch_size": 1, "rank": 2}])
def test_senseless_limits_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        EdgeBudgetSampler([1, 2], **arguments)


def test_real_size_mix_stays_within_the_budget(data_dir: Path) -> None:
    frames = read_frames(data_dir / "solvent_xtb" / "solvent_train.xyz").select(range(60))
    dataset = GraphDataset(frames.structures, 5.0, frames.origins)
    sampler = EdgeBudgetSampler(dataset.num_edges, max_edges=2000)
    edges = [dataset.batch(indices)[0].num_edges for indices in sampler.batches(0)]
    assert max(edges) <= 2000
    assert sum(edges) == sum(dataset.num_edges)


def test_a_limit_of_neighbors_bounds_the_graphs() -> None:
    whole, few = GraphDataset([chain(7)], 4.0), GraphDataset([chain(7)], 4.0, max_neighbors=2)
    assert whole.num_edges == [22]
    # Two neighbours each, and at the ends the next two, which are not equally far.
    assert few.num_edges == [14]
