"""Instructions that several tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tdn.plug.irreps import Irreps, couplings_of


@pytest.fixture
def float64() -> Iterator[None]:
    """New tensors and layers in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def all_paths(in1: str, in2: str, out: str, mode: str) -> list[tuple[int, int, int, str, bool]]:
    """Every path that O(3) allows, in one mode, with weights."""
    first, second, third = Irreps(in1), Irreps(in2), Irreps(out)
    return [
        (i, j, k, mode, True)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        for k, c in enumerate(third)
        if c.ir in couplings_of(a.ir, b.ir)
    ]
