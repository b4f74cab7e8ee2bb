"""The order of the batches of a run, and batches made ahead of time by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tdn.data.dataset import EdgeBudgetSampler, GraphDataset, Labelled


@dataclass(frozen=True)
class Place:
    """Where a run stands before a batch.

    Attributes:
        epoch: Passes over the data done.
        batch: Batches done of the current one.
        of: Batches of the current one.
        indices: Structures of the batch.
    """

    epoch: int
    batch: int
    of: int
    indices: list[int]

    @property
    def epochs(self) -> float:
        """Passes done, with fractions."""
        return self.epoch + self.batch / self.of


def places(sampler: EdgeBudgetSampler, epoch: int, batch: int) -> Iterator[Place]:
    """Batches from there on, without end."""
    while True:
        batches = sampler.batches(epoch)
        for number in range(batch, len(batches)):
            yield Place(epoch, number, len(batches), batches[number])
        epoch, batch = epoch + 1, 0


def prefetched(dataset: GraphDataset, wanted: Iterator[Place]) -> Iterator[tuple[Place, Labelled]]:
    """The same places with their batches, made ahead by `dataset.workers` threads, in the same order.

    Finding neighbours leaves Python's lock to others, so that threads suffice to keep up with a training step.
    """
    if not dataset.workers:
        for place in wanted:
            yield place, dataset.batch(place.indices)
        return
    with ThreadPoolExecutor(dataset.workers) as pool:
        ahead: deque[tuple[Place, Future[Labelled]]] = deque()
        try:
            for place in wanted:
                ahead.append((place, pool.submit(dataset.batch, place.indices)))
                if len(ahead) > 2 * dataset.workers:
                    first, batch = ahead.popleft()
                    yield first, batch.result()
            while ahead:
                first, batch = ahead.popleft()
                yield first, batch.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
