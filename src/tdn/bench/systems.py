"""The structures that are timed: made here from geometry and a seed, so that no file of a third party is needed.

They stand for their kind by density, elements and neighbours. Their energies mean nothing: no model was trained for
them, and water is a lattice of molecules with random orientations, not an equilibrated liquid.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tdn.errors import ConfigError
from tdn.structure import Structure

# Liquid water at 25 °C and 1 bar: 0.99705 g/cm³ and 18.015 g/mol.
VOLUME_PER_WATER = 18.015 / 0.99705 / 0.602214076
# Geometry of the free molecule: Å, degrees (Hasted, in Water: A Comprehensive Treatise, 1972).
OH_LENGTH, HOH_ANGLE = 0.9572, 104.52
# Å between atoms of different molecules; shorter than a hydrogen bond (1.8), so that a lattice site can be filled.
CLOSEST_CONTACT = 1.5
SI_LATTICE_CONSTANT = 5.431


def water(sites: int = 4, seed: int = 0) -> Structure:
    """`sites³` water molecules at liquid density, randomly oriented on a jittered cubic lattice, periodic."""
    rng = np.random.default_rng(seed)
    spacing = VOLUME_PER_WATER ** (1 / 3)
    edge = sites * spacing
    corners = np.stack(np.meshgrid(*[np.arange(sites)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    centres = (corners + 0.5) * spacing + rng.uniform(-0.1, 0.1, (sites**3, 3))
    positions = np.zeros((0, 3))
    for centre in centres:
        positions = np.concatenate([positions, _oriented_water(centre, positions, edge, rng)])
    numbers = np.tile([8, 1, 1], sites**3)
    return _periodic(numbers, positions, np.eye(3) * edge)


def _oriented_water(centre: NDArray, placed: NDArray, edge: float, rng: np.random.Generator) -> NDArray:
    """Positions of one molecule `[3, 3]`: of random orientations the first that touches nothing, else the best."""
    half = np.radians(HOH_ANGLE / 2)
    molecule = OH_LENGTH * np.array([[0, 0, 0], [np.sin(half), 0, np.cos(half)], [-np.sin(half), 0, np.cos(half)]])
    best, widest = molecule + centre, -1.0
    for _ in range(50):
        trial = molecule @ _random_rotation(rng).T + centre
        offsets = trial[:, None] - placed[None]
        offsets -= edge * np.round(offsets / edge)
        gap = float(np.linalg.norm(offsets, axis=-1).min()) if len(placed) else np.inf
        if gap > widest:
            best, widest = trial, gap
        if gap >= CLOSEST_CONTACT:
            break
    return best


def _random_rotation(rng: np.random.Generator) -> NDArray:
    w, x, y, z = (quaternion := rng.normal(size=4)) / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def silicon(cells: int = 4, seed: int = 0) -> Structure:
    """`8 cells³` silicon atoms in the diamond structure, each displaced by 0.05 Å a direction, periodic."""
    faces = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]]) / 4
    basis = np.concatenate([faces, faces + 0.25])
    corners = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = SI_LATTICE_CONSTANT * (corners + basis).reshape(-1, 3)
    positions += np.random.default_rng(seed).normal(scale=0.05, size=positions.shape)
    return _periodic(np.full(len(positions), 14), positions, np.eye(3) * SI_LATTICE_CONSTANT * cells)


def aspirin() -> Structure:
    """The molecule, 21 atoms; its geometry is from `scripts/make_aspirin.py`."""
    from ase.io import read

    with resources.as_file(resources.files("tdn.bench") / "geometries" / "aspirin.extxyz") as path:
        return Structure.from_ase(read(path))  # pyright: ignore[reportArgumentType]


def ethanol(frames: int = 10, seed: int = 0) -> list[Structure]:
    """Ethanol from ASE's G2 set, 9 atoms, each frame displaced by 0.05 Å a direction."""
    from ase.build import molecule

    atoms, rng = molecule("CH3CH2OH"), np.random.default_rng(seed)
    structures = []
    for _ in range(frames):
        moved = atoms.copy()
        moved.positions += rng.normal(scale=0.05, size=moved.positions.shape)
        structures.append(Structure.from_ase(moved))
    return structures


def lips() -> Structure:
    """The first frame of the Li-P-S data set, which is not shipped.

    Raises:
        ConfigError: If the environment variable TDN_DATA names no folder with `lips/*.extxyz`.
    """
    from ase.io import read

    found = sorted(Path(os.environ.get("TDN_DATA", "")).glob("lips/*.extxyz"))
    if not os.environ.get("TDN_DATA") or not found:
        raise ConfigError("--system lips needs lips/*.extxyz in the folder that TDN_DATA names; there is none.")
    return Structure.from_ase(read(found[0], index=0))  # pyright: ignore[reportArgumentType]


def repeat(structure: Structure, times: tuple[int, int, int]) -> Structure:
    """A periodic structure repeated along its lattice vectors."""
    shifts = np.stack(np.meshgrid(*[np.arange(n) for n in times], indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (structure.positions + shifts @ structure.cell).reshape(-1, 3)
    return _periodic(np.tile(structure.numbers, len(shifts)), positions, structure.cell * np.array(times)[:, None])


def water_of_size(num_atoms: int) -> Structure:
    """A periodic box of about `num_atoms` atoms of water, at least 81: the 192-atom box repeated."""
    if num_atoms < 192:
        return water(3)
    cube = max(1, round((num_atoms / 192) ** (1 / 3)))
    best = min(
        ((a, b, c) for a in range(1, cube + 2) for b in range(a, cube + 2) for c in range(b, 2 * cube + 2)),
        key=lambda times: (abs(192 * times[0] * times[1] * times[2] - num_atoms), times[2] - times[0]),
    )
    return repeat(water(), best)


def _periodic(numbers: NDArray, positions: NDArray, cell: NDArray) -> Structure:
    return Structure(numbers.astype(np.int64), positions, cell, np.ones(3, dtype=np.bool_))


SYSTEMS: dict[str, Callable[[], Structure]] = {
    "aspirin": aspirin,
    "water": water,
    "water1536": lambda: repeat(water(), (2, 2, 2)),
    "si": silicon,
    "lips": lips,
}


def make_system(name: str) -> Structure:
    """A structure by its name in `SYSTEMS`.

    Raises:
        ConfigError: If there is no such system.
    """
    if name not in SYSTEMS:
        raise ConfigError(f"--system must be of {', '.join(SYSTEMS)} (train-step: ethanol too), got {name!r}.")
    return SYSTEMS[name]()
