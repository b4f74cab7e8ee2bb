"""Checks before hours of training: what is wrong or odd in the frames, in words that say what to do.

Every limit was chosen so that the data sets of the tests pass and the same data in a wrong unit do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tdn.data.duplicates import find_duplicates
from tdn.data.labels import PLURAL, QUANTITIES, list_names
from tdn.data.reading import FrameSet
from tdn.data.reference import ReferenceEnergies, composition_groups, force_rms
from tdn.errors import DataError
from tdn.neighbors import neighbor_list
from tdn.structure import Structure
from tdn.units import GPA_PER_EV_PER_ANGSTROM3

FORCE_RMS_RANGE = (0.01, 30.0)  # eV/Å
LARGEST_FORCE = 100.0  # eV/Å
NET_FORCE_SHARE = 0.2
STIFFNESS_RANGE = (1.5, 200.0)  # eV/Å², molecules: 8 to 37 measured; crystals are softer, often strained
WIDE_STIFFNESS_RANGE = (0.02, 200.0)
BINDING_LIMIT = 20.0  # eV per atom; tungsten, the most strongly bound metal, has 8.9
SPREAD_LIMIT = 5.0  # eV per atom
STRESS_RMS_LIMIT = 1.0  # eV/Å³ = 160 GPa
CLOSE_CONTACT = 0.5  # Å; the shortest bond, H-H, has 0.74
CONTACT_SEARCH = 5.0  # Å; a search as short as the contacts would divide a large box into millions of bins


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        severity: `note`, `warning` (odd, training may go on) or `error` (it may not).
        check: Short stable name of the check.
        message: What was found, what was expected and what to do.
    """

    severity: str
    check: str
    message: str


def check_frames(
    train: FrameSet,
    valid: FrameSet | None = None,
    test: FrameSet | None = None,
    references: ReferenceEnergies | None = None,
    r_max: float | None = None,
    with_forces: bool = True,
) -> list[Finding]:
    """Look over the frames of a training run.

    Args:
        train: Training frames.
        valid: Validation frames.
        test: Test frames.
        references: Reference energies that the run will use; energies are judged relative to them.
        r_max: Cutoff radius, Å; with it, atoms without any neighbour are reported (this takes longer).
        with_forces: Whether forces are wanted, so that it is odd if there are none.

    Returns:
        Findings, errors first; empty if all is well.
    """
    sets = {name: part for name, part in (("train", train), ("valid", valid), ("test", test)) if part is not None}
    findings = _labels(train, with_forces) + _keys(sets) + _elements(sets) + _duplicates(sets)
    for name, frames in sets.items():
        for check in (_force_size, _extreme_forces, _net_forces, _stiffness, _stress):
            findings += check(name, frames)
        findings += _distances(name, frames, r_max)
    if references is not None:
        findings += _energies(train, references)
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def stiffness(frames: Sequence[Structure]) -> float | None:
    """Mean squared force over the thermal energy that the spread of the energies suggests, eV/Å².

    In a harmonic solid or molecule at temperature T, `<F²> = k kT` for each coordinate with force constant k, and the
    potential energy of n atoms has the standard deviation `kT sqrt(3n/2)`. Their ratio is a mean force constant, 30 to
    37 eV/Å² in thermal samples of organic molecules: a wrong unit of energies or forces changes it by a large factor.

    Returns:
        None if there are not at least 10 labelled frames of one composition.
    """
    labelled = [s for s in frames if s.energy is not None and s.forces is not None and len(s) > 1]
    squares, temperatures, weights = [], [], []
    for group in composition_groups(labelled):
        if len(group) < 10:
            continue
        spread = np.std(np.array([s.energy for s in group], dtype=np.float64), ddof=1)
        temperatures.append(float(spread) / np.sqrt(1.5 * len(group[0])))
        squares.append(float(np.mean([np.square(s.forces).mean() for s in group if s.forces is not None])))
        weights.append(len(group))
    if not weights or np.average(temperatures, weights=weights) < 1e-12:
        return None
    return float(np.average(squares, weights=weights) / np.average(temperatures, weights=weights))


def _warn(check: str, message: str) -> list[Finding]:
    return [Finding("warning", check, message)]


