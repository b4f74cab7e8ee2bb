"""The rank ablation of 2507.01131 (its Table 8): rank of the factors against error and equivariance error on n bodies.

Read top to bottom: `NBodyConfig`, `VARIANTS`, `reproduce_nbody`. The data are simulated (`tdn.reproduce.nbody_system`),
so absolute errors are not those of the paper's files.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from tdn.config import StrictConfig
from tdn.cp.couplings import random_rotations
from tdn.cp.solvers import AlternatingLeastSquares, CouplingProblem
from tdn.cp.tables import FactorTable, load_table
from tdn.devices import choose_device
from tdn.errors import ConfigError
from tdn.files import write_json
from tdn.models.paper import PaperTDNConfig
from tdn.nn.edge_product import EdgeProduct, PathProduct, TableProduct
from tdn.reproduce.nbody_figure import draw
from tdn.reproduce.nbody_network import BodyNetwork
from tdn.reproduce.nbody_system import NUM_BODIES, NBodySet, make_set
from tdn.reproduce.nbody_training import as_tensors, mean_squared_error, symmetry_error, train
from tdn.training.config import parse_value
from tdn.training.logs import Reporter

LMAX = 2
FIT_STARTS = 8
ROTATIONS = 4
RESULTS, FIGURE = "results.json", "nbody.png"


class NBodyConfig(StrictConfig):
    """One run; what the paper says of its own are the defaults, but for the epochs.

    Attributes:
        num_channels: Channels of every degree.
        num_layers: Attention blocks; the head has one more attention.
        num_heads: Attention heads.
        num_gaussians: Radial functions.
        train: Systems to train on.
        test: Systems that errors are measured on.
        batch_size: Systems a step.
        epochs: Passes over the training systems; the paper's 5000 take days on a CPU.
        lr: Of Adam at the start; it falls to zero as a cosine.
        seed: Of data, weights and order.
    """

    num_channels: int = Field(default=72, ge=1)
    num_layers: int = Field(default=3, ge=1)
    num_heads: int = Field(default=4, ge=1)
    num_gaussians: int = Field(default=32, ge=1)
    train: int = Field(default=3000, ge=1)
    test: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=100, ge=1)
    epochs: int = Field(default=100, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    seed: int = Field(default=0, ge=0)


QUICK = {"num_channels": 16, "num_layers": 2, "num_gaussians": 16, "batch_size": 25, "epochs": 7, "lr": 6e-3}
"""What `--quick` changes."""


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        label: In the table.
        rank: Terms of the factors; None for a product without any.
        published: Mean squared error and equivariance error of the paper; None where it has none.
        make: Makes the product of a layer.
        exact: Whether the product is equivariant to rounding.
    """

    label: str
    rank: int | None
    published: tuple[float, str] | None
    make: Callable[[], EdgeProduct]
    exact: bool


@lru_cache(maxsize=8)
def fit(rank: int) -> FactorTable:
    """The best of some fits of a rank to the couplings of all paths with unit weights, as the paper's factors are."""
    problem = CouplingProblem((LMAX, LMAX, LMAX), "all")
    solutions = [AlternatingLeastSquares(1000).solve(problem, rank, seed) for seed in range(FIT_STARTS)]
    best = min(solutions, key=lambda solution: solution.residual)
    return FactorTable(LMAX, LMAX, LMAX, "all", *best.factors.matrices, best.path_weights, "ALS, unit weights")


def _shipped(parity: Any, rank: Any = None) -> Callable[[], EdgeProduct]:
    return lambda: TableProduct(load_table(LMAX, LMAX, LMAX, parity, rank))


