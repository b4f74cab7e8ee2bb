"""Files to labelled structures: everything ASE reads, ASE databases, rMD17's npz, LMDBs of OC20 and OC22."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tdn.data.formats import PathLike, expand_paths, fingerprint, read_atoms
from tdn.data.labels import (
    QUANTITIES,
    SEARCH_ORDER,
    LabelKeys,
    LabelReport,
    LabelSource,
    check_presence,
    choose_source,
    list_names,
    parse_label,
)
from tdn.data.ocp import OCPOptions, check_one_kind_of_energy, is_open_catalyst, iterate_lmdb
from tdn.data.store import FrameStore, Origins, StoreView, is_store
from tdn.errors import DataError
from tdn.structure import Scalar, Structure

if TYPE_CHECKING:
    from ase import Atoms

# No crystal has lattice planes this far apart with one atom between them, so such a cell is a box around an atom.
ISOLATED_BOX = 20.0
SAMPLE = 2000  # frames of a frame store that are looked at before training


@dataclass(frozen=True)
class FrameSet:
    """Labelled structures of one or several files.

    Attributes:
        structures: Frames without the isolated atoms; those of a frame store are read when they are asked for.
        isolated_atoms: Energy in eV by atomic number, from isolated-atom frames.
        report: Which keys were read and how often they were there.
        source: The files, for messages.
        fingerprint: SHA-256 of the file, or of the list of the files' SHA-256; empty for frames in memory.
        origins: `file:index` of each structure, the index counting all frames of its file from 0.
        known_elements: Elements of the structures where they need not be looked for.
        trajectories: Number of the trajectory of each structure in memory, if it is of one.
    """

    structures: Sequence[Structure]
    isolated_atoms: Mapping[int, float]
    report: LabelReport
    source: str
    fingerprint: str
    origins: Sequence[str]
    known_elements: tuple[int, ...] | None = None
    trajectories: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur in the structures, ascending."""
        if self.known_elements is not None:
            return self.known_elements
        return tuple(sorted({int(z) for s in self.structures for z in np.unique(s.numbers)}))

    @property
    def on_disk(self) -> bool:
        """Whether the structures are those of a frame store."""
        return isinstance(self.structures, StoreView)

    def sample(self, count: int = SAMPLE) -> FrameSet:
        """A part that fits into memory: frames evenly spread over a frame store, or all that are in memory already."""
        if not isinstance(self.structures, StoreView):
            return self
        some = self.structures.spread(count)
        return replace(
            self, structures=tuple(some), origins=tuple(Origins(some)), trajectories=tuple(some.trajectories.tolist())
        )

    def select(self, indices: Sequence[int]) -> FrameSet:
        """The frames at `indices`, in that order; isolated atoms stay."""
        return replace(
            self,
            structures=tuple(self.structures[k] for k in indices),
            origins=tuple(self.origins[k] for k in indices),
            trajectories=None if self.trajectories is None else tuple(self.trajectories[k] for k in indices),
        )


def read_frames(
    paths: PathLike | Sequence[PathLike],
    keys: LabelKeys | None = None,
    *,
    required: Collection[str] = ("energy", "forces"),
    allow_partial: bool = False,
    ocp: OCPOptions = OCPOptions(),  # noqa: B008
) -> FrameSet:
    """Read labelled frames from files; the keys are chosen once for all of them.

    Args:
        paths: One or several files, folders or glob patterns.
        keys: Names of the labels; searched for by default.
        required: Quantities that must be there.
        allow_partial: Accept frames without a label that others have. Stress that was searched for may always be
            partial, and frames not periodic in all directions never have one.
        ocp: What to read of the LMDBs of OC20 and OC22.

    Raises:
        DataError: If a file is missing, empty or damaged, or labels are absent, NaN or of the wrong shape.
    """
    if any(is_store(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)):
        return _read_store(paths, keys or LabelKeys(), required)
    files = expand_paths(paths)
    if any(file.suffix == ".lmdb" for file in files):
        return _read_ocp(files, keys or LabelKeys(), required, allow_partial, ocp)
    atoms: list[Atoms] = []
    origins: list[str] = []
    for file in files:
        frames = read_atoms(file)
        atoms += frames
        origins += [f"{file.name}:{k}" for k in range(len(frames))]
    source = ", ".join(str(file) for file in files)
    frame_set = frames_from_atoms(
        atoms, keys, required=required, allow_partial=allow_partial, origins=origins, source=source
    )
    return replace(frame_set, fingerprint=fingerprint(files))


