"""The order of the batches of a run, and batches made ahead of time by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from tdn.data.dataset import EdgeBudgetSampler

T = TypeVar("T")
R = TypeVar("R")


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


def prefetched(load: Callable[[T], R], wanted: Iterable[T], workers: int) -> Iterator[tuple[T, R]]:
    """Every wanted thing with what `load` makes of it, made ahead by `workers` threads, in the same order.

    Finding neighbours leaves Python's lock to others, so that threads suffice to keep up with a training step.
    """
    if not workers:
        for item in wanted:
            yield item, load(item)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in wanted:
                ahead.append((item, pool.submit(load, item)))
                if len(ahead) > 2 * workers:
                    first, made = ahead.popleft()
                    yield first, made.result()
            while ahead:
                first, made = ahead.popleft()
                yield first, made.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