def _labels(train: FrameSet, with_forces: bool) -> list[Finding]:
    if not len(train):
        return [Finding("error", "frames", f"{train.source} holds no frames to train on, only isolated atoms.")]
    findings = []
    if all(s.energy is None for s in train.structures):
        findings.append(Finding("error", "labels", "No training frame has an energy: name the key that holds it."))
    # Relaxed energies of initial structures (IS2RE) come without forces.
    of_relaxations = all("y_init" in s.info for s in train.structures)
    if with_forces and not of_relaxations and all(s.forces is None for s in train.structures):
        findings += _warn("labels", "No training frame has forces: name their key; energies alone teach far less.")
    return findings


def _keys(sets: dict[str, FrameSet]) -> list[Finding]:
    """Sets whose labels come from different keys may be of different levels of theory."""
    findings = []
    for quantity in QUANTITIES:
        keys = {name: getattr(frames.report, quantity).key for name, frames in sets.items()}
        if len({key for key in keys.values() if key is not None}) > 1:
            listed = ", ".join(f"`{key}` in {name}" for name, key in keys.items())
            findings += _warn("keys", f"The key of the {PLURAL[quantity]} differs: {listed}. Name the one to read.")
    return findings


def _elements(sets: dict[str, FrameSet]) -> list[Finding]:
    from ase.data import chemical_symbols

    known = set(sets["train"].elements)
    findings = []
    for name, frames in sets.items():
        unknown = sorted(set(frames.elements) - known)
        if unknown:
            symbols = ", ".join(chemical_symbols[z] for z in unknown)
            message = f"{name} frames contain {symbols}, which no training frame has: add such frames or remove these."
            findings.append(Finding("error", "elements", message))
    return findings


def _duplicates(sets: dict[str, FrameSet]) -> list[Finding]:
    """Equal geometries within and across sets: those across make errors look smaller than they are."""
    found, findings = find_duplicates(sets), []
    if found.across:
        pairs = ", ".join(f"{len(names)} of {own} are also in {other}" for (own, other), names in found.across.items())
        findings += _warn(
            "duplicates",
            f"Duplicate frames across sets: {pairs} ({_some(found.across)}): errors there will look too small; remove "
            "them.",
        )
    if found.within:
        findings += _warn(
            "duplicates",
            f"Duplicate frames: {_counts(found.within)} ({_some(found.within)}): a random split would leak them; "
            "remove them.",
        )
    if found.steady:
        message = (
            f"Frames with the geometry of an earlier one of their trajectory: {_counts(found.steady)} "
            f"({_some(found.steady)}), as relaxations at rest have; they count more than once."
        )
        findings.append(Finding("note", "steady", message))
    return findings


