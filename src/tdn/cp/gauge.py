"""Rescaling degrees: the freedom in path weights that costs no rank.

Scaling the rows of degree `l` in one factor matrix by `s` scales the weight of every path with that degree in that
role. So path weights `a_l1 b_l2 c_l3 w_path` have the CP rank of `w_path`, and factors are stored in the scaling
whose weights are closest to one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tdn.cp.couplings import Array, Path, degrees_of_components
from tdn.cp.decomposition import Factors

DegreeScales = tuple[Array, Array, Array]


def separable_scales(path_weights: Mapping[Path, float], degrees: tuple[int, int, int]) -> DegreeScales:
    """Positive scales `a_l1, b_l2, c_l3` whose products are nearest to the sizes of the weights.

    Least squares of `log |w| - log a - log b - log c` over the paths; the solution of smallest norm treats roles with
    equal weights alike.

    Returns:
        One scale a degree for each of the three roles.
    """
    sizes = [degree + 1 for degree in degrees]
    starts = np.cumsum([0, *sizes])
    design = np.zeros((len(path_weights), starts[-1]))
    for row, path in enumerate(path_weights):
        design[row, [start + degree for start, degree in zip(starts, path)]] = 1.0  # noqa: B905 - starts has the end too
    target = np.log(np.abs(np.array(list(path_weights.values()))))
    logarithms, *_ = np.linalg.lstsq(design, target, rcond=None)
    first, second, third = np.split(np.exp(logarithms), starts[1:-1])
    return first, second, third


def scale_degrees(factors: Factors, degrees: tuple[int, int, int], scales: DegreeScales) -> Factors:
    """Multiply the rows of every degree by its scale."""
    rows = [scale[degrees_of_components(degree)] for scale, degree in zip(scales, degrees, strict=True)]
    return Factors(*(matrix * row[:, None] for matrix, row in zip(factors.matrices, rows, strict=True)))


def nearest_unit_gauge(factors: Factors, degrees: tuple[int, int, int], path_weights: Mapping[Path, float]) -> Factors:
    """The same factors with degrees scaled so that the path weights are as close to one as scaling can bring them."""
    scales = separable_scales(path_weights, degrees)
    return scale_degrees(factors, degrees, tuple(1.0 / scale for scale in scales)).balanced()  # type: ignore[arg-type]
