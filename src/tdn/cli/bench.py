"""`tdn bench`: our convolution and network beside those of other packages, and a user's own model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tdn.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    choose_dtype,
    print_table,
    write_json_option,
)

if TYPE_CHECKING:
    from tdn.bench.rounds import Measurement


class _RunByDefault(TyperGroup):
    """`tdn bench MODEL STRUCTURE` means `tdn bench run MODEL STRUCTURE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The sub-command that is named, or `run` if a file is."""
        if args and args[0] not in self.commands and Path(args[0]).exists():
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Speed and memory: of a model on a structure (run), and of our parts beside those of other packages.",
)

PeersOption = Annotated[
    str | None, typer.Option("--peers", help="Contenders beside ours, by commas; all that are installed if left out.")
]
PythonOption = Annotated[
    list[str] | None,
    typer.Option("--peer-python", help="PACKAGE=PYTHON or PYTHON: an interpreter that has peers; may be repeated."),
]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="How often all contenders take a turn.")]
BuildOption = Annotated[
    str, typer.Option("--build-limit", help="Leave out who takes longer to build and compile: 90s, 5m, 1h.")
]
PictureOption = Annotated[Path | None, typer.Option("--picture", help="Also draw the results (.png, .svg, .pdf).")]
CutoffOption = Annotated[float, typer.Option("--cutoff", min=1.0, help="Cutoff of every model, Å.")]
AirsOption = Annotated[
    Path | None, typer.Option("--airs-code", help="Folder of the public TDN code (AIRS, OpenMol/TDN), to run it too.")
]
EagerOption = Annotated[bool, typer.Option("--eager", help="Do not compile ours: it starts at once and runs slower.")]
LmaxOption = Annotated[int, typer.Option("--lmax", min=1, max=6, help="Highest degree of our network.")]
ChannelsOption = Annotated[int, typer.Option("--channels", min=1, help="Channels of our network.")]
LayersOption = Annotated[int, typer.Option("--layers", min=1, help="Layers of our network.")]


@app.command()
def conv(
    lmax: Annotated[str, typer.Option("--lmax", help="Highest degrees, by commas.")] = "1,2,3",
    channels: Annotated[str, typer.Option("--channels", help="Numbers of channels, by commas.")] = "64",
    neighbors: Annotated[str, typer.Option("--neighbors", help="Neighbours of an atom, by commas.")] = "20",
    nodes: Annotated[int, typer.Option("--nodes", min=2, help="Atoms.")] = 64,
    peers: PeersOption = None,
    peer_python: PythonOption = None,
    rounds: RoundsOption = 10,
    build_limit: BuildOption = "5m",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = 1,
    json: JsonOption = None,
    picture: PictureOption = None,
    quiet: QuietOption = False,
) -> None:
    """One convolution: forward, backward and double backward, beside its exact dense form and other packages."""
    import itertools

    from tdn.bench.peers import CONVOLUTIONS, choose
    from tdn.bench.rounds import Interpreters
    from tdn.bench.suites import convolutions

    grid = list(itertools.product(_numbers(lmax), _numbers(channels), _numbers(neighbors)))
    chosen = choose(CONVOLUTIONS, _names(peers))
    task = _task(rounds, device, dtype, threads, build_limit)
    with _progress(quiet) as progress:
        result = convolutions(grid, nodes, chosen, task, Interpreters.parse(peer_python or ()), progress)
    _report(result, json, picture, quiet, threads)


@app.command()
def product(
    config: Annotated[
        str, typer.Option("--config", help="Configurations by commas: mace-large, nequip-water, ..., T1 to T6.")
    ] = "mace-medium,nequip-revmd17-aspirin,T1,T2,T3",
    weights: Annotated[
        str, typer.Option("--weights", help="path: a weight a path and channel; shared: one for all paths.")
    ] = "path,shared",
    edges: Annotated[int, typer.Option("--edges", min=1, help="Samples.")] = 256,
    peers: PeersOption = None,
    peer_python: PythonOption = None,
    rounds: RoundsOption = 7,
    build_limit: BuildOption = "5m",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = 1,
    json: JsonOption = None,
    picture: PictureOption = None,
    quiet: QuietOption = False,
) -> None:
    """Tensor products of published configurations: forward, backward and double backward, beside e3nn and others."""
    from tdn.bench.peers import PRODUCTS, choose_by_setting
    from tdn.bench.rounds import Interpreters
    from tdn.bench.suites import products

    chosen = choose_by_setting(PRODUCTS, _names(weights) or [], _names(peers))
    task = _task(rounds, device, dtype, threads, build_limit)
    interpreters = Interpreters.parse(peer_python or ())
    with _progress(quiet) as progress:
        result = products(_names(config) or [], edges, chosen, task, interpreters, progress)
    _report(result, json, picture, quiet, threads)


@app.command()
def model(
    system: Annotated[
        str, typer.Option("--system", help="aspirin, water, water1536, si or lips, by commas.")
    ] = "water",
    lmax: LmaxOption = 2,
    channels: ChannelsOption = 64,
    layers: LayersOption = 2,
    cutoff: CutoffOption = 5.0,
    eager: EagerOption = False,
    peers: PeersOption = None,
    peer_python: PythonOption = None,
    airs_code: AirsOption = None,
    rounds: RoundsOption = 7,
    build_limit: BuildOption = "15m",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = 1,
    json: JsonOption = None,
    picture: PictureOption = None,
    quiet: QuietOption = False,
) -> None:
    """Energy and forces of untrained networks, neighbour lists made before: time, memory, ns/day at 1 fs."""
    from tdn.bench.peers import MODELS, choose
    from tdn.bench.rounds import Interpreters
    from tdn.bench.suites import models

    chosen = choose(MODELS, _with_airs(_names(peers), airs_code), eager)
    settings = _sizes(lmax, channels, layers, cutoff, airs_code)
    task = _task(rounds, device, dtype, threads, build_limit, settings)
    with _progress(quiet) as progress:
        result = models(_names(system) or [], chosen, task, Interpreters.parse(peer_python or ()), progress)
    _report(result, json, picture, quiet, threads)


@app.command("train-step")
def train_step(
    system: Annotated[
        str, typer.Option("--system", help="ethanol, aspirin, water, water1536, si or lips, by commas.")
    ] = "ethanol",
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Ethanol molecules in a batch; of the others it is one structure.")
    ] = 10,
    lmax: LmaxOption = 2,
    channels: ChannelsOption = 64,
    layers: LayersOption = 2,
    cutoff: CutoffOption = 5.0,
    eager: EagerOption = False,
    peers: PeersOption = None,
    peer_python: PythonOption = None,
    airs_code: AirsOption = None,
    rounds: RoundsOption = 7,
    build_limit: BuildOption = "15m",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = 1,
    json: JsonOption = None,
    picture: PictureOption = None,
    quiet: QuietOption = False,
) -> None:
    """A training step on energies and forces: prediction, double backward, Adam's update."""
    from tdn.bench.peers import MODELS, choose
    from tdn.bench.rounds import Interpreters
    from tdn.bench.suites import training_steps

    chosen = choose(MODELS, _with_airs(_names(peers), airs_code), eager)
    task = _task(rounds, device, dtype, threads, build_limit, _sizes(lmax, channels, layers, cutoff, airs_code))
    with _progress(quiet) as progress:
        interpreters = Interpreters.parse(peer_python or ())
        result = training_steps(_names(system) or [], batch, chosen, task, interpreters, progress)
    _report(result, json, picture, quiet, threads)


@app.command()
def scaling(
    atoms: Annotated[str, typer.Option("--atoms", help="Sizes of the water boxes, by commas.")] = (
        "100,300,1000,3000,10000,30000,100000,1000000"
    ),
    batches: Annotated[str, typer.Option("--batches", help="Ethanol molecules in a batch, by commas.")] = "1,4,16,64",
    lmax: LmaxOption = 2,
    channels: ChannelsOption = 64,
    layers: LayersOption = 2,
    cutoff: CutoffOption = 5.0,
    eager: EagerOption = False,
    peers: PeersOption = "",
    peer_python: PythonOption = None,
    rounds: RoundsOption = 3,
    build_limit: BuildOption = "15m",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = 1,
    json: JsonOption = None,
    picture: PictureOption = None,
    quiet: QuietOption = False,
) -> None:
    """Time and memory an atom for growing boxes and batches, with one thread and with --threads of them.

    Sizes that do not fit into the free memory are left out. Ours alone unless --peers names others.
    """
    from tdn.bench.peers import MODELS, choose
    from tdn.bench.rounds import Interpreters
    from tdn.bench.suites import scaling as measure_scaling

    chosen = choose(MODELS, _names(peers) or [], eager)
    task = _task(rounds, device, dtype, threads, build_limit, _sizes(lmax, channels, layers, cutoff, None))
    counts = sorted({1, threads} - {0})
    interpreters = Interpreters.parse(peer_python or ())
    with _progress(quiet) as progress:
        result = measure_scaling(
            _numbers(atoms), _numbers(batches), chosen, task, counts, interpreters, progress
        )  # fmt: skip
    _report(result, json, picture, quiet, threads)


@app.command()
def run(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structure: Annotated[str, typer.Argument(help="File with the structure; its last frame is used.")],
    rounds: RoundsOption = 7,
    eager: EagerOption = False,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """What a model costs on a structure: ms a step, ns/day at 1 fs, peak memory, the largest system that fits."""
    from tdn.bench.results import setting
    from tdn.bench.saved import run_model
    from tdn.cli.minimum import read_structure
    from tdn.modelfile import read_header
    from tdn.models.compiled import compiler_available
    from tdn.structure import Structure

    read_header(model)
    atoms = Structure.from_ase(read_structure(structure))
    task = _task(rounds, device, dtype, threads, "15m")
    with _progress(quiet) as progress:
        found = run_model(model, atoms, task, compiled=not eager and compiler_available(), progress=progress)
    rows = (
        ("an MD step through ASE", f"{found['ms_per_step']:.4g} ms", f"{found['us_per_atom']:.3g} µs an atom"),
        ("energy and forces alone", f"{found['times']['energy_forces']['median_ms']:.4g} ms", found["mode"]),
        (
            "neighbour list in it",
            f"{found['neighbor_list_ms']:.3g} ms, {found['neighbor_list_percent']} %",
            f"skin {found['skin']} Å, new every {found['steps_per_list']} steps",
        ),
        ("simulation at 1 fs", f"{found['ns_per_day_1fs']:.4g} ns/day", ""),
        ("peak memory", f"{found['peak_mib']:.4g} MiB", "above the idle process"),
        ("memory an atom", f"{found['kib_per_atom']:.4g} KiB", f"from {found['large_atoms']} atoms"),
        ("largest system, atoms", _count(found["largest_system_atoms"]), f"free memory: {found['free_gib']} GiB"),
        ("first call", f"{found['first_call_s']['energy_forces']:.3g} s", "compiles, where it does"),
    )
    title = f"{model} on {found['structure']}, {found['atoms']} atoms, {found['edges']} edges, {found['dtype']}"
    print_table(title, ("quantity", "value", "remark"), rows, quiet)
    write_json_option(json, {**setting(_command(), threads or None), **found})


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}".replace(",", "\u202f")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    from tdn.errors import ConfigError

    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if text.strip() and (not numbers or min(numbers) < 1):
        raise ConfigError(f"Expected positive whole numbers separated by commas, got {text!r}.")
    return numbers


def _with_airs(names: list[str] | None, folder: Path | None) -> list[str] | None:
    """The contenders, and the public TDN code if its folder is named."""
    from tdn.bench.peers import MODELS
    from tdn.errors import ConfigError

    if folder is None:
        return names
    if not (folder / "models" / "tdn.py").is_file():
        raise ConfigError(f"--airs-code should be the folder OpenMol/TDN of the AIRS repository; {folder} is not.")
    listed = names if names is not None else [name for name, peer in MODELS.items() if not peer.optional]
    return [*listed, "public_tdn_l1"]


def _sizes(lmax: int, channels: int, layers: int, cutoff: float, airs_code: Path | None) -> dict[str, Any]:
    sizes: dict[str, Any] = {"lmax": lmax, "channels": channels, "layers": layers, "cutoff": cutoff}
    return sizes if airs_code is None else {**sizes, "airs_code": str(airs_code.resolve())}


def _task(
    rounds: int, device: str, dtype: str, threads: int, build_limit: str, settings: dict[str, Any] | None = None
) -> Measurement:
    from tdn.bench.rounds import Measurement
    from tdn.devices import choose_device
    from tdn.errors import ConfigError
    from tdn.training.config import parse_duration

    choose_dtype(dtype)
    try:
        seconds = parse_duration(build_limit)
    except ValueError as error:
        raise ConfigError(f"--build-limit {build_limit}: {error}.") from error
    return Measurement(
        (), settings=settings or {}, rounds=rounds, threads=threads, dtype=dtype, device=str(choose_device(device)),
        build_seconds=seconds,
    )  # fmt: skip


def _command() -> str:
    import shlex

    return shlex.join(["tdn", *sys.argv[1:]])


class _progress:
    """A line of status on standard error while a benchmark runs, as a context manager."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __enter__(self) -> Callable[[str], None]:
        from rich.console import Console

        console = Console(stderr=True)
        self.status = console.status("starting") if console.is_terminal and not self.quiet else None
        if self.status is None:
            return (lambda message: None) if self.quiet else (lambda message: typer.echo(message, err=True))
        self.status.start()
        return self.status.update

    def __exit__(self, *_: object) -> None:
        if self.status is not None:
            self.status.stop()


def _report(result: dict[str, Any], json: Path | None, picture: Path | None, quiet: bool, threads: int) -> None:
    """Tables, JSON and picture of a suite."""
    from tdn.bench.figures import draw
    from tdn.bench.results import explanations, row_title, setting, table_columns, table_rows

    for row in result["rows"]:
        names = list(row["passes"])
        print_table(row_title(row), table_columns(names), table_rows(row, names), quiet)
    if not quiet:
        typer.echo(
            "Median ± half the distance of the quartiles, ms; ours ×: times ours, median of the rounds' ratios.\n"
        )
    print_table("What they compute", ("contender", "work"), explanations(result["rows"]), quiet, justify="left")
    for line in () if quiet else _findings(result):
        typer.echo(line)
    write_json_option(json, {**setting(_command(), threads or None), **result})
    if picture is not None:
        draw(result, picture)


def _findings(result: dict[str, Any]) -> list[str]:
    """Sentences under the tables: fitted exponents, memory, saturation, sizes that were left out."""
    from tdn.bench.results import row_title
    from tdn.bench.suites import EXPLANATIONS

    lines = []
    for row in result["rows"] if result["suite"] == "conv" else ():
        if moved := row["bandwidth"]:
            lines.append(
                f"{row_title(row)}: forward moves {moved['gb_per_s']:.3g} GB/s of what the sum must move, "
                f"{100 * moved['of_copy']:.0f} % of a plain copy's {moved['copy_gb_per_s']:.3g} GB/s"
            )
    for fit in result.get("exponents", []):
        text = ", ".join(f"{who} {a:.2f}" for who, a in fit["exponents"].items() if a is not None)
        held = f"{fit['channels']} channels, {fit['neighbors']} neighbours" if "channels" in fit else fit["weights"]
        size = f"{held}, {EXPLANATIONS[fit['pass']]}"
        lines.append(f"Time an edge ~ L^a from L=2 on, {size}: a = {text}")
    for row in result["rows"] if result["suite"] == "model" else ():
        fits = {who: facts["atoms_in_24_gib"] for who, facts in row["contenders"].items() if "atoms_in_24_gib" in facts}
        if fits:
            lines.append(f"{row['system']}, atoms in 24 GiB: " + ", ".join(f"{w} {_count(n)}" for w, n in fits.items()))
    for row in result.get("saturated", []):
        lines.append(
            f"{row['threads']} threads, from {row['from_atoms']} atoms on: time an atom within a factor of "
            f"{row['us_per_atom']}, memory within {row['memory_kib_per_atom']}; "
            f"{_count(row['atoms_in_24_gib'])} atoms in 24 GiB"
        )
    for row in result.get("left_out", []):
        lines.append(f"Left out: {row['atoms']} atoms, {row['threads']} threads: {row['reason']}")
    return lines