def _counts(names: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{len(some)} in {name}" for name, some in names.items())


def _some(names: Mapping[Any, Sequence[str]]) -> str:
    return list_names([name for some in names.values() for name in some])


def _force_size(name: str, frames: FrameSet) -> list[Finding]:
    rms = force_rms(frames.structures)
    if rms is None or FORCE_RMS_RANGE[0] <= rms <= FORCE_RMS_RANGE[1]:
        return []
    if rms == 0:
        return _warn("force_rms", f"All forces of the {name} frames are zero: these are no labels. Name another key.")
    low, high = FORCE_RMS_RANGE
    return _warn(
        "force_rms",
        f"Forces of the {name} frames have a root mean square of {rms:.3g} eV/Å, expected {low} to {high}: are they in "
        "another unit (kcal/mol/Å, Hartree/bohr, meV/Å)? Labels must be in eV/Å.",
    )


def _extreme_forces(name: str, frames: FrameSet) -> list[Finding]:
    largest = [0.0 if s.forces is None else float(np.abs(s.forces).max()) for s in frames.structures]
    extreme = [origin for origin, force in zip(frames.origins, largest, strict=True) if force > LARGEST_FORCE]
    if not extreme:
        return []
    return _warn(
        "largest_force",
        f"{len(extreme)} {name} frames have forces above {LARGEST_FORCE:g} eV/Å, up to {max(largest):.3g} "
        f"({list_names(extreme)}): such frames dominate the loss; remove them if the calculation failed.",
    )


def _net_forces(name: str, frames: FrameSet) -> list[Finding]:
    """Forces of a closed system sum to zero; forces that are not gradients, or of other frames, do not."""
    shares = []
    for structure in frames.structures:
        if structure.forces is not None and len(structure) > 1 and (size := np.linalg.norm(structure.forces)) > 0:
            shares.append(np.linalg.norm(structure.forces.sum(axis=0)) / size)
    if not shares or np.median(shares) <= NET_FORCE_SHARE:
        return []
    return _warn(
        "net_force",
        f"Forces of the {name} frames do not sum to zero (median net force {np.median(shares):.0%} of their norm): "
        "an external field, forces of fixed atoms set to zero, or columns out of order? A potential cannot fit them.",
    )


def _stiffness(name: str, frames: FrameSet) -> list[Finding]:
    value = stiffness(frames.structures)
    if value is None:
        return []
    # Energies of relaxations spread far more than those of thermal samples, and so do those of isomers.
    wide = frames.trajectories is not None or any(s.pbc.any() for s in frames.structures)
    low, high = WIDE_STIFFNESS_RANGE if wide else STIFFNESS_RANGE
    if low <= value <= high:
        return []
    return _warn(
        "energy_force_ratio",
        f"Energies and forces of the {name} frames hardly fit together: squared forces over the spread of the energies "
        f"suggest a force constant of {value:.3g} eV/Å², expected {low} to {high}. Are both in eV and eV/Å, and from "
        "the same calculation?",
    )


def _stress(name: str, frames: FrameSet) -> list[Finding]:
    stresses = [s.stress for s in frames.structures if s.stress is not None]
    if not stresses:
        return []
    rms = float(np.sqrt(np.mean(np.square(stresses))))
    if rms == 0:
        return _warn("stress", f"All stresses of the {name} frames are zero: these are no labels. Set the key to none.")
    if rms <= STRESS_RMS_LIMIT:
        return []
    return _warn(
        "stress",
        f"Stresses of the {name} frames have a root mean square of {rms:.3g} eV/Å³ "
        f"({rms * GPA_PER_EV_PER_ANGSTROM3:.0f} GPa): are they in GPa or kbar, or virials in eV (name such a key with "
        "`virial`)? Labels must be in eV/Å³, tension positive.",
    )


def _distances(name: str, frames: FrameSet, r_max: float | None) -> list[Finding]:
    """Atoms on top of each other, very short contacts, and atoms that see nobody."""
    overlapping, close, alone = [], [], []
    for structure, origin in zip(frames.structures, frames.origins, strict=True):
        try:
            senders, receivers, shifts = neighbor_list(structure, r_max or CONTACT_SEARCH)
        except DataError as error:
            overlapping.append(f"{origin}: {error}")
            continue
        vectors = structure.positions[senders] + shifts @ structure.cell - structure.positions[receivers]
        if (np.square(vectors).sum(axis=1) < CLOSE_CONTACT**2).any():
            close.append(origin)
        if r_max is not None and len(np.unique(receivers)) < len(structure):
            alone.append(origin)
    findings = [Finding("error", "overlap", f"{name} frame {message}") for message in overlapping]
    if close:
        message = f"{len(close)} {name} frames have atoms closer than {CLOSE_CONTACT} Å ({list_names(close)})."
        findings.append(Finding("warning", "distances", message))
    if alone:
        message = (
            f"{len(alone)} {name} frames have atoms without neighbours within {r_max} Å ({list_names(alone)}): the "
            "potential gives them their reference energy and no force."
        )
        findings.append(Finding("note", "lone_atoms", message))
    return findings


def _energies(train: FrameSet, references: ReferenceEnergies) -> list[Finding]:
    """Energies per atom after subtracting reference energies."""
    findings = [Finding("note", "references", note) for note in references.notes]
    binding = np.array(
        [(s.energy - references.total(s.numbers)) / len(s) for s in train.structures if s.energy is not None]
    )
    if not len(binding):
        return findings
    if abs(binding.mean()) > BINDING_LIMIT:
        findings += _warn(
            "binding_energy",
            f"Energies are {binding.mean():.1f} eV/atom from the sum of the reference energies ({references.origin}), "
            f"expected within {BINDING_LIMIT:g}: total and interaction energies, units, or levels of theory are mixed.",
        )
    elif binding.std() > SPREAD_LIMIT:
        findings += _warn(
            "energy_spread",
            f"Energies less reference energies spread by {binding.std():.1f} eV/atom, expected below {SPREAD_LIMIT:g}: "
            "are all frames from one calculation and in eV?",
        )
    return findings
