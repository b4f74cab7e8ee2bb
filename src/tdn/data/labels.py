"""Which key of a file holds energy, forces and stress: chosen once for all frames of a set, and said aloud."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tdn.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

QUANTITIES = ("energy", "forces", "stress")
PLURAL = {"energy": "energies", "forces": "forces", "stress": "stress"}

# Explicit reference labels come before plain names, since a plain `energy` may be a force field's or a model's.
# `free_energy` is never taken by itself: whoever wants it names it.
SEARCH_ORDER = {
    "energy": ("REF_energy", "ref_energy", "energy", "dft_energy", "DFT_energy", "Energy", "total_energy"),
    "forces": ("REF_forces", "ref_forces", "forces", "dft_forces", "DFT_forces", "Forces", "force", "Force"),
    "stress": (
        *("REF_stress", "ref_stress", "stress", "dft_stress", "DFT_stress"),
        *("REF_virials", "REF_virial", "ref_virial", "virials", "virial", "dft_virial", "DFT_virial"),
    ),
}


@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a file.

    Attributes:
        energy: A key, `auto` to search, or `none` to read no energies.
        forces: The same for forces.
        stress: The same for stress; a key with `virial` in its name is a virial in eV, `stress = -virial / volume`.
    """

    energy: str = "auto"
    forces: str = "auto"
    stress: str = "auto"


@dataclass(frozen=True)
class LabelSource:
    """Where one quantity was found.

    Attributes:
        key: The key that was chosen, or None if the quantity is not read.
        num_labelled: Frames that carry it.
        num_frames: Frames that could carry it: all, or for stress those periodic in all directions.
        unused: Other known keys of the quantity that are in the files and were not read.
    """

    key: str | None
    num_labelled: int
    num_frames: int
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelReport:
    """What was read from a set of files; `str(report)` is the line to print.

    Attributes:
        energy: Source of the energies.
        forces: Source of the forces.
        stress: Source of the stress.
        num_isolated: Isolated-atom frames, taken out as reference energies.
        notes: Further choices that a user should know of.
    """

    energy: LabelSource
    forces: LabelSource
    stress: LabelSource
    num_isolated: int = 0
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        parts = []
        for quantity in QUANTITIES:
            source: LabelSource = getattr(self, quantity)
            if source.key is None:
                parts.append(f"no {PLURAL[quantity]}")
                continue
            kind = "periodic frames" if quantity == "stress" else "frames"
            parts.append(f"{PLURAL[quantity]} from `{source.key}`, {source.num_labelled} of {source.num_frames} {kind}")
        if self.num_isolated:
            parts.append(f"{self.num_isolated} isolated atoms")
        return "; ".join([*parts, *self.notes])


def find_label(atoms: Atoms, quantity: str, key: str) -> Any:
    """The raw value of `key`, or None; ASE >= 3.23 moves `energy`, `forces`, `stress` into the attached calculator."""
    results = atoms.calc.results if atoms.calc is not None else {}
    if results.get(key) is not None:
        return results[key]
    return atoms.arrays.get(key) if quantity == "forces" else atoms.info.get(key)


def choose_source(frames: Sequence[Atoms], quantity: str, requested: str) -> LabelSource:
    """Choose the key of one quantity for all frames.

    Args:
        frames: The frames that could carry it.
        quantity: `energy`, `forces` or `stress`.
        requested: A key, `auto` or `none`.

    Raises:
        DataError: If the automatic choice is ambiguous: the first key found is absent from frames that another has.
    """
    if requested == "none":
        return LabelSource(None, 0, len(frames))
    names = SEARCH_ORDER[quantity] if requested == "auto" else (requested, *SEARCH_ORDER[quantity])
    counts = {name: sum(find_label(atoms, quantity, name) is not None for atoms in frames) for name in names}
    found = [name for name, count in counts.items() if count]
    if requested != "auto":
        unused = tuple(name for name in found if name != requested)
        return LabelSource(requested, counts[requested], len(frames), unused)
    if not found:
        return LabelSource(None, 0, len(frames))
    best = max(found, key=lambda name: counts[name])
    if counts[best] > counts[found[0]]:
        listed = ", ".join(f"`{name}` in {counts[name]}" for name in found)
        raise DataError(
            f"The {PLURAL[quantity]} have several keys, each in other frames: {listed} of {len(frames)} frames. "
            f"Name the one to read ({quantity} key), so that levels of theory are not mixed."
        )
    return LabelSource(found[0], counts[found[0]], len(frames), tuple(found[1:]))


def parse_label(atoms: Atoms, quantity: str, key: str) -> Any:
    """One label in the package's units and shape: float, `[n, 3]` or `[3, 3]`; None if the frame has none.

    Raises:
        DataError: If it is not numeric or has the wrong shape.
    """
    raw = find_label(atoms, quantity, key)
    if raw is None:
        return None
    try:
        value = np.array(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"`{key}` should hold numbers, got {raw!r}: name another {quantity} key.") from error
    if quantity == "energy":
        if value.size != 1:
            raise DataError(
                f"`{key}` should be one total energy, got shape {value.shape}: per-atom energies are no label."
            )
        return float(value.reshape(()))
    if quantity == "forces":
        if value.shape != (len(atoms), 3):
            raise DataError(f"`{key}` should have shape ({len(atoms)}, 3), got {value.shape}: check the columns.")
        return value
    return _parse_stress(atoms, key, value)


def _parse_stress(atoms: Atoms, key: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stress `[3, 3]` in eV/Å³ from 6 (Voigt xx yy zz yz xz xy), 9 or 3 × 3 numbers, or from a virial in eV."""
    if value.shape == (6,):
        matrix = value[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    elif value.size == 9:
        matrix = value.reshape(3, 3)
    else:
        raise DataError(f"`{key}` should hold 6 or 9 numbers, got shape {value.shape}.")
    if np.abs(matrix - matrix.T).max() > 1e-2 * np.abs(matrix).max() + 1e-6:
        raise DataError(f"`{key}` should be symmetric, got {matrix.tolist()}: check order and units of its components.")
    matrix = (matrix + matrix.T) / 2
    return -matrix / atoms.get_volume() if "virial" in key.lower() else matrix


def check_presence(
    source: LabelSource, quantity: str, missing: Sequence[str], requested: str, required: bool, allow_partial: bool
) -> None:
    """Refuse a label that was asked for and is not in every frame.

    Args:
        source: The choice that was made.
        quantity: `energy`, `forces` or `stress`.
        missing: Names of the frames without it.
        requested: What the user asked for: a key, `auto` or `none`.
        required: Whether the caller cannot do without this quantity.
        allow_partial: Whether frames without it are fine. Stress found by itself may always be partial.

    Raises:
        DataError: If the label is absent, or absent from some frames without leave.
    """
    explicit = requested not in ("auto", "none")
    if source.num_labelled == 0:
        if source.num_frames and (explicit or required):
            tried = [requested] if explicit else list(SEARCH_ORDER[quantity])
            raise DataError(
                f"No {PLURAL[quantity]} found in {source.num_frames} frames: looked for "
                f"{', '.join(f'`{name}`' for name in tried)}. Name the key that holds them."
            )
        return
    if missing and not allow_partial and (explicit or quantity != "stress"):
        raise DataError(
            f"{PLURAL[quantity].capitalize()} (`{source.key}`) are missing in {len(missing)} of {source.num_frames} "
            f"frames: {list_names(missing)}. Remove these frames, choose another key, or allow partial labels."
        )


def list_names(names: Collection[str], limit: int = 5) -> str:
    """The first few names, for a message."""
    shown = list(names)[:limit]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")