VARIANTS: Mapping[str, Variant] = {
    "10": Variant("10", 10, (0.0081, "0.60"), lambda: TableProduct(fit(10)), False),
    "15": Variant("15", 15, (0.0064, "0.42"), lambda: TableProduct(fit(15)), False),
    "20": Variant("20", 20, (0.0051, "0.21"), lambda: TableProduct(fit(20)), False),
    "28": Variant("28 = 7 L²", 28, (0.0040, "0.02"), _shipped("all", "paper"), False),
    # The tensor of the exact table of rank 32: more terms change nothing.
    "81": Variant("81, exact", 81, (0.0039, "<0.01"), _shipped("all", 32), True),
    "exact": Variant("23, exact", 23, None, _shipped("all"), True),
    "exact-o3": Variant("17, exact, O(3)", 17, None, _shipped("natural"), True),
    "cg_paths": Variant("w/o CP+PS", None, (0.0038, "-"), lambda: PathProduct(LMAX), True),
}
"""Name of a variant -> its row; the exact ranks are ours."""


@dataclass(frozen=True)
class Row:
    """What was measured of a variant.

    Attributes:
        variant: Of `VARIANTS`.
        tensor_error: `|M^ - M|_F / |M|_F` of its tensor; zero without factors.
        mse: Mean squared error of a coordinate, on the test systems.
        equivariance_error: Mean over test systems and random rotations of `|f(R x) - R f(x)| / |f(x)|`, `f` the
            displacements of all bodies of a system.
        reflection_error: The same for mirror images; SO(3) products are not made for them.
        parameters: Of the network.
        seconds: Of the training.
    """

    variant: str
    tensor_error: float
    mse: float
    equivariance_error: float
    reflection_error: float
    parameters: int
    seconds: float


@dataclass(frozen=True)
class Reproduction:
    """What came of it.

    Attributes:
        config: The settings.
        rows: One a variant.
        baseline: Mean squared error of going straight on at the present velocity.
    """

    config: NBodyConfig
    rows: tuple[Row, ...]
    baseline: float


def read_config(changes: Sequence[str] = (), quick: bool = False, seed: int = 0) -> NBodyConfig:
    """The settings with a user's changes, as `key=value`.

    Raises:
        ConfigError: If one of them is not valid.
    """
    content: dict[str, Any] = {**(QUICK if quick else {}), "seed": seed}
    for change in changes:
        key, separator, text = change.partition("=")
        if not separator:
            raise ConfigError(f"Expected key=value, such as epochs=50, got {change!r}.")
        content[key.strip()] = parse_value(text)
    config = NBodyConfig.parse(content, "The set-up of n bodies")
    if config.num_channels % config.num_heads:
        raise ConfigError(f"num_channels {config.num_channels} must be a multiple of num_heads {config.num_heads}.")
    return config


