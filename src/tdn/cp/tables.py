"""Shipped CP factors of coupling tensors: loading them is instant, nothing is ever fitted here.

A table stands for `sum_r in1[i, r] in2[j, r] out[k, r] = sum_paths w_path * wigner_3j(path)[i, j, k]` with the raw
Wigner 3j tensors of unit norm and path weights `w_path` of order one; layers that want outputs of unit variance scale
the rows of `out` by `sqrt(2 l3 + 1)` themselves.

Natural-parity tables are stored once for sorted degrees, because the coupling does not change when its three roles
are permuted; other orders, and shapes whose best table is a part of a larger one, are derived while loading.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import permutations
from pathlib import Path as FilePath
from typing import Literal

import numpy as np

from tdn.cp.certificate import EXACT_RESIDUAL, Certificate, certify
from tdn.cp.couplings import Array, Path, PathParity, coupling_paths, coupling_tensor, degrees_of_components, dimension
from tdn.cp.decomposition import Factors
from tdn.errors import FactorTableError
from tdn.files import atomic_write

FORMAT_VERSION = 1
FACTORS_FOLDER = FilePath(__file__).parent / "factors"
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class FactorTable:
    """CP factors of one coupling tensor.

    Attributes:
        lmax_in1: Largest degree of the first input.
        lmax_in2: Largest degree of the second input.
        lmax_out: Largest degree of the output.
        parity: "natural" (O(3), even `l1 + l2 + l3`) or "all" (SO(3)).
        in1: `[(lmax_in1 + 1)^2, R]`.
        in2: `[(lmax_in2 + 1)^2, R]`.
        out: `[(lmax_out + 1)^2, R]`.
        path_weights: Weight of every path of the shape against unit-norm `wigner_3j`.
        method: How the factors were found, in words.
        stored_certificate: Certificate of the file, None for tables derived from another one.
        metadata: Settings and seed with which the solver finds the table again.
    """

    lmax_in1: int
    lmax_in2: int
    lmax_out: int
    parity: PathParity
    in1: Array
    in2: Array
    out: Array
    path_weights: Mapping[Path, float]
    method: str
    stored_certificate: Certificate | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Number of rank-one terms."""
        return self.in1.shape[1]

    @property
    def shape(self) -> Shape:
        """Largest degrees `(in1, in2, out)`."""
        return self.lmax_in1, self.lmax_in2, self.lmax_out

    @property
    def factors(self) -> Factors:
        """The three factor matrices."""
        return Factors(self.in1, self.in2, self.out)

    @property
    def name(self) -> str:
        """Name such as `natural-2-2-2-r17`, also the stem of its file."""
        return "{}-{}-{}-{}-r{}".format(self.parity, *self.shape, self.rank)

    @property
    def weight_range(self) -> tuple[float, float]:
        """Smallest and largest path weight."""
        return min(self.path_weights.values()), max(self.path_weights.values())

    @cached_property
    def certificate(self) -> Certificate:
        """The stored certificate, measured on first use where the table was derived from another one."""
        if self.stored_certificate is not None:
            return self.stored_certificate
        return certify(self.factors, self.shape, self.parity, self.path_weights)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the factors' values and shapes."""
        sha = hashlib.sha256()
        for matrix in self.factors.matrices:
            sha.update(str(matrix.shape).encode())
            sha.update(np.ascontiguousarray(matrix, dtype="<f8").tobytes())
        return sha.hexdigest()

    def coupling(self) -> Array:
        """The exact coupling tensor `[d1, d2, d3]` for the table's path weights."""
        return coupling_tensor(*self.shape, self.path_weights)

    def reconstruct(self) -> Array:
        """The tensor `[d1, d2, d3]` that the factors stand for."""
        return self.factors.reconstruct()


@dataclass(frozen=True)
class TableFile:
    """One shipped file, known by its name alone."""

    parity: PathParity
    shape: Shape
    rank: int
    fit: bool
    path: FilePath


def list_tables(folder: FilePath = FACTORS_FOLDER) -> tuple[TableFile, ...]:
    """The table files of a folder, by parity, shape and rank; names alone are read."""
    pattern = re.compile(r"(natural|all)-(\d+)-(\d+)-(\d+)-r(\d+)(-fit)?\.npz")
    found = []
    for path in folder.glob("*.npz"):
        match = pattern.fullmatch(path.name)
        if match is not None:
            parity: PathParity = "natural" if match[1] == "natural" else "all"
            shape = (int(match[2]), int(match[3]), int(match[4]))
            found.append(TableFile(parity, shape, int(match[5]), match[6] is not None, path))
    return tuple(sorted(found, key=lambda file: (file.parity, file.shape, file.rank)))