def frames_from_atoms(
    frames: Sequence[Atoms],
    keys: LabelKeys | None = None,
    *,
    required: Collection[str] = ("energy", "forces"),
    allow_partial: bool = False,
    origins: Sequence[str] | None = None,
    source: str = "memory",
) -> FrameSet:
    """The same as `read_frames` for `ase.Atoms` in memory.

    Forces are taken as they are stored, without applying the constraints of fixed atoms.

    Raises:
        DataError: If labels are absent, NaN or of the wrong shape, or a geometry is broken.
    """
    keys = keys or LabelKeys()
    origins = origins or [f"frame {k}" for k in range(len(frames))]
    if not frames:
        raise DataError(f"{source} holds no frames.")
    isolated = [k for k, atoms in enumerate(frames) if is_isolated_atom(atoms)]
    ordinary = sorted(set(range(len(frames))) - set(isolated))
    try:
        sources = _choose_sources([frames[k] for k in ordinary], [frames[k] for k in isolated], keys)
        structures = [_build(frames[k], sources, origins[k]) for k in ordinary]
        names = [origins[k] for k in ordinary]
        _check_labels(structures, names, sources, keys, required, allow_partial)
        energies = _isolated_energies([frames[k] for k in isolated], [origins[k] for k in isolated], sources["energy"])
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    notes = _notes(sources)
    report = LabelReport(**sources, num_isolated=len(isolated), notes=notes)
    return FrameSet(tuple(structures), energies, report, source, "", tuple(names))


def _read_store(paths: PathLike | Sequence[PathLike], keys: LabelKeys, required: Collection[str]) -> FrameSet:
    """A frame store, or `STORE::part` of its split; its labels were chosen when it was made."""
    names = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if len(names) != 1:
        raise DataError(f"A frame store is read by itself: name one, got {', '.join(map(str, names))}.")
    if set(vars(keys).values()) - {"auto", "none"}:
        raise DataError("The labels of a frame store were chosen by tdn data convert: leave out the keys, or `none`.")
    folder, _, part = os.fspath(names[0]).partition("::")
    store = FrameStore(folder)
    unwanted = tuple(quantity for quantity in QUANTITIES if getattr(keys, quantity) == "none")
    view = StoreView(store, store.view(part).frames, part, unwanted)
    sample = list(view.spread(SAMPLE))
    sources = {}
    for quantity in QUANTITIES:
        share = sum(getattr(s, quantity) is not None for s in sample) / max(len(sample), 1)
        if quantity in required and not share:
            raise DataError(f"{names[0]} has no {quantity}: convert data with this label.")
        sources[quantity] = LabelSource("store" if share else None, round(share * len(view)), len(view))
    report = LabelReport(**sources)
    name = f"{folder}::{part}" if part else folder
    fingerprint = view.fingerprint()
    return FrameSet(view, store.reference_energies, report, name, fingerprint, Origins(view), store.elements)


def _read_ocp(
    files: Sequence[Path], keys: LabelKeys, required: Collection[str], allow_partial: bool, options: OCPOptions
) -> FrameSet:
    """Records of LMDBs; their labels have no keys to choose."""
    others = [file.name for file in files if file.suffix != ".lmdb"]
    if others:
        raise DataError(f"LMDBs of OC20 and OC22 are read by themselves, not beside {list_names(others)}.")
    named = [key for key in vars(keys).values() if key not in ("auto", "none")]
    if named:
        raise DataError(f"The labels of LMDBs of OC20 and OC22 are found by themselves; there is no key {named[0]!r}.")
    foreign = next((file for file in files if not is_open_catalyst(file)), None)
    if foreign is not None:
        raise DataError(
            f"{foreign} is a shard of PubChemQCR, if not damaged. Make a frame store of the shards, and name that: "
            f"tdn data convert {foreign.parent} STORE --split subset (or full)."
        )
    structures, origins = [], []
    for file in files:
        for number, structure in iterate_lmdb(file, options):
            structures.append(_without(structure, keys))
            origins.append(f"{file.name}:{number}")
    check_one_kind_of_energy(structures, options)
    names = {"energy": "y_relaxed/y/energy", "forces": "force/forces", "stress": None}
    counts = {quantity: sum(getattr(s, quantity) is not None for s in structures) for quantity in QUANTITIES}
    sources = {
        quantity: LabelSource(names[quantity] if counts[quantity] else None, counts[quantity], len(structures))
        for quantity in QUANTITIES
    }
    source = ", ".join(str(file) for file in files)
    try:
        _check_labels(structures, origins, sources, keys, required, allow_partial)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    report = LabelReport(sources["energy"], sources["forces"], sources["stress"])
    return FrameSet(tuple(structures), {}, report, source, fingerprint(files), tuple(origins))


def _without(structure: Structure, keys: LabelKeys) -> Structure:
    """The structure without labels that are not wanted."""
    unwanted = {quantity: None for quantity in QUANTITIES if getattr(keys, quantity) == "none"}
    return replace(structure, **unwanted) if unwanted else structure


