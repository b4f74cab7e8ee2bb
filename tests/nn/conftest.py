"""Problems whose arrays have more elements than 32 bits count, in sparse files, so that they need no memory."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tdn.nn.kernels import EdgeIndex


class Problem(NamedTuple):
    """Arguments of the convolution's operators: nodes, table and edges."""

    tensors: dict[str, Any]
    edges: list[Tensor]
    rows: int


@pytest.fixture
def huge_and_small(tmp_path: Path) -> tuple[Problem, Problem]:
    """Edges between the last nodes with the last rows of a table, and the same problem without all the others.

    Node arrays and the table have more than 2³¹ elements. Arrays of edges are small: an index as long needs memory.
    """
    random, (ranks, channels, degrees, terms, used) = torch.Generator().manual_seed(0), (3, 1024, 2, 4, 5)
    numbers, count = itertools.count(), 3

    def pair(*row: int) -> tuple[Tensor, Tensor]:
        size = used + 2**31 // torch.Size(row).numel()
        path = str(tmp_path / f"{next(numbers)}.bin")
        huge = torch.from_file(path, shared=True, size=size * torch.Size(row).numel(), dtype=torch.float32)
        small = torch.randn(used, *row, generator=random)
        huge.view(size, *row)[-used:] = small
        return huge.view(size, *row), small

    nodes = {name: pair(ranks, channels) for name in ("g", "x")} | {"table": pair(degrees, channels)}
    others = {
        "y": torch.randn(count, ranks, 1, degrees, generator=random),
        "basis": torch.randn(count, 1, terms, generator=random),
    }  # fmt: skip
    ends, knot = torch.tensor([[0, 2, 4], [1, 1, 3]]), torch.tensor([1, 0, 1])
    problems = []
    for k in (0, 1):
        tensors = {name: both[k] for name, both in nodes.items()} | others
        first_node, first_row = len(tensors["x"]) - used, len(tensors["table"]) - used
        edges = list(EdgeIndex.build(*(ends + first_node), len(tensors["x"])))
        problems.append(Problem({**tensors, "knot": knot + first_row}, edges, used))
    return problems[0], problems[1]
