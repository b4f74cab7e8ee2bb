"""Theorem 3.2 of the TDN paper as a program: every equivariant bilinear map has a CP form, and this is its rank.

An equivariant bilinear map is a set of path weights. Weights `a_l1 b_l2 c_l3 v_path`, with `v` the weights of a
shipped table, cost the table's rank `R`: only rows are scaled. A sum of `K` such terms costs at most `K R`. Whatever
needs more terms than that is worth is written down directly with one term a pair of input components, the paper's
construction, of rank at most `min(d1 d2, d1 d3, d2 d3)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from tdn.cp.couplings import Array, Path, PathParity, coupling_paths, coupling_tensor
from tdn.cp.decomposition import Factors
from tdn.cp.gauge import scale_degrees
from tdn.cp.tables import load_table
from tdn.errors import ConfigError, FactorTableError

_EXACT = 1e-12
_STARTS = 4


@dataclass(frozen=True)
class Factorization:
    """CP form of an equivariant bilinear map.

    Attributes:
        factors: The factors.
        method: "scaled" (one table with scaled degrees), "sum" (several of them) or "indicator" (written down).
        residual: `|M^ - M|_F / |M|_F`.
    """

    factors: Factors
    method: str
    residual: float

    @property
    def rank(self) -> int:
        """Number of terms."""
        return self.factors.rank


def factorize(
    path_weights: Mapping[Path, float], degrees: tuple[int, int, int], parity: PathParity = "natural", seed: int = 0
) -> Factorization:
    """Exact CP form of the bilinear map with the given path weights; paths left out have weight zero.

    Args:
        path_weights: Weights against unit-norm `wigner_3j`.
        degrees: Largest degrees `(in1, in2, out)`.
        parity: Which paths may occur.
        seed: Seed of the search for sums of separable weights.

    Raises:
        ConfigError: If a path does not belong to the shape, or all weights are zero.
    """
    paths = coupling_paths(*degrees, parity=parity)
    unknown = [tuple(path) for path in path_weights if path not in paths]
    if unknown or not any(path_weights.values()):
        raise ConfigError(f"expected non-zero weights of {parity} paths of {degrees}, got unknown paths {unknown}")
    target = coupling_tensor(*degrees, path_weights)
    written = _indicator_factors(target)
    scaled = _scaled_tables(path_weights, degrees, parity, written.rank, seed)
    factors, method = (written, "indicator") if scaled is None or scaled[0].rank >= written.rank else scaled
    residual = float(np.linalg.norm(factors.reconstruct() - target) / np.linalg.norm(target))
    return Factorization(factors, method, residual)


def _indicator_factors(target: Array) -> Factors:
    """One term for every pair of components of two roles, for the pair of roles that needs the fewest."""
    best: Factors | None = None
    for role in range(3):
        pairs = np.argwhere(np.abs(target).max(axis=role) > 0.0)
        others = [other for other in range(3) if other != role]
        matrices: list[Array] = [np.empty(0)] * 3
        for other, index in zip(others, pairs.T, strict=True):
            matrices[other] = np.eye(target.shape[other])[:, index]
        matrices[role] = np.moveaxis(target, role, 0)[:, pairs[:, 0], pairs[:, 1]]
        candidate = Factors(*matrices).balanced()
        if best is None or candidate.rank < best.rank:
            best = candidate
    assert best is not None
    return best


def _scaled_tables(
    path_weights: Mapping[Path, float], degrees: tuple[int, int, int], parity: PathParity, limit: int, seed: int
) -> tuple[Factors, str] | None:
    """Sum of as few scaled copies of the shipped table as reproduce the weights, if that is below `limit` terms."""
    try:
        table = load_table(*degrees, parity=parity)
    except FactorTableError:
        return None
    paths = list(table.path_weights)
    ratios = np.array([path_weights.get(path, 0.0) / table.path_weights[path] for path in paths])
    rng = np.random.default_rng(seed)
    for count in range(1, limit // table.rank + 1):
        scales = _separable_sum(np.array(paths), ratios, degrees, count, rng)
        if scales is not None:
            copies = [scale_degrees(table.factors, degrees, scale).balanced() for scale in scales]
            joined = (np.concatenate(parts, axis=1) for parts in zip(*(copy.matrices for copy in copies), strict=True))
            return Factors(*joined), "scaled" if count == 1 else "sum"
    return None


def _separable_sum(
    paths: np.ndarray, ratios: Array, degrees: tuple[int, int, int], count: int, rng: np.random.Generator
) -> list[tuple[Array, Array, Array]] | None:
    """Scales with `sum_k a_k[l1] b_k[l2] c_k[l3] = ratio` on every path, or None if none were found."""
    sizes = [degree + 1 for degree in degrees]
    ends = np.cumsum(sizes) * count

    def unpack(values: Array) -> list[Array]:
        return [part.reshape(count, -1) for part in np.split(values, ends[:-1])]

    def errors(values: Array) -> Array:
        a, b, c = (scale[:, paths[:, role]] for role, scale in enumerate(unpack(values)))
        return (a * b * c).sum(axis=0) - ratios

    def jacobian(values: Array) -> Array:
        scales = unpack(values)
        picked = [scale[:, paths[:, role]] for role, scale in enumerate(scales)]
        columns = []
        for role, size in enumerate(sizes):
            others = np.prod([part for other, part in enumerate(picked) if other != role], axis=0)
            onehot = np.eye(size)[paths[:, role]]
            columns.append((others[:, :, None] * onehot[None]).transpose(1, 0, 2).reshape(len(paths), -1))
        return np.concatenate(columns, axis=1)

    for _ in range(_STARTS):
        start = rng.standard_normal(ends[-1]) * np.cbrt(np.abs(ratios).max())
        found = optimize.least_squares(
            errors,
            start,
            jac=jacobian,  # pyright: ignore[reportArgumentType]
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=200,
        )
        largest = np.abs(found.x).max()
        if np.linalg.norm(found.fun) < _EXACT * np.linalg.norm(ratios) and largest < 100 * np.cbrt(
            np.abs(ratios).max()
        ):
            a, b, c = unpack(found.x)
            return list(itertools.starmap(lambda *scale: scale, zip(a, b, c, strict=True)))
    return None