def load_table(
    lmax_in1: int,
    lmax_in2: int,
    lmax_out: int,
    parity: PathParity = "natural",
    rank: int | Literal["paper"] | None = None,
) -> FactorTable:
    """Load the factors of a shape.

    Args:
        lmax_in1: Largest degree of the first input.
        lmax_in2: Largest degree of the second input.
        lmax_out: Largest degree of the output; degrees that no path reaches get zero rows.
        parity: "natural" or "all".
        rank: None for the smallest exact rank, a number for the stored table of that rank, "paper" for the
            approximate fit of all paths at the paper's rank `7 L^2`.

    Raises:
        FactorTableError: If no such table is shipped; the message lists what there is.
    """
    shape = (lmax_in1, lmax_in2, lmax_out)
    if min(shape) < 0 or parity not in ("natural", "all"):
        raise FactorTableError(f"degrees must be >= 0 and parity 'natural' or 'all', got {shape}, {parity!r}")
    table = _load_reachable(_reachable(shape), parity, rank)
    return table if table.shape == shape else _padded(table, shape)


@lru_cache(maxsize=64)
def _load_reachable(shape: Shape, parity: PathParity, rank: int | Literal["paper"] | None) -> FactorTable:
    if min(shape) == 0 and rank is None:
        return _scalar_table(shape, parity)
    candidates = list(_candidates(shape, parity, rank))
    if not candidates:
        raise FactorTableError(_missing_message(shape, parity, rank))
    # Exact tables first, then the smallest rank, then the table that needs the least derivation.
    file, roles = min(
        candidates, key=lambda found: (found[0].fit, found[0].rank, found[0].shape != shape, found[1] != (0, 1, 2))
    )
    table = read_table(file.path)
    return table if file.shape == shape and roles == (0, 1, 2) else _derived(table, shape, roles)


def _candidates(
    shape: Shape, parity: PathParity, rank: int | Literal["paper"] | None
) -> Iterator[tuple[TableFile, Shape]]:
    """Files that hold the shape, with the role of the file that each role of the shape takes."""
    for file in list_tables():
        wanted = file.fit if rank == "paper" else (not file.fit if rank is None else file.rank == rank)
        if file.parity != parity or not wanted:
            continue
        for first, second, third in permutations(range(3)):
            roles = (first, second, third)
            # Odd paths change sign under an exchange of two roles, so "all" tables are only rotated cyclically.
            if parity == "all" and roles not in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
                continue
            held = tuple(file.shape[role] for role in roles)
            if held == shape or (rank is None and all(h >= s for h, s in zip(held, shape, strict=True))):
                yield file, roles


def _derived(table: FactorTable, shape: Shape, roles: tuple[int, int, int]) -> FactorTable:
    """Permute the roles of a table and keep the degrees of `shape`."""
    d1, d2, d3 = (dimension(degree) for degree in shape)
    factors = table.factors.permuted(roles).truncated(d1, d2, d3).balanced()
    weights = {Path(*(path[role] for role in roles)): weight for path, weight in table.path_weights.items()}
    kept = {path: weights[path] for path in coupling_paths(*shape, parity=table.parity)}
    return FactorTable(*shape, table.parity, *factors.matrices, kept, f"{table.method}, from {table.name}",
                       None, table.metadata)  # fmt: skip


def _reachable(shape: Shape) -> Shape:
    """The shape without degrees that the triangle rule excludes from every path."""
    a, b, c = shape
    return min(a, b + c), min(b, a + c), min(c, a + b)


def _padded(table: FactorTable, shape: Shape) -> FactorTable:
    matrices = []
    for matrix, degree in zip(table.factors.matrices, shape, strict=True):
        rows = np.zeros((dimension(degree), table.rank))
        rows[: matrix.shape[0]] = matrix
        matrices.append(rows)
    in1, in2, out = matrices
    return FactorTable(*shape, table.parity, in1, in2, out, table.path_weights, f"{table.method}, padded",
                       None, table.metadata)  # fmt: skip


def _scalar_table(shape: Shape, parity: PathParity) -> FactorTable:
    """Couplings with a scalar in one role are `delta / sqrt(2 l + 1)`: one term a component, written down directly."""
    role = shape.index(0)
    degree = max(shape)
    scale = np.power(2.0 * degrees_of_components(degree) + 1.0, -1.0 / 6.0, dtype=np.float64)
    in1, in2, out = (scale[None, :] if other == role else np.diag(scale) for other in range(3))
    weights = dict.fromkeys(coupling_paths(*shape, parity=parity), 1.0)
    return FactorTable(*shape, parity, in1, in2, out, weights, "written down (one role is scalar)")


