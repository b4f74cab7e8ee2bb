"""Data that ship with the package: small organic molecules at B3LYP/6-31G*, computed by the project."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tdn.errors import DataError

SPLITS = ("train", "valid", "test")
"""Splits of the organics data set; no molecule is in two of them."""

ORGANICS_FILES = (*SPLITS, "isolated_atoms")


def organics_path(split: str) -> Path:
    """Path of one extended-XYZ file of the organics data set.

    Frames carry `REF_energy` (eV), `REF_forces` (eV/Å), `config_type`, `molecule` and `smiles`; provenance and counts
    are in `README.md` and `manifest.json` beside the file.

    Args:
        split: One of `SPLITS`, or `isolated_atoms` for the reference energies of H, C, N, O, F, S and Cl.

    Raises:
        DataError: If there is no such split.
    """
    if split not in ORGANICS_FILES:
        raise DataError(f"The organics data set has no split {split!r}; choose one of {', '.join(ORGANICS_FILES)}.")
    return Path(str(resources.files(__name__) / "organics" / f"{split}.extxyz"))
