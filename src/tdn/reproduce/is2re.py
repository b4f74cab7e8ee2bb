"""IS2RE-direct of OC20 and OC22 with the set-ups of 2507.01131, from the downloaded files to its Tables 2 and 3."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tdn.data.convert import convert
from tdn.data.linear_reference import NORMALISERS
from tdn.data.ocp_source import OpenCatalyst
from tdn.data.reading import read_frames
from tdn.devices import choose_device
from tdn.errors import DataError, TDNError
from tdn.evaluation.catalysis import TaskMetrics
from tdn.evaluation.evaluate import evaluate
from tdn.evaluation.metrics import FramePrediction
from tdn.evaluation.submission import join_splits, split_arrays, write_npz
from tdn.files import write_json
from tdn.modelfile import load_model, read_header
from tdn.models.potential import Potential
from tdn.structure import Structure
from tdn.training.config import RunConfig, apply_override
from tdn.training.distributed import join_processes
from tdn.training.logs import Reporter
from tdn.training.run import train

Dataset = Literal["oc20", "oc22"]

STRUCTURES_AT_A_TIME = 256

# Where the official downloads unpack to, below the root; the first that is there is taken.
FOLDERS: Mapping[Dataset, tuple[str, ...]] = {
    "oc20": ("is2re/all", "data/is2re/all", "is2res_train_val_test_lmdbs/data/is2re/all", "."),
    "oc22": (
        *("oc22/is2re", "is2re", "is2re-total", "data/oc22/is2re-total"),
        *("is2res_total_train_val_test_lmdbs/data/oc22/is2re-total", "."),
    ),
}
VALID: Mapping[Dataset, tuple[str, ...]] = {
    "oc20": ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both"),
    "oc22": ("val_id", "val_ood"),
}
TEST: Mapping[Dataset, Mapping[str, str]] = {
    "oc20": {"id": "test_id", "ood_ads": "test_ood_ads", "ood_cat": "test_ood_cat", "ood_both": "test_ood_both"},
    "oc22": {"id": "test_id", "ood": "test_ood"},
}

_NETWORK = {
    "architecture": "PaperTDN",
    "lmax": 1,
    "num_channels": 256,
    "num_layers": 6,
    "num_gaussians": 256,
    "truncation": "nearest",
    "num_atom_types": 100,
    "energy": "per_structure",
    "forces": "none",
}
_TRAINING = {
    "batch_size": 32,
    "max_edges": None,
    "optimizer": "adamw",
    "lr": 2e-4,
    "weight_decay": 1e-3,
    "warmup_steps": 0,
    "warmup_epochs": 2,
    "warmup_factor": 0.2,
    "lr_final": 0.01,
    "betas": (0.9, 0.999),
    "clip_grad": None,
    "ema_decay": 0.0,
    "loss": "l1",
    "energy_per": "structure",
    "energy_weight": 1.0,
    "select_by": "energy",
    "validate_every": "epoch",
    "forces_weight": 0.0,
    "stress_weight": 0.0,
}
SETTINGS: Mapping[Dataset, Mapping[str, Mapping[str, Any]]] = {
    "oc20": {
        "data": {"reference_energies": "zero"},
        "model": {
            **_NETWORK,
            "r_max": 5.0,
            "max_neighbors": 500,
            "energy_mean": NORMALISERS["oc20-is2re"].mean,
            "energy_std": NORMALISERS["oc20-is2re"].std,
        },
        "training": {**_TRAINING, "max_epochs": 32},
    },
    "oc22": {
        "data": {},
        "model": {**_NETWORK, "r_max": 12.0, "max_neighbors": 20, "bond_order_lmax": 9},
        "training": {**_TRAINING, "max_epochs": 1000},
    },
}
"""The paper's set-ups; what it does not say is as in its network for PubChemQCR, and the normaliser is fairchem's."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: Of the model.
        mae: Energy MAE of each split and their mean, eV.
        ewt: Energies within 20 meV in percent, in the same order; empty if not published.
    """

    name: str
    mae: tuple[float, ...]
    ewt: tuple[float, ...] = ()


PUBLISHED: Mapping[Dataset, tuple[Row, ...]] = {
    "oc20": (
        Row("SchNet", (0.6465, 0.7074, 0.6475, 0.6626, 0.6660), (2.96, 2.22, 3.03, 2.38, 2.65)),
        Row("DimeNet++", (0.5636, 0.7127, 0.5612, 0.6492, 0.6217), (4.25, 2.48, 4.40, 2.56, 3.42)),
        Row("GemNet-dT", (0.5561, 0.7342, 0.5659, 0.6964, 0.6382), (4.51, 2.24, 4.37, 2.38, 3.38)),
        Row("SphereNet", (0.5632, 0.6682, 0.5590, 0.6190, 0.6024), (4.56, 2.70, 4.59, 2.70, 3.64)),
        Row("Equiformer", (0.5088, 0.6271, 0.5051, 0.5545, 0.5489), (4.88, 2.93, 4.92, 2.98, 3.93)),
        Row("EquiformerV2", (0.5161, 0.7041, 0.5245, 0.6365, 0.5953)),
        Row("TDN", (0.5085, 0.6668, 0.5104, 0.5875, 0.5683), (5.21, 2.54, 5.04, 2.98, 3.94)),
    ),
    "oc22": (
        Row("SchNet", (2.00, 4.85, 3.42)),
        Row("DimeNet++", (1.96, 3.52, 2.74)),
        Row("PaiNN", (1.72, 3.68, 2.70)),
        Row("GemNet-dT", (1.68, 3.08, 2.38)),
        Row("coGN", (1.62, 2.81, 2.21)),
        Row("TDN", (1.49, 2.92, 2.20)),
    ),
}
"""Table 2 (OC20, validation) and Table 3 (OC22, test) of the paper."""


@dataclass(frozen=True)
class Reproduction:
    """What came of it.

    Attributes:
        row: Our line of the table, on validation splits.
        model: The trained model.
        submission: Predictions for the test splits, or None if they are not all there.
        num_train: Training structures.
        changes: To the paper's set-up.
    """

    row: Row
    model: Path
    submission: Path | None
    num_train: int
    changes: tuple[str, ...] = ()


def reproduce_is2re(
    dataset: Dataset,
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    linear_reference: str | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    reporter: Reporter | None = None,
) -> Reproduction | None:
    """Train and validate; write `results.json`, and a submission if the test splits are there.

    Args:
        dataset: `oc20` or `oc22`.
        root: Folder of the download, with `train`, `val_id`, ... below it.
        output: Folder for the frame stores (`data`), the run (`run`), `results.json` and the submission.
        linear_reference: npz of OC22's linear references; by default they are fitted to the training energies.
        overrides: Changes to the paper's set-up, as `key=value`.
        options: Keys of `RunConfig` at its top: seed, device, dtype, threads.
        resume: Continue the run in the folder.
        overwrite: Remove the run in the folder first.
        workers: Processes that convert the data, once.
        reporter: Hears what happens.

    Returns:
        What came of it; None on all processes but the first.

    Raises:
        DataError: If a split is missing.
        ConfigError: If a change is not valid.
        TDNError: If the run was interrupted.
    """
    reporter = reporter or Reporter()
    folders = find_splits(dataset, root)
    stores = {name: str(Path(output) / "data" / name) for name in ("train", *VALID[dataset])}
    content = run_content(dataset, stores, Path(output) / "run", linear_reference, overrides)
    config = RunConfig.parse({**content, **(options or {})})
    with join_processes(config.device) as (processes, _):
        if processes.is_first:
            convert_splits(folders, stores, workers, reporter)
        processes.barrier()
        result = train(config, reporter, resume=resume, overwrite=overwrite)
        if result.signal is not None:
            raise TDNError(f"Interrupted at step {result.steps}: the same command with --resume continues.")
        if not processes.is_first:
            return None
    potential = load_model(result.model_path, choose_device(config.device))
    row = validate(dataset, potential, stores, reporter)
    submission = write_submission(dataset, potential, folders, Path(output))
    count = read_header(result.model_path)["metadata"]["num_frames"]
    found = Reproduction(row, result.model_path, submission, count, tuple(overrides))
    write_json(Path(output) / "results.json", describe(dataset, found))
    return found


def find_splits(dataset: Dataset, root: str | os.PathLike[str]) -> dict[str, str]:
    """Data of every split that is there, by name: an LMDB or a folder of them.

    Raises:
        DataError: If the training split or a validation split is missing.
    """
    names = ("train", *VALID[dataset], *TEST[dataset].values())
    for folder in (Path(root) / part for part in FOLDERS[dataset]):
        found = {name: str(folder / name) for name in names if (folder / name).is_dir()}
        if "train" in found:
            missing = [name for name in VALID[dataset] if name not in found]
            if missing:
                raise DataError(f"{folder} has no {', '.join(missing)}: download the validation splits too.")
            return found
    places = ", ".join(f"{part}/train" for part in FOLDERS[dataset])
    raise DataError(f"No training split of {dataset.upper()} below {root}; looked for {places}.")


def convert_splits(folders: Mapping[str, str], stores: Mapping[str, str], workers: int, reporter: Reporter) -> None:
    """Frame stores of the splits, so that memory does not grow with the data; those that are there are kept."""
    for name, store in stores.items():
        made = convert(OpenCatalyst((folders[name],)), store, workers=workers)
        reporter.line(f"{name}: {len(made)} structures in {store}")


def run_content(
    dataset: Dataset, folders: Mapping[str, str], output: Path, linear_reference: str | None, overrides: Sequence[str]
) -> dict[str, Any]:
    """The configuration of the run: the paper's set-up, the data and the user's changes."""
    content: dict[str, Any] = {section: dict(values) for section, values in SETTINGS[dataset].items()}
    content["data"] |= {"train": folders["train"], "valid": folders["val_id"]}
    if dataset == "oc22":
        content["data"]["reference_energies"] = linear_reference or "least_squares"
    content["output"] = str(output)
    for override in overrides:
        apply_override(content, override)
    return content


def validate(dataset: Dataset, potential: Potential, stores: Mapping[str, str], reporter: Reporter) -> Row:
    """Our line of the table."""
    mae, ewt = [], []
    for split in VALID[dataset]:
        structures = read_frames(stores[split], required=("energy",)).structures
        metrics = TaskMetrics("is2re")
        evaluate(potential, structures, observe=lambda s, p, add=metrics.add: add(s, [own.energy for own in p]))
        found = metrics.result()
        mae.append(found["energy_mae"])
        ewt.append(100.0 * found["energy_within_threshold"])
        reporter.line(f"{split}: MAE {mae[-1]:.4f} eV, EwT {ewt[-1]:.2f} % of {len(structures)} structures")
    return Row("this run", (*mae, sum(mae) / len(mae)), (*ewt, sum(ewt) / len(ewt)))


def predict(potential: Potential, structures: Sequence[Structure]) -> list[FramePrediction]:
    """Predictions of all structures, whose graphs are never all in memory."""
    pieces = (structures[k : k + STRUCTURES_AT_A_TIME] for k in range(0, len(structures), STRUCTURES_AT_A_TIME))
    return [prediction for piece in pieces for prediction in evaluate(potential, tuple(piece)).predictions]


def write_submission(dataset: Dataset, potential: Potential, folders: Mapping[str, str], output: Path) -> Path | None:
    """Predictions for the test splits, which have no public targets; None if not all of them are there."""
    if not all(name in folders for name in TEST[dataset].values()):
        return None
    parts = {}
    for split, name in TEST[dataset].items():
        structures = read_frames(folders[name], required=()).structures
        parts[split] = split_arrays("is2re", structures, predict(potential, structures), dataset=dataset)
    path = output / "submission.npz"
    write_npz(path, join_splits(parts, dataset))
    return path


def describe(dataset: Dataset, found: Reproduction) -> dict[str, Any]:
    """The result as JSON types."""
    return {
        "dataset": dataset,
        "splits": [*VALID[dataset], "average"],
        "mae_ev": list(found.row.mae),
        "ewt_percent": list(found.row.ewt),
        "training_structures": found.num_train,
        "changes": list(found.changes),
        "published": {row.name: {"mae_ev": list(row.mae), "ewt_percent": list(row.ewt)} for row in PUBLISHED[dataset]},
    }


def tables(dataset: Dataset, found: Reproduction) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of energy MAE and, for OC20, EwT: the published numbers, and ours below them."""
    columns = ["model", *(split.removeprefix("val_").replace("_", " ") for split in VALID[dataset]), "average"]
    rows = (*PUBLISHED[dataset], found.row)
    where = "validation" if dataset == "oc20" else "published: test, this run: validation"
    title = f"{dataset.upper()} IS2RE-direct, energy MAE, eV ({where}); {found.num_train} training structures"
    digits = 4 if dataset == "oc20" else 2
    mae = [[row.name, *(f"{value:.{digits}f}" for value in row.mae)] for row in rows]
    if dataset == "oc22":
        return [(title, columns, mae)]
    ewt = [[row.name, *([f"{value:.2f}" for value in row.ewt] or ["-"] * len(row.mae))] for row in rows]
    return [(title, columns, mae), ("\nEnergies within 20 meV, %", columns, ewt)]