def _missing_message(shape: Shape, parity: PathParity, rank: int | str | None) -> str:
    available = ", ".join(f"{file.shape} rank {file.rank}{' (fit)' if file.fit else ''}"
                          for file in list_tables() if file.parity == parity)  # fmt: skip
    asked = "the smallest exact rank" if rank is None else f"rank {rank}"
    return (
        f"no shipped factors for degrees {shape}, {parity} paths, {asked}; shipped for {parity} paths: "
        f"{available or 'none'}. Choose one of these, or make one with `tdn cp solve`."
    )


def write_table(table: FactorTable, path: FilePath) -> None:
    """Write a table with its certificate as `.npz` (no pickle), atomically."""
    header = {
        "format_version": FORMAT_VERSION,
        "shape": list(table.shape),
        "parity": table.parity,
        "method": table.method,
        "certificate": table.certificate.to_dict(),
        "metadata": dict(table.metadata),
    }
    paths = np.array([tuple(path) for path in table.path_weights], dtype=np.int64)
    weights = np.array(list(table.path_weights.values()))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, in1=table.in1, in2=table.in2, out=table.out, paths=paths, weights=weights,
                 header=np.array(json.dumps(header)))  # fmt: skip


def read_table(path: FilePath) -> FactorTable:
    """Read a table written by `write_table`.

    Raises:
        FactorTableError: If the file is missing, damaged or of a newer format.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            header = json.loads(str(content["header"]))
            if header["format_version"] > FORMAT_VERSION:
                raise FactorTableError(
                    f"{path} has format {header['format_version']}, this version reads up to {FORMAT_VERSION}: "
                    "update tdn"
                )
            weights = {Path(*key): value for key, value in zip(content["paths"].tolist(), content["weights"].tolist())}  # noqa: B905
            l1, l2, l3 = header["shape"]
            table = FactorTable(
                l1, l2, l3, header["parity"], content["in1"], content["in2"], content["out"], weights,
                header["method"], Certificate.from_dict(header["certificate"]), header["metadata"],
            )  # fmt: skip
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise FactorTableError(
            f"cannot read the factor table {path}: {error}; remake it with `tdn cp solve`"
        ) from error
    for matrix in table.factors.matrices:
        matrix.setflags(write=False)
    return table


def is_fit(certificate: Certificate) -> bool:
    """Whether a table only approximates its coupling, and is never chosen as the exact one."""
    return certificate.residual >= EXACT_RESIDUAL


def file_name(table: FactorTable) -> str:
    """File name of a table; approximate ones are marked so that they are never taken for exact."""
    return f"{table.name}{'-fit' if is_fit(table.certificate) else ''}.npz"


@dataclass(frozen=True)
class Verification:
    """A certificate measured anew, next to the stored one.

    Attributes:
        certificate: The new measurements.
        failures: What did not hold, in words; empty if all is well.
    """

    certificate: Certificate
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        return not self.failures


def verify(table: FactorTable, exact: bool = True) -> Verification:
    """Measure a table again and compare with what it claims.

    Checks that every path of the shape has a non-zero weight, that the sampled defects stay below the bound up to
    rounding, that the stored certificate (if any) holds, and, if `exact`, that the factors are exact and well
    conditioned.
    """
    measured = certify(table.factors, table.shape, table.parity, table.path_weights)
    failures = []
    paths = coupling_paths(*table.shape, parity=table.parity)
    if set(paths) != set(table.path_weights) or min(abs(weight) for weight in table.path_weights.values()) < 1e-3:
        failures.append("a path of the shape is missing or has no weight")
    rounding = 1e-14 * max(1.0, measured.conditioning)
    if measured.defect_float64 > measured.bound + rounding:
        failures.append(f"the float64 defect {measured.defect_float64:.1e} exceeds the bound {measured.bound:.1e}")
    if measured.defect_float32 > measured.bound + 1e9 * rounding:
        failures.append(f"the float32 defect {measured.defect_float32:.1e} exceeds the bound {measured.bound:.1e}")
    stored = table.stored_certificate
    if stored is not None and measured.residual > 1.01 * stored.residual + 1e-13:
        failures.append(f"the residual {measured.residual:.1e} exceeds the stored one, {stored.residual:.1e}")
    if exact and not measured.exact:
        failures.append(
            f"not exact and well conditioned: residual {measured.residual:.1e}, "
            f"largest entry {measured.largest_entry:.2g}"
        )
    return Verification(measured, tuple(failures))
