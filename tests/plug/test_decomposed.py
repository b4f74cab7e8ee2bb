"""Networks of e3nn's layers are built with ours, names come back, and no weight is lost in silence."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tdn.errors import ConfigError
from tdn.plug import CPTensorProduct, decomposed, replace_

pytestmark = pytest.mark.usefixtures("float64")
o3 = pytest.importorskip("e3nn.o3")

SOURCE = """
from e3nn import o3
from e3nn.o3 import FullyConnectedTensorProduct, TensorProduct
from torch import nn


def sort_irreps_even_first(irreps):
    return irreps.sort()


def DepthwiseTensorProduct(irreps_in, irreps_edge, irreps_out):
    mid, instructions = [], []
    for i, (mul, a) in enumerate(irreps_in):
        for j, (_, b) in enumerate(irreps_edge):
            for c in a * b:
                if c in irreps_out:
                    instructions.append((i, j, len(mid), "uvu", True))
                    mid.append((mul, c))
    mid, p, _ = sort_irreps_even_first(o3.Irreps(mid))
    instructions = [(i, j, p[k], mode, train) for i, j, k, mode, train in instructions]
    return TensorProduct(irreps_in, irreps_edge, mid, instructions, shared_weights=False, internal_weights=False)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        node, edge = o3.Irreps("4x0e+4x1o+4x2e"), o3.Irreps("0e+1o+2e")
        self.conv = DepthwiseTensorProduct(node, edge, node)
        self.radial = nn.Linear(3, self.conv.weight_numel)
        self.linear = o3.Linear(self.conv.irreps_out.simplify(), node)
        self.skip = FullyConnectedTensorProduct(node, "3x0e", node)

    def forward(self, x, y, r, z):
        return self.linear(self.conv(x, y, self.radial(r))) + self.skip(x, z)
"""


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module with a network in the manner of Equiformer and NequIP."""
    module = types.ModuleType("network_of_e3nn")
    monkeypatch.setitem(sys.modules, "network_of_e3nn", module)
    exec(SOURCE, vars(module))
    return module


def run(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(5, size, generator=generator) for size in (36, 9, 3, 3)]
    return model(*inputs)


def test_shared_paths_are_merged_and_the_radial_network_fits(network: types.ModuleType) -> None:
    with decomposed():
        model = network.Network()
    assert isinstance(model.conv, CPTensorProduct)
    assert model.conv.low_rank
    assert str(model.conv.irreps_out) == "4x0e+4x1o+4x2e"
    assert model.radial.out_features == model.conv.weight_numel == 4
    assert model.skip.weight_numel == 4 * 3 * 4
    run(model).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_sharing_the_network_is_the_same(network: types.ModuleType) -> None:
    torch.manual_seed(0)
    theirs = network.Network()
    torch.manual_seed(0)
    with decomposed(share_paths=False):
        ours = network.Network()
    assert isinstance(ours.skip, CPTensorProduct)
    assert torch.allclose(run(ours), run(theirs), atol=1e-12)


def test_names_come_back_even_after_an_error(network: types.ModuleType) -> None:
    before = (o3.TensorProduct, network.TensorProduct, network.DepthwiseTensorProduct)

    def failing() -> None:
        with decomposed():
            assert network.TensorProduct is not before[1]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        failing()
    assert (o3.TensorProduct, network.TensorProduct, network.DepthwiseTensorProduct) == before


def test_blocks_may_be_nested(network: types.ModuleType) -> None:
    with decomposed(share_paths=True):
        with decomposed(share_paths=False):
            inner = network.TensorProduct("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)])
        outer = network.TensorProduct("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)])
    assert (inner.share_paths, outer.share_paths) == (False, True)
    assert isinstance(network.TensorProduct("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)]), o3.TensorProduct)


def test_layers_built_in_the_block_can_be_pickled(network: types.ModuleType) -> None:
    with decomposed():
        layer = network.FullyConnectedTensorProduct("4x0e+4x1o", "3x0e", "4x0e+4x1o")
    again = pickle.loads(pickle.dumps(layer))
    x, z = torch.randn(2, 16), torch.randn(2, 3)
    assert torch.equal(again(x, z), layer(x, z))


def test_replacing_in_a_built_model_carries_weights_over(network: types.ModuleType) -> None:
    model = network.Network()
    before, state = run(model), model.state_dict()
    assert replace_(model) == ["conv", "skip"]
    assert isinstance(model.conv, CPTensorProduct)
    assert torch.allclose(run(model), before, atol=1e-12)
    model.load_state_dict(state)
    assert replace_(model) == []


def test_replacing_keeps_dtype_and_frozen_weights(network: types.ModuleType) -> None:
    model = network.Network().float()
    model.skip.weight.requires_grad_(False)
    replace_(model)
    assert model.skip.weight.dtype == torch.float32
    assert not model.skip.weight.requires_grad


def test_sharing_in_a_built_model_is_refused_where_weights_would_be_lost(network: types.ModuleType) -> None:
    model = network.Network()
    before = run(model)
    with pytest.raises(ConfigError, match=r"'conv'.*decomposed"):
        replace_(model, share_paths=True)
    with pytest.raises(ConfigError, match="what was learned"):
        replace_(nn.Sequential(model.skip), share_paths=True)
    assert torch.equal(run(model), before)
    untrained = nn.Sequential(network.FullyConnectedTensorProduct("4x0e+4x1o", "3x0e", "4x0e+4x1o"))
    assert replace_(untrained, share_paths=True, discard_weights=True) == ["0"]
    assert untrained[0].weight_numel == 48


def test_products_without_weights_stay(network: types.ModuleType) -> None:
    model = nn.ModuleList([o3.FullTensorProduct("1o", "1o"), o3.TensorSquare("2x1o", "0e")])
    assert replace_(model) == []
