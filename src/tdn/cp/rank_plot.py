"""Rank against error: the rank schedules of the TDN paper (its Figures 2 and 3) next to the exact tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tdn.cp.certificate import certify
from tdn.cp.couplings import PathParity
from tdn.cp.solvers import AlternatingLeastSquares, CouplingProblem
from tdn.cp.tables import FactorTable, load_table
from tdn.errors import FactorTableError
from tdn.files import atomic_write

SCHEDULES = ("(L+1)^4", "16 log^2(L+1)", "7 L", "7 L^2")
EXACT = {"natural": "exact, natural parity", "all": "exact, all paths"}


@dataclass(frozen=True)
class RankPoint:
    """One rank and its error.

    Attributes:
        lmax: Largest degree of the three roles.
        parity: "natural" or "all".
        schedule: Where the rank comes from.
        rank: Number of terms.
        residual: `|M^ - M|_F / |M|_F`.
        defect_float32: Sampled violation of equivariance in float32, in units of `|M|_F |x| |y|`.
    """

    lmax: int
    parity: PathParity
    schedule: str
    rank: int
    residual: float
    defect_float32: float

    def to_dict(self) -> dict[str, str | int | float]:
        """The fields as JSON types."""
        return asdict(self)


def schedule_rank(schedule: str, lmax: int) -> int:
    """Rank of one of the paper's schedules; the logarithmic one is rounded down as in the formula."""
    ranks = {
        "(L+1)^4": (lmax + 1) ** 4,
        "16 log^2(L+1)": int(16 * math.log(lmax + 1) ** 2),
        "7 L": 7 * lmax,
        "7 L^2": 7 * lmax**2,
    }
    return ranks[schedule]


def rank_points(lmax: int, sweeps: int, seed: int) -> list[RankPoint]:
    """Errors of the best fits (all paths, weights one) at the paper's ranks, and of the exact tables.

    The rank `(L+1)^4 = d^2` needs no fit: the indicator construction of Theorem 3.2 is exact there. Shipped fits are
    used where there are any; the others are made here by alternating least squares.
    """
    points = []
    for degree in range(1, lmax + 1):
        fits: dict[int, RankPoint] = {}
        for schedule in SCHEDULES:
            rank = schedule_rank(schedule, degree)
            if schedule == "(L+1)^4":
                points.append(RankPoint(degree, "all", schedule, rank, 0.0, 0.0))
                continue
            if rank not in fits:
                fits[rank] = _fit(degree, rank, schedule, sweeps, seed)
            points.append(RankPoint(degree, "all", schedule, rank, fits[rank].residual, fits[rank].defect_float32))
        for parity in ("natural", "all"):
            table = _exact_table(degree, parity)
            if table is not None:
                points.append(_point(table, EXACT[parity]))
    return points


def _exact_table(degree: int, parity: PathParity) -> FactorTable | None:
    try:
        return load_table(degree, degree, degree, parity=parity)
    except FactorTableError:
        return None


def _point(table: FactorTable, schedule: str) -> RankPoint:
    certificate = table.certificate
    return RankPoint(
        table.lmax_out, table.parity, schedule, table.rank, certificate.residual, certificate.defect_float32
    )


def _fit(degree: int, rank: int, schedule: str, sweeps: int, seed: int) -> RankPoint:
    if schedule == "7 L^2":
        return _point(load_table(degree, degree, degree, "all", rank="paper"), schedule)
    problem = CouplingProblem((degree, degree, degree), "all")
    solution = AlternatingLeastSquares(max_sweeps=sweeps).solve(problem, rank, seed)
    certificate = certify(solution.factors, problem.degrees, "all", solution.path_weights)
    return RankPoint(degree, "all", schedule, rank, certificate.residual, certificate.defect_float32)


def draw_ranks(points: Sequence[RankPoint], path: Path) -> None:
    """Draw the points as error against rank (one colour a degree) and rank against degree; written atomically."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    markers = dict(zip((*SCHEDULES, *EXACT.values()), ("s", "v", "^", "o", "*", "P"), strict=True))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    degrees = sorted({point.lmax for point in points})
    for point in points:
        colour = f"C{degrees.index(point.lmax)}"
        size = 11 if point.schedule in EXACT.values() else 6
        left.plot(point.rank, max(point.residual, 1e-17), markers[point.schedule], color=colour, markersize=size)
    left.set(xscale="log", yscale="log", xlabel="rank R", ylabel="relative error |M^ − M| / |M|", ylim=(3e-18, 3))
    left.axhline(2.2e-16, color="0.7", linewidth=0.8)
    left.text(left.get_xlim()[0], 2.6e-16, " float64 rounding", color="0.5", fontsize=8)
    for degree in degrees:
        left.plot([], [], "o", color=f"C{degrees.index(degree)}", label=f"L = {degree}")
    left.legend(fontsize=8, loc="center left")
    for schedule, marker in markers.items():
        chosen = [point for point in points if point.schedule == schedule]
        exact = schedule in EXACT.values()
        style = {"color": "C3" if exact else "0.5", "markersize": 10 if exact else 5}
        right.plot([p.lmax for p in chosen], [p.rank for p in chosen], marker=marker, label=schedule, **style)
    right.set(yscale="log", xlabel="largest degree L", ylabel="rank R", xticks=degrees)
    right.legend(fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=110)
    pyplot.close(figure)
