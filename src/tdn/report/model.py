"""What a model file says about its model, in words and in JSON types: for reports and `tdn info`."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import torch
from ase.data import chemical_symbols

from tdn.cp.tables import FactorTable
from tdn.models.potential import Potential
from tdn.nn.tensor_product import TableModule
from tdn.report.content import Rows
from tdn.version import __version__


def factor_tables(potential: Potential) -> tuple[FactorTable, ...]:
    """The factor tables that the model computes with, each once."""
    found = {module.table.digest: module.table for module in potential.modules() if isinstance(module, TableModule)}
    return tuple(sorted(found.values(), key=lambda table: (table.shape, table.rank)))


def num_parameters(potential: Potential) -> int:
    """Trained numbers of the model."""
    return sum(parameter.numel() for parameter in potential.parameters())


def not_claimed(potential: Potential) -> tuple[str, ...]:
    """What holds for other models and not for this one, in sentences."""
    sentences = list(dict.fromkeys(potential.config.not_claimed.values()))
    inexact = [table.name for table in factor_tables(potential) if not table.certificate.exact]
    if inexact:
        sentences.append(f"no exact equivariance: {', '.join(inexact)} only approximate their couplings")
    return tuple(sentences)


def describe_table(table: FactorTable) -> dict[str, Any]:
    """A factor table with its certificate, measured on the numbers of the table, as JSON types."""
    return {
        "shape": list(table.shape),
        "parity": table.parity,
        "rank": table.rank,
        "digest": table.digest,
        "method": table.method,
        "exact": table.certificate.exact,
        **table.certificate.to_dict(),
    }


def describe_model(potential: Potential, header: Mapping[str, Any]) -> dict[str, Any]:
    """All that is known about a model, as JSON types under stable names: what `tdn info --json` writes.

    Args:
        potential: The model.
        header: Its file's header, from `read_header`.
    """
    references = zip(potential.elements, potential.reference_energies.tolist(), strict=True)
    metadata = header["metadata"]
    return {
        "architecture": header["architecture"],
        "format": header["format"],
        "format_version": header["format_version"],
        "tdn_version": header["tdn_version"],
        "config": header["config"],
        "parameters": num_parameters(potential),
        "dtype": header["dtype"],
        "elements": [chemical_symbols[z] for z in potential.elements],
        "reference_energies": {chemical_symbols[z]: energy for z, energy in references},
        "tables": [describe_table(table) for table in factor_tables(potential)],
        "data": metadata.get("data", {}),
        "errors": {name: metadata[name] for name in ("valid", "test") if metadata.get(name)},
        "metadata": {key: value for key, value in metadata.items() if key not in ("data", "valid", "test")},
        "not_claimed": list(not_claimed(potential)),
    }


def model_rows(potential: Potential) -> Rows:
    """Facts about the network."""
    config = potential.config
    return (
        ("Architecture", config.architecture),
        ("Elements", ", ".join(chemical_symbols[z] for z in potential.elements)),
        ("Parameters", f"{num_parameters(potential):,}".replace(",", "\u202f")),
        ("Layers × channels", f"{config.num_layers} × {config.num_channels}"),
        ("Highest degree L", str(config.lmax)),
        ("Cutoff", f"{config.r_max:g} Å"),
        *config.facts,
        ("Ranks", ", ".join(f"({', '.join(map(str, t.shape))}): {t.rank}" for t in factor_tables(potential))),
        ("Precision", str(potential.dtype).removeprefix("torch.")),
    )


def data_rows(metadata: Mapping[str, Any]) -> Rows:
    """Facts about the data that a model was trained on, from its file's metadata."""
    titles = {"train": "Training", "valid": "Validation", "test": "Test"}
    parts = metadata.get("data", {})
    rows = [
        (str(titles.get(name, name)), f"{part['num_frames']} frames of {', '.join(part['files'])}")
        for name, part in parts.items()
    ]
    if "train" in parts:
        rows.append(("Training labels", parts["train"]["labels"].replace("`", "")))
    if "reference_energies" in metadata:
        energies = str(metadata["reference_energies"]).removeprefix("reference energies ").replace(" -", "\u00a0−")
        rows.append(("Reference energies", energies))
    return tuple(rows)


def provenance_rows(metadata: Mapping[str, Any]) -> Rows:
    """Versions, seed and machine; no names of hosts, users or folders."""
    trained = metadata.get("versions", {})
    rows = [("tdn", __version__), ("PyTorch", torch.__version__), ("Python", platform.python_version())]
    if trained and trained != {"tdn": __version__, "torch": torch.__version__, "python": platform.python_version()}:
        rows.append(("Trained with", ", ".join(f"{name} {version}" for name, version in trained.items())))
    for name, part in metadata.get("data", {}).items():
        rows.append((f"SHA-256 of {name} data", part["sha256"]))
    if "seed" in metadata:
        rows.append(("Seed", str(metadata["seed"])))
    if "date" in metadata:
        rows.append(("Trained", str(metadata["date"])))
    return (*rows, ("Machine", describe_machine()))


def describe_machine() -> str:
    """Operating system, processor and accelerator."""
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPU cores", *_processor()]
    parts.append(f"{torch.get_num_threads()} PyTorch threads")
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor() -> list[str]:
    """The processor's model where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        return []
    return names[:1]
