"""`tdn cp`: look at, check, remake and draw the factor tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdn.cli.common import JsonOption, QuietOption, SeedOption, ThreadsOption, print_table, write_json_option

if TYPE_CHECKING:
    from tdn.cp.tables import FactorTable

app = typer.Typer(no_args_is_help=True, help="Exact and low-rank factors of Clebsch-Gordan couplings.")

LmaxOption = Annotated[int | None, typer.Option("--lmax", min=0, help="Largest degree of all three roles.")]
In1Option = Annotated[int | None, typer.Option("--in1", min=0, help="Largest degree of the first input.")]
In2Option = Annotated[int | None, typer.Option("--in2", min=0, help="Largest degree of the second input.")]
OutOption = Annotated[int | None, typer.Option("--out", min=0, help="Largest degree of the output.")]
PathsOption = Annotated[str, typer.Option("--paths", help="natural: O(3), even l1+l2+l3; all: SO(3).")]
RankOption = Annotated[str | None, typer.Option("--rank", help="A rank, or `paper`; smallest exact one by default.")]


@app.command()
def show(json_file: JsonOption = None, quiet: QuietOption = False) -> None:
    """List the shipped tables."""
    from tdn.cp.tables import list_tables, read_table

    tables = [read_table(file.path) for file in list_tables()]
    rows = [_summary(table) for table in tables]
    print_table(
        "Factor tables",
        ("paths", "shape", "rank", "residual", "entry", "path weights", "float32", "method"),
        (
            (
                row["paths"],
                "{} {} {}".format(*row["shape"]),
                row["rank"],
                f"{row['residual']:.1e}",
                f"{row['largest_entry']:.2f}",
                "{:.2f} {:.2f}".format(*row["path_weights"]),
                f"{row['defect_float32']:.1e}",
                row["method"],
            )
            for row in rows
        ),
        quiet,
    )
    write_json_option(json_file, {"tables": rows})


@app.command()
def verify(
    lmax: LmaxOption = None,
    in1: In1Option = None,
    in2: In2Option = None,
    out: OutOption = None,
    paths: PathsOption = "natural",
    rank: RankOption = None,
    file: Annotated[Path | None, typer.Option("--file", help="Check this table file instead of a shipped one.")] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure a table again: residual, equivariance bound and defect; exit code 1 if it does not hold."""
    from tdn.cp.tables import read_table, verify

    table = _load(lmax, in1, in2, out, paths, rank) if file is None else read_table(file)
    fit = rank == "paper" or (table.stored_certificate is not None and not table.stored_certificate.exact)
    verification = verify(table, exact=not fit)
    report = {**_summary(table), **verification.certificate.to_dict()}
    report |= {"digest": table.digest, "passed": verification.passed, "failures": list(verification.failures)}
    _print_report(table, report, quiet)
    write_json_option(json_file, report)
    for failure in verification.failures:
        typer.echo(f"{table.name}: {failure}", err=True)
    if not verification.passed:
        raise typer.Exit(1)


