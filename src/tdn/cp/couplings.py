"""Exact coupling (Clebsch-Gordan) tensors of the rotation group in the real basis and normalisation of e3nn.

A coupling path `(l1, l2, l3)` carries one equivariant bilinear map, the real Wigner 3j tensor. Summing the paths of
a shape gives the coupling tensor `M[i, j, k]` that the rest of `tdn.cp` decomposes. Components are ordered by degree
and inside a degree as in e3nn; the three components of degree 1 transform like the Cartesian (x, y, z).

*Natural parity* means that degree `l` has the parity `(-1)^l` of the spherical harmonics; O(3) then allows only
paths with even `l1 + l2 + l3`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tdn.errors import ConfigError

Array = NDArray[np.float64]
PathParity = Literal["natural", "all"]


class Path(NamedTuple):
    """One coupling path: degrees of the two inputs and of the output."""

    l1: int
    l2: int
    l3: int


class Irrep(NamedTuple):
    """An irreducible representation of O(3): degree `l` and parity `p` (+1 even, -1 odd)."""

    l: int
    p: int

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"


class IrrepPath(NamedTuple):
    """One path between three lists of irreps, by position in each list."""

    first: int
    second: int
    out: int


def dimension(lmax: int) -> int:
    """Number of components of the degrees 0..lmax, `(lmax + 1)^2`."""
    return (lmax + 1) ** 2


def degree_slice(degree: int) -> slice:
    """Components of one degree among those of degrees 0..lmax."""
    return slice(degree**2, (degree + 1) ** 2)


def degrees_of_components(lmax: int) -> NDArray[np.int64]:
    """Degree of every component, shape `[(lmax + 1)^2]`."""
    return np.repeat(np.arange(lmax + 1), 2 * np.arange(lmax + 1) + 1)


def _su2_coefficient(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Clebsch-Gordan coefficient <l1 m1 l2 m2 | l3 m1+m2> by Racah's formula, in exact integers up to two roots."""
    m3 = m1 + m2
    f = math.factorial
    prefactor = math.sqrt(
        (2 * l3 + 1)
        * f(l3 + l1 - l2)
        * f(l3 - l1 + l2)
        * f(l1 + l2 - l3)
        / f(l1 + l2 + l3 + 1)
        * (f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2))
    )
    first = max(0, l2 - l3 - m1, l1 - l3 + m2)
    last = min(l1 + l2 - l3, l1 - m1, l2 + m2)
    # The alternating sum cancels, so it is summed over a common denominator in integers.
    terms = [
        (k, f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k) * f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k))
        for k in range(first, last + 1)
    ]
    common = math.lcm(*(denominator for _, denominator in terms))
    total = sum((-1) ** k * (common // denominator) for k, denominator in terms)
    return prefactor * (total / common)


def _real_basis(degree: int) -> NDArray[np.complex128]:
    """Unitary matrix `[m, component]` from e3nn's real components to complex harmonics with m = -l..l."""
    matrix = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    matrix[degree, degree] = 1.0
    for m in range(1, degree + 1):
        sign = (-1) ** m
        matrix[degree - m, [degree + m, degree - m]] = 1 / math.sqrt(2), -1j / math.sqrt(2)
        matrix[degree + m, [degree + m, degree - m]] = sign / math.sqrt(2), 1j * sign / math.sqrt(2)
    # The phase makes the coupling tensors real for odd l1 + l2 + l3 as well.
    return (-1j) ** degree * matrix


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> Array:
    """Real Wigner 3j tensor of unit Frobenius norm, equal to `e3nn.o3.wigner_3j`.

    Returns:
        Read-only array `[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]`, invariant under simultaneous rotation of its three indices.

    Raises:
        ConfigError: If the degrees violate the triangle rule `|l1 - l2| <= l3 <= l1 + l2`.
    """
    if min(l1, l2, l3) < 0 or not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ConfigError(f"no coupling ({l1}, {l2}, {l3}): expected |l1 - l2| <= l3 <= l1 + l2 with degrees >= 0")
    complex_tensor = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            complex_tensor[l1 + m1, l2 + m2, l3 + m1 + m2] = _su2_coefficient(l1, m1, l2, m2, l3)
    tensor = np.einsum(
        "ai,bj,ck,abc->ijk", _real_basis(l1), _real_basis(l2), _real_basis(l3).conj(), complex_tensor, optimize=True
    ).real
    # Rounding noise off the selection rules is removed so that the sparsity is exact.
    tensor[np.abs(tensor) < 1e-14] = 0.0
    tensor /= np.linalg.norm(tensor)
    tensor.setflags(write=False)
    return tensor


def coupling_paths(lmax_in1: int, lmax_in2: int, lmax_out: int, parity: PathParity = "natural") -> tuple[Path, ...]:
    """Every path between the degrees 0..lmax of two inputs and an output.

    Args:
        lmax_in1: Largest degree of the first input.
        lmax_in2: Largest degree of the second input.
        lmax_out: Largest degree of the output.
        parity: "natural" keeps even `l1 + l2 + l3` (O(3)); "all" keeps every path (SO(3)).

    Raises:
        ConfigError: If a degree is negative or the parity is unknown.
    """
    if min(lmax_in1, lmax_in2, lmax_out) < 0:
        raise ConfigError(f"degrees must be >= 0, got ({lmax_in1}, {lmax_in2}, {lmax_out})")
    if parity not in ("natural", "all"):
        raise ConfigError(f"parity must be 'natural' or 'all', got {parity!r}")
    return tuple(
        Path(l1, l2, l3)
        for l1 in range(lmax_in1 + 1)
        for l2 in range(lmax_in2 + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, lmax_out) + 1)
        if parity == "all" or (l1 + l2 + l3) % 2 == 0
    )


def coupling_tensor(lmax_in1: int, lmax_in2: int, lmax_out: int, path_weights: Mapping[Path, float]) -> Array:
    """Sum of `path_weights[path] * wigner_3j(*path)`, each in the block of its degrees.

    Returns:
        `[(lmax_in1 + 1)^2, (lmax_in2 + 1)^2, (lmax_out + 1)^2]`.

    Raises:
        ConfigError: If a path does not fit the degrees.
    """
    tensor = np.zeros((dimension(lmax_in1), dimension(lmax_in2), dimension(lmax_out)))
    for path, weight in path_weights.items():
        l1, l2, l3 = path
        if l1 > lmax_in1 or l2 > lmax_in2 or l3 > lmax_out:
            raise ConfigError(f"path {tuple(path)} exceeds the degrees ({lmax_in1}, {lmax_in2}, {lmax_out})")
        tensor[degree_slice(l1), degree_slice(l2), degree_slice(l3)] = weight * wigner_3j(l1, l2, l3)
    return tensor


def parse_irreps(text: str) -> tuple[Irrep, ...]:
    """Read a list of irreps such as "0e+1o+1e+2e" (multiplicity one each).

    Raises:
        ConfigError: If a term is not a degree followed by `e` or `o`.
    """
    irreps = []
    for term in text.split("+"):
        match = re.fullmatch(r"\s*(?:1x)?(\d+)([eo])\s*", term)
        if match is None:
            raise ConfigError(f"cannot read irrep {term.strip()!r} in {text!r}: expected terms like 0e, 1o, 2e")
        irreps.append(Irrep(int(match[1]), 1 if match[2] == "e" else -1))
    return tuple(irreps)


def natural_irreps(lmax: int) -> tuple[Irrep, ...]:
    """The irreps of the spherical harmonics, "0e+1o+2e+..." to degree `lmax`."""
    return tuple(Irrep(degree, (-1) ** degree) for degree in range(lmax + 1))


def irreps_paths(in1: Sequence[Irrep], in2: Sequence[Irrep], out: Sequence[Irrep]) -> tuple[IrrepPath, ...]:
    """Every path that O(3) allows between three lists of irreps: triangle rule and product of parities."""
    return tuple(
        IrrepPath(a, b, c)
        for a, first in enumerate(in1)
        for b, second in enumerate(in2)
        for c, third in enumerate(out)
        if abs(first.l - second.l) <= third.l <= first.l + second.l and first.p * second.p == third.p
    )


def irreps_coupling_tensor(
    in1: Sequence[Irrep],
    in2: Sequence[Irrep],
    out: Sequence[Irrep],
    path_weights: Mapping[IrrepPath, float] | None = None,
) -> Array:
    """Coupling tensor between three lists of irreps; every allowed path with weight one unless weights are given.

    Returns:
        `[d1, d2, d3]` with `d = sum(2 l + 1)` over the irreps of each list, in the order of the lists.

    Raises:
        ConfigError: If a path is not allowed by O(3).
    """
    allowed = irreps_paths(in1, in2, out)
    weights = dict.fromkeys(allowed, 1.0) if path_weights is None else path_weights
    starts = [np.concatenate([[0], np.cumsum([2 * irrep.l + 1 for irrep in irreps])]) for irreps in (in1, in2, out)]
    tensor = np.zeros([start[-1] for start in starts])
    for path, weight in weights.items():
        if path not in allowed:
            raise ConfigError(f"path {tuple(path)} between {in1}, {in2}, {out} is not allowed by O(3)")
        block = tuple(slice(start[n], start[n + 1]) for start, n in zip(starts, path, strict=True))
        tensor[block] = weight * wigner_3j(in1[path.first].l, in2[path.second].l, out[path.out].l)
    return tensor


def spherical_harmonics(lmax: int, directions: Array) -> Array:
    """Real spherical harmonics with component normalisation (`|Y_l|^2 = 2 l + 1`), in e3nn's basis.

    Degree `l` is built from degrees 1 and `l - 1` with the coupling `(1, l - 1, l)`, which fixes the basis by
    construction; the factor is read off at one direction where the component of order zero must be positive.

    Args:
        lmax: Largest degree.
        directions: `[..., 3]` vectors (x, y, z) of any non-zero length.

    Returns:
        `[..., (lmax + 1)^2]`.
    """
    directions = np.asarray(directions, dtype=np.float64)
    units = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    # The pole of e3nn's harmonics is the y axis: there only the middle component of each degree is non-zero.
    pole = np.array([0.0, 1.0, 0.0])
    harmonics, at_pole = [np.ones((*units.shape[:-1], 1))], np.ones(1)
    for degree in range(1, lmax + 1):
        coupling = wigner_3j(1, degree - 1, degree)
        raw_pole = np.einsum("ijk,i,j->k", coupling, pole, at_pole)
        factor = math.sqrt(2 * degree + 1) / raw_pole[degree]
        at_pole = factor * raw_pole
        harmonics.append(factor * np.einsum("ijk,...i,...j->...k", coupling, units, harmonics[-1], optimize=True))
    return np.concatenate(harmonics, axis=-1)


def representation_matrix(lmax: int, rotations: Array) -> Array:
    """Block-diagonal matrices of natural parity by which features of degrees 0..lmax transform under O(3).

    `D_l = (2 l + 1) C^T (R x D_{l-1}) C` with `C = wigner_3j(1, l - 1, l)`: the Wigner matrices (for proper
    rotations) without angles. A reflection gives degree `l` its factor `(-1)^l`.

    Args:
        lmax: Largest degree.
        rotations: `[..., 3, 3]` orthogonal matrices that act on column vectors (x, y, z).

    Returns:
        `[..., (lmax + 1)^2, (lmax + 1)^2]`.
    """
    rotations = np.asarray(rotations, dtype=np.float64)
    matrix = np.zeros((*rotations.shape[:-2], dimension(lmax), dimension(lmax)))
    block = np.ones((*rotations.shape[:-2], 1, 1))
    matrix[..., 0, 0] = 1.0
    for degree in range(1, lmax + 1):
        coupling = wigner_3j(1, degree - 1, degree)
        block = (2 * degree + 1) * np.einsum(
            "abi,...ac,...bd,cdj->...ij", coupling, rotations, block, coupling, optimize=True
        )
        matrix[..., degree_slice(degree), degree_slice(degree)] = block
    return matrix


def random_rotations(count: int, rng: np.random.Generator, improper: bool = False) -> Array:
    """Uniformly random orthogonal matrices `[count, 3, 3]` of determinant +1, or -1 if `improper`."""
    matrices, triangular = np.linalg.qr(rng.standard_normal((count, 3, 3)))
    matrices = matrices * np.sign(np.diagonal(triangular, axis1=-2, axis2=-1))[:, None, :]
    wanted = -1.0 if improper else 1.0
    return matrices * (wanted * np.linalg.det(matrices))[:, None, None]
