"""Every set of path weights has an exact CP form of the rank that is reported."""

from __future__ import annotations

import numpy as np
import pytest

from tdn.cp.couplings import Path, coupling_paths, coupling_tensor
from tdn.cp.tables import load_table
from tdn.cp.universality import factorize
from tdn.errors import ConfigError

SHAPES = [
    ((1, 1, 1), "natural"),
    ((2, 2, 2), "natural"),
    ((2, 1, 2), "all"),
    ((1, 1, 1), "all"),
    ((1, 3, 2), "natural"),
]


@pytest.mark.parametrize(("degrees", "parity"), SHAPES)
def test_random_weights_are_reproduced_exactly(degrees: tuple[int, int, int], parity: str) -> None:
    rng = np.random.default_rng(0)
    weights = {path: rng.standard_normal() for path in coupling_paths(*degrees, parity=parity)}
    result = factorize(weights, degrees, parity)
    exact = coupling_tensor(*degrees, weights)
    assert np.linalg.norm(result.factors.reconstruct() - exact) < 1e-11 * np.linalg.norm(exact)
    d1, d2, d3 = exact.shape
    assert result.rank <= min(d1 * d2, d1 * d3, d2 * d3)
    assert result.rank == result.factors.in1.shape[1]


def test_separable_weights_cost_no_rank() -> None:
    table = load_table(2, 2, 2)
    rng = np.random.default_rng(1)
    a, b, c = (rng.uniform(0.5, 2.0, 3) * rng.choice([-1, 1], 3) for _ in range(3))
    weights = {path: a[path.l1] * b[path.l2] * c[path.l3] * weight for path, weight in table.path_weights.items()}
    result = factorize(weights, table.shape)
    assert result.method == "scaled"
    assert result.rank == table.rank


def test_general_weights_cost_less_than_the_indicator_construction() -> None:
    rng = np.random.default_rng(2)
    weights = {path: rng.standard_normal() for path in coupling_paths(2, 2, 2)}
    result = factorize(weights, (2, 2, 2))
    assert result.method == "sum"
    assert result.rank < 81


def test_a_single_path_is_reproduced() -> None:
    result = factorize({Path(2, 2, 2): 0.7}, (2, 2, 2))
    assert result.residual < 1e-12
    assert result.rank <= 25


def test_paths_that_do_not_belong_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown paths"):
        factorize({Path(1, 1, 1): 1.0}, (1, 1, 1), "natural")
    with pytest.raises(ConfigError, match="non-zero"):
        factorize({Path(0, 0, 0): 0.0}, (1, 1, 1), "natural")
