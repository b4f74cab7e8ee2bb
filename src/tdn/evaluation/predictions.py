"""Per-frame predictions beside their labels, as extended XYZ."""

from __future__ import annotations

import os

import numpy as np

from tdn.evaluation.evaluate import Evaluation, FramePrediction
from tdn.files import atomic_write
from tdn.structure import Structure


def write_predictions(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write every frame with its labels as `REF_*` and the predictions as `TDN_*`, atomically.

    Frame information such as `config_type` is kept. Energies are in eV, forces in eV/Å, stress in eV/Å³ as nine
    numbers, ASE's sign.

    Raises:
        OSError: If the file cannot be written.
    """
    import ase.io

    frames = [
        _labelled_atoms(structure, prediction)
        for structure, prediction in zip(evaluation.structures, evaluation.predictions, strict=True)
    ]
    with atomic_write(path) as temporary:
        ase.io.write(temporary, frames, format="extxyz")


def _labelled_atoms(structure: Structure, prediction: FramePrediction):
    atoms = structure.to_ase()
    for prefix, labels in (("REF", structure), ("TDN", prediction)):
        if labels.energy is not None:
            atoms.info[f"{prefix}_energy"] = labels.energy
        if labels.forces is not None and not np.isnan(labels.forces).all():
            atoms.set_array(f"{prefix}_forces", np.asarray(labels.forces))
        if labels.stress is not None:
            atoms.info[f"{prefix}_stress"] = np.asarray(labels.stress)
    return atoms
