"""The derived products have e3nn's outputs, weights and order."""

from __future__ import annotations

import pytest
import torch

from tdn.errors import ConfigError
from tdn.plug import CPElementwiseTensorProduct, CPFullTensorProduct, CPFullyConnectedTensorProduct

pytestmark = pytest.mark.usefixtures("float64")


def test_fully_connected_is_e3nn() -> None:
    o3 = pytest.importorskip("e3nn.o3")
    irreps = ("3x0e+2x1o+1x1o", "2x0e+1x1o", "4x0e+2x1o+1x1e+3x2e")
    theirs, ours = o3.FullyConnectedTensorProduct(*irreps), CPFullyConnectedTensorProduct(*irreps, signs="installed")
    ours.load_state_dict(theirs.state_dict())
    x, y = torch.randn(5, theirs.irreps_in1.dim), torch.randn(5, theirs.irreps_in2.dim)
    assert torch.allclose(ours(x, y), theirs(x, y), atol=1e-12)


def test_scalar_second_input_with_many_copies_is_e3nn() -> None:
    o3 = pytest.importorskip("e3nn.o3")
    irreps = ("3x0e+2x1o+2x2e", "20x0e", "4x0e+2x1o+1x2e")
    theirs, ours = o3.FullyConnectedTensorProduct(*irreps), CPFullyConnectedTensorProduct(*irreps, signs="installed")
    assert set(ours.kernels) == {"Scalars"}
    ours.load_state_dict(theirs.state_dict())
    x, y = torch.randn(5, theirs.irreps_in1.dim), torch.randn(5, theirs.irreps_in2.dim)
    assert torch.allclose(ours(x, y), theirs(x, y), atol=1e-12)


@pytest.mark.parametrize("kept", [None, ["0e", "1o"]])
def test_full_product_is_e3nn(kept: list[str] | None) -> None:
    o3 = pytest.importorskip("e3nn.o3")
    irreps = ("3x0e+2x1o+1x1o", "2x0e+1x1o")
    theirs, ours = o3.FullTensorProduct(*irreps, kept), CPFullTensorProduct(*irreps, kept, signs="installed")
    assert str(ours.irreps_out) == str(theirs.irreps_out)
    x, y = torch.randn(5, 12), torch.randn(5, 5)
    assert torch.allclose(ours(x, y), theirs(x, y), atol=1e-12)


@pytest.mark.parametrize("kept", [None, ["0e", "1e"]])
def test_elementwise_product_is_e3nn(kept: list[str] | None) -> None:
    o3 = pytest.importorskip("e3nn.o3")
    irreps = ("3x1o+3x1e+1x0e", "4x1o+2x2e+1x0o")
    theirs, ours = (
        o3.ElementwiseTensorProduct(*irreps, kept),
        CPElementwiseTensorProduct(*irreps, kept, signs="installed"),
    )
    assert str(ours.irreps_out) == str(theirs.irreps_out)
    x, y = torch.randn(5, 19), torch.randn(5, 23)
    assert torch.allclose(ours(x, y), theirs(x, y), atol=1e-12)


def test_elementwise_product_needs_equal_numbers() -> None:
    with pytest.raises(ConfigError, match="as many copies"):
        CPElementwiseTensorProduct("2x0e", "3x0e")