def reproduce_nbody(
    output: str | os.PathLike[str],
    config: NBodyConfig | None = None,
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Reproduction:
    """Simulate, train every variant, measure; variants that are in the output folder already are not run again.

    Args:
        output: Folder for `results.json` and `nbody.png`.
        config: The settings.
        variants: Of `VARIANTS`.
        device: See `tdn.devices.choose_device`.
        reporter: Hears what happens.

    Raises:
        ConfigError: If there is no such variant, or the folder holds results of other settings.
    """
    config, reporter, output = config or NBodyConfig(), reporter or Reporter(), Path(output)
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ConfigError(f"No variant {unknown[0]!r}; there are {', '.join(VARIANTS)}.")
    rows = {row.variant: row for row in _read_rows(output / RESULTS, config)}
    where = choose_device(device)
    sets = [make_set(number, 2 * config.seed + k) for k, number in enumerate((config.train, config.test))]
    test = sets[1].inputs
    baseline = float(np.square(sets[1].targets - test.positions - test.velocities).mean())
    for name in variants:
        if name in rows:
            reporter.line(f"rank {VARIANTS[name].label}: done before")
            continue
        rows[name] = _run(name, config, sets, where, reporter)
        write_json(output / RESULTS, describe(_collect(config, rows, baseline)))
    found = _collect(config, rows, baseline)
    draw(describe(found), output / FIGURE)
    return found


def _collect(config: NBodyConfig, rows: Mapping[str, Row], baseline: float) -> Reproduction:
    return Reproduction(config, tuple(rows[name] for name in VARIANTS if name in rows), baseline)


def _read_rows(path: Path, config: NBodyConfig) -> list[Row]:
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["config"] != config.model_dump():
        raise ConfigError(f"{path} holds results of other settings: choose another output folder, or remove the file.")
    names = [field.name for field in fields(Row) if field.name != "variant"]
    return [Row(variant, **{name: row[name] for name in names}) for variant, row in content["rows"].items()]


def _run(name: str, config: NBodyConfig, sets: Sequence[NBodySet], device: torch.device, reporter: Reporter) -> Row:
    """Train and measure one variant, all of them from the same weights where their shapes agree."""
    variant = VARIANTS[name]
    train_set, test_set = (as_tensors(systems, device) for systems in sets)
    torch.manual_seed(config.seed)
    network = BodyNetwork(_shape(config), variant.make).to(device)
    product = network.head.product1

    def progress(share: float, elapsed: float, error: float) -> None:
        reporter.progress(share, elapsed, f"rank {variant.label}: mean squared error {error:.4f}")

    start = time.perf_counter()
    train(network, train_set, config.epochs, config.batch_size, config.lr, config.seed, progress)
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(config.seed)
    row = Row(
        variant=name,
        tensor_error=product.table.certificate.residual if isinstance(product, TableProduct) else 0.0,
        mse=mean_squared_error(network, test_set, config.batch_size),
        equivariance_error=symmetry_error(network, test_set, config.batch_size, random_rotations(ROTATIONS, rng)),
        reflection_error=symmetry_error(
            network, test_set, config.batch_size, random_rotations(ROTATIONS, rng, improper=True)
        ),
        parameters=sum(p.numel() for p in network.parameters()),
        seconds=round(seconds, 1),
    )
    reporter.line(
        f"rank {variant.label}: mean squared error {row.mse:.5f}, equivariance error {row.equivariance_error:.1e}, "
        f"{seconds:.0f} s"
    )
    return row


def _shape(config: NBodyConfig) -> PaperTDNConfig:
    shape = config.model_dump(include={"num_channels", "num_layers", "num_heads", "num_gaussians"})
    return PaperTDNConfig(lmax=LMAX, avg_degree=NUM_BODIES - 1, dropout=0.0, **shape)


def describe(found: Reproduction) -> dict[str, Any]:
    """The result as JSON types."""
    rows = {}
    for row in found.rows:
        variant = VARIANTS[row.variant]
        rows[row.variant] = {
            **{name: value for name, value in asdict(row).items() if name != "variant"},
            "label": variant.label,
            "rank": variant.rank,
            "exact": variant.exact,
            "published": dict(zip(("mse", "equivariance_error"), variant.published or (None, None), strict=True)),
        }
    return {"config": found.config.model_dump(), "straight_on_mse": found.baseline, "rows": rows}


def table(found: Reproduction) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows: ours beside the published numbers."""
    config = found.config
    title = (
        f"n bodies: {config.train} systems, L = {LMAX}, {config.num_layers} blocks, {config.num_channels} channels, "
        f"{config.epochs} epochs.\nMSE of going straight on: {found.baseline:.4f}. Relative errors: of the tensor, and "
        "of outputs where systems are turned or mirrored."
    )
    columns = ["rank", "tensor", "MSE", "turned", "mirrored", "paper MSE", "paper error"]
    rows = []
    for row in found.rows:
        published = VARIANTS[row.variant].published
        numbers = [f"{row.tensor_error:.3f}" if row.tensor_error > 1e-9 else "0", f"{row.mse:.4f}"]
        numbers += [f"{value:.1e}" for value in (row.equivariance_error, row.reflection_error)]
        cells = [f"{published[0]:.4f}", published[1]] if published else ["-", "-"]
        rows.append([VARIANTS[row.variant].label, *numbers, *cells])
    return title, columns, rows
