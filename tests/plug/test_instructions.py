"""Instructions that cannot work are refused with the reason; merging paths keeps the map."""

from __future__ import annotations

import pytest
import torch

from tdn.errors import ConfigError
from tdn.plug import CPTensorProduct, merge_paths

IRREPS = ("4x0e+4x1o", "2x0e+3x1o", "4x0e+4x1o+6x1e")


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ((0, 0, 0, "uv", True), "mode"),
        ((0, 0, 0, "uvu<v", True), "not supported"),
        ((0, 0, 5, "uvu", True), "do not have"),
        ((0, 0, 1, "uvu", True), "does not allow"),
        ((1, 1, 1, "uvu", True), "does not allow"),
        ((1, 1, 2, "uvu", True), "does not fit"),
        ((0, 0, 0, "uvw", False), "needs weights"),
        ((0, 0, 0, "uvu", True, -1.0), "path_weight"),
        ((0, 0, 0), "expected"),
    ],
)
def test_impossible_instruction_is_refused(instruction: tuple[object, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        CPTensorProduct(*IRREPS, [instruction])


def test_wrong_normalisation_is_refused() -> None:
    path = [(0, 0, 0, "uvu", True)]
    with pytest.raises(ConfigError, match="irrep_normalization"):
        CPTensorProduct(*IRREPS, path, irrep_normalization="components")
    with pytest.raises(ConfigError, match="path_normalization"):
        CPTensorProduct(*IRREPS, path, path_normalization="elements")
    with pytest.raises(ConfigError, match="in1_var"):
        CPTensorProduct(*IRREPS, path, in1_var=[1.0])


def test_merged_paths_are_summed() -> None:
    separate = "4x0e+4x0e+4x1o+4x1o"
    paths = [(0, 0, 0, "uvu", False), (1, 1, 1, "uvu", False), (0, 1, 2, "uvu", False), (1, 0, 3, "uvu", False)]
    out, merged = merge_paths(separate, paths)
    assert str(out) == "4x0e+4x1o"
    x, y = torch.randn(3, 16), torch.randn(3, 4)
    options = {"path_normalization": "none"}
    apart = CPTensorProduct("4x0e+4x1o", "0e+1o", separate, paths, **options)(x, y)
    together = CPTensorProduct("4x0e+4x1o", "0e+1o", out, merged, **options)(x, y)
    sums = torch.cat([apart[:, :4] + apart[:, 4:8], apart[:, 8:20] + apart[:, 20:]], dim=1)
    assert torch.allclose(together, sums, atol=1e-5)
