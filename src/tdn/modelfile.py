"""One file per model: safetensors weights and a JSON header. No pickle, so loading a stranger's model runs no code.

The file holds everything that the model computes with: weights, reference energies, and the factor tables in float64,
so that a model trained today gives the same numbers with next year's tables.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdn.cp.couplings import Path as CouplingPath
from tdn.cp.tables import FactorTable
from tdn.errors import ModelFileError
from tdn.files import atomic_write
from tdn.models.architectures import build_potential, parse_model_config
from tdn.models.potential import Potential
from tdn.models.uncertainty import LastLayerPosterior
from tdn.nn.tensor_product import TableModule
from tdn.version import __version__

FORMAT = "tdn-model"
FORMAT_VERSION = 2  # 1 had no `radial_degree`: its splines were cubic


def save_model(path: str | os.PathLike[str], potential: Potential, metadata: Mapping[str, Any] | None = None) -> None:
    """Write `potential` to one file, atomically.

    Args:
        path: Destination, usually `*.tdn`.
        potential: The model; saved in its own precision, on the CPU.
        metadata: Anything JSON can hold that describes the model: training data, errors, versions.

    Raises:
        OSError: If the file cannot be written; an older file at `path` is then untouched.
    """
    from safetensors.torch import save

    tensors = {f"weights.{name}": value.detach().cpu().contiguous() for name, value in potential.state_dict().items()}
    tensors["reference_energies"] = potential.reference_energies.cpu()
    tables: dict[str, Any] = {}
    keys = []
    for factors in _factors_of(potential):
        table = factors.table
        name = _table_key(table)
        # Networks that were trained elsewhere may have several tables of the same degrees.
        if name in tables and tables[name]["digest"] != table.digest:
            name += f"-{table.digest[:16]}"
        keys.append(name)
        weights = {"-".join(map(str, path)): weight for path, weight in table.path_weights.items()}
        tables[name] = {"method": table.method, "digest": table.digest, "path_weights": weights}
        for key, array in (("in1", table.in1), ("in2", table.in2), ("out", table.out)):
            tensors[f"tables.{name}.{key}"] = torch.from_numpy(np.ascontiguousarray(array))
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tdn_version": __version__,
        "architecture": potential.config.architecture,
        "config": potential.config.model_dump(mode="json"),
        "not_claimed": dict(potential.config.not_claimed),
        "elements": list(potential.elements),
        "scale": potential.scale,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "tables": tables,
        "table_of_module": keys,
        "metadata": dict(metadata or {}),
    }
    if potential.uncertainty is not None:
        posterior = potential.uncertainty
        tensors["uncertainty.root"] = posterior.root.contiguous()
        scales = {"energy_scale": posterior.energy_scale, "forces_scale": posterior.forces_scale}
        header["uncertainty"] = {"names": posterior.names, "facts": dict(posterior.facts)} | {
            name: value if math.isfinite(value) else None for name, value in scales.items()
        }
    with atomic_write(path) as temporary:
        # Not `save_file`, whose error for a full disk is no OSError.
        temporary.write_bytes(save(tensors, metadata={"tdn": json.dumps(header)}))


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON header of a model file, without its weights.

    Raises:
        ModelFileError: If the file is missing, damaged, not a model, or of a newer format.
    """
    return _read(path, weights=False)[0]


def load_model(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Potential:
    """Read a model file and return the potential in evaluation mode.

    Args:
        path: File written by `save_model`.
        device: Where to put it.
        dtype: Precision to compute in; the file's own if None. Factors keep their float64 digits.

    Raises:
        ModelFileError: If the file is missing, damaged, not a model, or of a newer format.
    """
    header, tensors = _read(path, weights=True)
    energies = dict(zip(header["elements"], tensors["reference_energies"].tolist(), strict=True))
    potential = build_potential(parse_model_config(header["config"], str(path)), energies, header["scale"])
    modules = _factors_of(potential)
    # Files written before there could be several tables of the same degrees do not say which module has which.
    keys = header.get("table_of_module") or [_table_key(module.table) for module in modules]
    for module, key in zip(modules, keys, strict=True):
        module.set_table(_stored_table(module.table, key, header, tensors))
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    potential.to(dtype or getattr(torch, header["dtype"]))
    try:
        potential.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(f"{path}: the weights do not fit the configuration in the same file: {error}") from error
    if "uncertainty" in header:
        potential.uncertainty = _stored_posterior(header["uncertainty"], tensors["uncertainty.root"])
    return potential.to(device).eval()


def copy_tables(source: Potential, target: Potential) -> None:
    """Give `target`, of the same architecture and shape, the factor tables that `source` computes with.

    They take PyTorch's default precision: convert `target` afterwards.
    """
    for theirs, ours in zip(_factors_of(source), _factors_of(target), strict=True):
        ours.set_table(theirs.table)


def _factors_of(potential: Potential) -> list[TableModule]:
    return [module for module in potential.modules() if isinstance(module, TableModule)]


def _table_key(table: FactorTable) -> str:
    return f"{table.parity}-{table.lmax_in1}-{table.lmax_in2}-{table.lmax_out}"


def _stored_table(shipped: FactorTable, key: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> FactorTable:
    """The table that the model was trained with, in place of the one that the package ships for the same degrees."""
    if key not in header["tables"]:
        raise ModelFileError(f"The model file lacks its factor table {key!r}; it is damaged. Copy it again.")
    stored = header["tables"][key]
    return FactorTable(
        *shipped.shape,
        parity=shipped.parity,
        in1=tensors[f"tables.{key}.in1"].numpy(),
        in2=tensors[f"tables.{key}.in2"].numpy(),
        out=tensors[f"tables.{key}.out"].numpy(),
        path_weights={
            CouplingPath(*map(int, name.split("-"))): weight for name, weight in stored["path_weights"].items()
        },
        method=stored["method"],
    )


def _stored_posterior(stored: Mapping[str, Any], root: Tensor) -> LastLayerPosterior:
    scales = {name: math.nan if stored[name] is None else stored[name] for name in ("energy_scale", "forces_scale")}
    return LastLayerPosterior(tuple(stored["names"]), root, facts=stored["facts"], **scales)


def _read(path: str | os.PathLike[str], weights: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ModelFileError(f"No model file at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("tdn")
            tensors = {key: file.get_tensor(key) for key in file.keys()} if weights else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged or not a tdn model ({error}). Copy it again or retrain.") from error
    header = json.loads(text) if text else {}
    if header.get("format") != FORMAT:
        raise ModelFileError(f"{path} is a safetensors file, but not a tdn model: it has no {FORMAT!r} header.")
    if header["format_version"] > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format {header['format_version']} (written by tdn {header['tdn_version']}); this tdn "
            f"{__version__} reads up to {FORMAT_VERSION}. Upgrade tdn."
        )
    if header["format_version"] == 1 and "radial_knots" in header["config"]:
        header["config"].setdefault("radial_degree", 3)
    return header, tensors