def is_isolated_atom(atoms: Atoms) -> bool:
    """Whether a frame is one atom alone, to be read as a reference energy.

    It is, if it has one atom and says so (`config_type` IsolatedAtom or isolated_atom, whatever its cell), or is not
    periodic, or its periodic box has lattice planes at least 20 Å apart. One-atom crystal cells are ordinary frames,
    and so is an ion (`charge` or `total_charge` not zero) unless its `config_type` says otherwise.
    """
    if len(atoms) != 1:
        return False
    if _is_marked(atoms):
        return True
    if any(np.any(atoms.info.get(name, 0)) for name in ("charge", "total_charge")):
        return False
    if not atoms.pbc.any():
        return True
    cell = atoms.cell.complete().array
    heights = abs(np.linalg.det(cell)) / np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    return bool((heights[atoms.pbc] >= ISOLATED_BOX).all())


def _is_marked(atoms: Atoms) -> bool:
    """Whether the frame calls itself an isolated atom: MACE writes `IsolatedAtom`, BOTNet `isolated_atom`."""
    return str(atoms.info.get("config_type", "")).lower().replace("_", "").replace("-", "") == "isolatedatom"


def _choose_sources(ordinary: list[Atoms], isolated: list[Atoms], keys: LabelKeys) -> dict[str, LabelSource]:
    """One key a quantity; a set of isolated atoms only has its energies judged by them."""
    return {
        "energy": choose_source(ordinary or isolated, "energy", keys.energy),
        "forces": choose_source(ordinary, "forces", keys.forces),
        "stress": choose_source([atoms for atoms in ordinary if atoms.pbc.all()], "stress", keys.stress),
    }


def _build(atoms: Atoms, sources: Mapping[str, LabelSource], origin: str) -> Structure:
    """A labelled structure; every complaint names the frame."""
    try:
        labels: dict[str, Any] = {
            quantity: parse_label(atoms, quantity, source.key)
            for quantity, source in sources.items()
            if source.key is not None and (quantity != "stress" or atoms.pbc.all())
        }
        return Structure.from_ase(atoms, **labels, info=_scalars(atoms, sources))
    except DataError as error:
        raise DataError(f"Frame {origin}: {error}") from error


def _scalars(atoms: Atoms, sources: Mapping[str, LabelSource]) -> dict[str, Scalar]:
    """Scalars of a frame that are not labels."""
    labels = {name for names in SEARCH_ORDER.values() for name in names} | {s.key for s in sources.values()}
    scalars = {}
    for name, value in atoms.info.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, str | int | float | bool) and name not in labels:
            scalars[name] = plain
    return scalars


def _check_labels(
    structures: Sequence[Structure],
    names: Sequence[str],
    sources: Mapping[str, LabelSource],
    keys: LabelKeys,
    required: Collection[str],
    allow_partial: bool,
) -> None:
    """Refuse labels that are NaN, or absent though asked for."""
    for quantity in QUANTITIES:
        source = sources[quantity]
        missing, broken = [], []
        for structure, name in zip(structures, names, strict=True):
            value = getattr(structure, quantity)
            if value is None and (quantity != "stress" or structure.volume is not None):
                missing.append(name)
            elif value is not None and not np.isfinite(value).all():
                broken.append(name)
        if broken:
            raise DataError(
                f"`{source.key}` is NaN or infinite in {len(broken)} frames: {list_names(broken)}. Remove these frames "
                "(an absent label must be left out, not written as NaN)."
            )
        if structures:
            check_presence(source, quantity, missing, getattr(keys, quantity), quantity in required, allow_partial)


def _isolated_energies(frames: Sequence[Atoms], names: Sequence[str], source: LabelSource) -> dict[int, float]:
    """Energy of each isolated element; a frame marked by its `config_type` goes before one that only looks isolated."""
    if source.key is None:
        return {}
    found: dict[int, tuple[bool, float, str]] = {}
    for atoms, name in zip(frames, names, strict=True):
        energy = parse_label(atoms, "energy", source.key)
        if energy is None or not np.isfinite(energy):
            raise DataError(f"Frame {name} is an isolated atom without a usable `{source.key}`: add it or remove it.")
        number, marked = int(atoms.numbers[0]), _is_marked(atoms)
        earlier = found.get(number)
        if earlier and earlier[0] == marked and abs(earlier[1] - energy) > 1e-3:
            raise DataError(
                f"Frames {earlier[2]} and {name} are the same isolated atom {atoms.get_chemical_formula()} with "
                f"energies {earlier[1]:.6f} and {energy:.6f} eV. Keep the reference state only."
            )
        if earlier is None or (marked and not earlier[0]):
            found[number] = (marked, energy, name)
    return {number: energy for number, (_, energy, _) in sorted(found.items())}


def _notes(sources: Mapping[str, LabelSource]) -> tuple[str, ...]:
    """Keys that were there and not read."""
    unused = [name for source in sources.values() if source.key is not None for name in source.unused]
    return (f"not used: {', '.join(f'`{name}`' for name in unused)}",) if unused else ()