@app.command()
def solve(
    lmax: LmaxOption = None,
    in1: In1Option = None,
    in2: In2Option = None,
    out: OutOption = None,
    paths: PathsOption = "natural",
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Rank to solve for.")] = None,
    method: Annotated[str, typer.Option("--method", help="lm, als, cubature or quadrature.")] = "lm",
    weights: Annotated[str, typer.Option("--weights", help="For lm: unit, free, damped or matrix.")] = "free",
    starts: Annotated[int, typer.Option("--starts", min=1, help="Random starts, from --seed on.")] = 8,
    remake: Annotated[bool, typer.Option("--all", help="Remake every shipped table from its recorded recipe.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File (or folder with --all) to write.")] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Search for factors of one shape, or remake the shipped tables; exit code 1 if nothing exact was found."""
    _limit_threads(threads)
    if remake:
        summaries, passed = _remake_all(output, quiet)
        write_json_option(json_file, {"tables": summaries, "passed": passed})
        raise typer.Exit(0 if passed else 1)
    shape = _shape(lmax, in1, in2, out)
    table = _best_of_starts(shape, paths, rank, method, weights, range(seed, seed + starts), quiet)
    _print_report(table, {**_summary(table), **table.certificate.to_dict()}, quiet)
    if output is not None:
        from tdn.cp.tables import write_table

        write_table(table, output)
        if not quiet:
            typer.echo(f"Wrote {output}.")
    write_json_option(json_file, _summary(table))
    raise typer.Exit(0 if table.certificate.exact or method == "als" else 1)


@app.command()
def plot(
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write (.png, .svg, .pdf).")],
    lmax: Annotated[int, typer.Option("--lmax", min=1, max=6, help="Largest degree to draw.")] = 3,
    sweeps: Annotated[int, typer.Option("--sweeps", min=100, help="ALS sweeps for each approximate point.")] = 600,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Draw rank against error for the paper's four rank schedules and the exact tables."""
    _limit_threads(threads)
    from tdn.cp.rank_plot import draw_ranks, rank_points

    points = rank_points(lmax, sweeps, seed)
    draw_ranks(points, output)
    print_table(
        "Rank and error",
        ("L", "paths", "ranks", "rank", "relative error", "float32 defect"),
        ((p.lmax, p.parity, p.schedule, p.rank, f"{p.residual:.1e}", f"{p.defect_float32:.1e}") for p in points),
        quiet,
    )
    if not quiet:
        typer.echo(f"Wrote {output}.")
    write_json_option(json_file, {"points": [p.to_dict() for p in points]})


def _shape(lmax: int | None, in1: int | None, in2: int | None, out: int | None) -> tuple[int, int, int]:
    from tdn.errors import ConfigError

    degrees = tuple(lmax if degree is None else degree for degree in (in1, in2, out))
    if None in degrees:
        raise ConfigError("give --lmax, or all of --in1, --in2 and --out")
    first, second, third = (degree for degree in degrees if degree is not None)
    return first, second, third


def _load(
    lmax: int | None, in1: int | None, in2: int | None, out: int | None, paths: str, rank: str | None
) -> FactorTable:
    from tdn.cp.tables import load_table
    from tdn.errors import ConfigError

    if rank is not None and rank != "paper" and not rank.isdigit():
        raise ConfigError(f"--rank must be a number or `paper`, got {rank!r}")
    wanted: Any = int(rank) if rank is not None and rank.isdigit() else rank
    parity: Any = paths
    return load_table(*_shape(lmax, in1, in2, out), parity=parity, rank=wanted)


def _summary(table: FactorTable) -> dict[str, Any]:
    certificate = table.certificate
    return {
        "name": table.name,
        "paths": table.parity,
        "shape": list(table.shape),
        "rank": table.rank,
        "residual": certificate.residual,
        "worst_path": list(certificate.worst_path),
        "bound": certificate.bound,
        "bound_paper": certificate.bound_paper,
        "defect_float32": certificate.defect_float32,
        "defect_float64": certificate.defect_float64,
        "largest_entry": certificate.largest_entry,
        "conditioning": certificate.conditioning,
        "path_weights": list(table.weight_range),
        "method": table.method,
    }


def _print_report(table: FactorTable, report: dict[str, Any], quiet: bool) -> None:
    unit = "of |M| |x| |y|"
    rows = (
        ("rank", report["rank"], f"{len(table.path_weights)} paths, {table.method}"),
        ("residual", f"{report['residual']:.2e}", "|M^ - M| / |M|"),
        ("worst path", "({}, {}, {})".format(*report["worst_path"]), f"{report['worst_path_residual']:.1e} of |M|"),
        ("path weights", "{:.3f} to {:.3f}".format(*report["path_weights"]), "against unit-norm wigner_3j"),
        ("largest entry", f"{report['largest_entry']:.3f}", "of the factors"),
        ("conditioning", f"{report['conditioning']:.2f}", "amplification of rounding"),
        ("bound", f"{report['bound']:.2e}", unit),
        ("bound, Theorem 3.1", f"{report['bound_paper']:.2e}", unit),
        ("defect, float64", f"{report['defect_float64']:.2e}", f"{unit}, {report['samples']} rotations"),
        ("defect, float32", f"{report['defect_float32']:.2e}", f"{unit}, {report['samples']} rotations"),
    )
    print_table(table.name, ("quantity", "value", "meaning"), rows, quiet)


def _best_of_starts(
    shape: tuple[int, int, int], paths: str, rank: int | None, method: str, weights: str, seeds: range, quiet: bool
) -> FactorTable:
    from tdn.cp.recipes import Recipe, check_choices, solve_recipe
    from tdn.errors import ConfigError, FactorTableError

    check_choices(paths, method, weights)
    if rank is None and method != "quadrature":
        raise ConfigError("give --rank: the number of terms to solve for")
    parity: Any = paths
    choices: Any = {"method": method, "weights": weights}
    best: FactorTable | None = None
    for seed in seeds:
        try:
            table = solve_recipe(Recipe(shape, parity, rank or 0, seed=seed, **choices))
        except FactorTableError as error:
            if not quiet:
                typer.echo(f"seed {seed}: {error}")
            continue
        if not quiet:
            typer.echo(f"seed {seed}: residual {table.certificate.residual:.1e}")
        if best is None or table.certificate.residual < best.certificate.residual:
            best = table
        if table.certificate.exact:
            break
    if best is None:
        raise FactorTableError(
            f"no start kept every path of {shape} at rank {rank}: try a larger rank or more --starts"
        )
    return best


def _remake_all(output: Path | None, quiet: bool) -> tuple[list[dict[str, Any]], bool]:
    from tdn.cp.recipes import recipe_of, solve_recipe
    from tdn.cp.tables import list_tables, read_table, write_table

    summaries, passed = [], True
    for file in list_tables():
        shipped = read_table(file.path)
        table = solve_recipe(recipe_of(shipped))
        agrees = table.certificate.residual <= 1.01 * shipped.certificate.residual + 1e-13
        passed &= agrees
        summaries.append(_summary(table))
        if output is not None:
            write_table(table, output / file.path.name)
        if not quiet:
            seconds = table.metadata["seconds"]
            verdict = "as shipped" if agrees else f"shipped one has {shipped.certificate.residual:.1e}"
            typer.echo(f"{table.name}: residual {table.certificate.residual:.1e}, {seconds} s, {verdict}")
    return summaries, passed


def _limit_threads(threads: int) -> None:
    """Limit the threads of the linear algebra library, which reads its settings when NumPy is first imported."""
    import os

    if threads > 0:
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)
