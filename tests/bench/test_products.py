"""The configurations of `tdn bench product`: their paths, and that contenders of one setting compute one map."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tdn.bench.peers import PRODUCTS
from tdn.bench.products import CONFIGURATIONS, WEIGHTS, layer_of, make_product
from tdn.bench.worker import Contender, Task, build


def run(name: str, weights: str, who: str) -> Contender:
    peer = PRODUCTS[weights][who]
    if peer.package == "e3nn":
        pytest.importorskip("e3nn")
    settings = {"product": name, "weights": weights, "edges": 3}
    task = Task(("forward",), [], settings, "float64", "cpu")
    message: dict[str, Any] = {"builder": peer.builder, "options": peer.options, "threads": 0}
    return build({**message, "task": {**task._asdict(), "structures": None}})


@pytest.mark.parametrize(
    ("name", "weights", "paths", "numel"),
    [
        ("mace-large", "path", 17, 17 * 128), ("mace-large", "shared", 17, 128), ("mace-medium", "path", 8, 8 * 128),
        ("nequip-revmd17-benzene", "path", 68, 68 * 64), ("T3", "path", 34, 34 * 256), ("T3", "shared", 34, 256),
        ("sevennet-l3i5", "shared", 34, 128 + 64 + 32),
    ],
)  # fmt: skip
def test_weights_are_counted_by_path_or_once_a_channel(name: str, weights: str, paths: int, numel: int) -> None:
    product = make_product(name, weights)
    assert (len(product.paths), layer_of(product, weights).weight_numel) == (paths, numel)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_has_paths_to_all_its_outputs(name: str) -> None:
    for weights in WEIGHTS:
        product = make_product(name, weights)
        assert {k for _, _, k, *_ in product.paths} == set(range(len(product.out)))


@pytest.mark.parametrize(
    ("name", "weights", "who"),
    [
        ("nequip-water", "path", "e3nn"), ("nequip-water", "shared", "e3nn"), ("nequip-water", "shared", "exact_ke"),
        ("mace-medium", "shared", "exact_cp"), ("tetris-poly-1", "path", "e3nn"),
    ],
)  # fmt: skip
def test_contenders_compute_our_map(name: str, weights: str, who: str) -> None:
    mine, theirs = (run(name, weights, each).passes["forward"]() for each in ("ours", who))
    # e3nn rounds its couplings to the default precision.
    torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)
