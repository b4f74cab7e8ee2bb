"""One shard of a frame store: a safetensors file, whose arrays are mapped into memory and never copied as a whole.

| array | shape | |
|---|---|---|
| `offsets` | `[F + 1]` | atoms of frame k are `offsets[k]` to `offsets[k + 1]` |
| `trajectories` | `[T + 1]` | the same for the frames of trajectories |
| `sums` | `[T, 6]` | `SUMS` of each trajectory |
| `numbers` | `[A]` | atomic numbers, one byte each |
| `positions`, `forces` | `[A, 3]` | Å, eV/Å; float32 or float64 |
| `energy` | `[F]` | eV, float64; NaN where there is none |
| `labelled` | `[F]` | whether a frame has forces |
| `cell`, `stress` | `[F, 3, 3]` | Å, eV/Å³; NaN where there is no stress; absent if no frame has one |
| `pbc`, `fixed`, `tags` | `[F, 3]`, `[A]`, `[A]` | absent if no frame has any |
| `info`, `info_offsets` | bytes, `[F + 1]` | scalars of each frame as JSON |

Names of the trajectories are in the file's metadata.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdn.data.sources import Trajectory
from tdn.errors import DataError
from tdn.files import atomic_write
from tdn.structure import Scalar, Structure

Arrays = dict[str, NDArray[Any]]

SUMS = ("frames", "energies", "energy", "energy_squared", "force_components", "force_squared")
"""Frames; frames with an energy; sums over them of the energy per atom above the references, eV, and of its square;
force components, and the sum of their squares."""

_DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32, "I8": np.int8},
    **{"U8": np.uint8, "U32": np.uint32, "U64": np.uint64, "BOOL": np.bool_},
}


_DECODE = json.JSONDecoder().raw_decode  # `json.loads` looks for an encoding first, which takes longer than the rest


def map_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Arrays of a safetensors file, mapped, and its metadata.

    Raises:
        DataError: If it is missing, damaged or cut off.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, 1 << 30)))
        # As a plain array on the map: indexing a memmap is slower.
        content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))[8 + size :]
        metadata = header.pop("__metadata__", {})
        arrays = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            arrays[name] = content[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return arrays, metadata
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise DataError(f"{path} is missing or damaged ({error}): restore it, or convert again.") from error


def map_shard(path: Path) -> Arrays:
    """Arrays of a shard, mapped, after checking that they belong together.

    Raises:
        DataError: If an array is missing or of another length than the others.
    """
    arrays, _ = map_arrays(path)
    try:
        offsets, frames = arrays["offsets"], len(arrays["energy"])
        lengths = {"offsets": frames + 1, "labelled": frames} | {
            name: int(offsets[-1]) for name in ("numbers", "positions", "forces")
        }
        lengths |= {name: frames for name in ("cell", "pbc", "stress") if name in arrays}
        lengths |= {name: int(offsets[-1]) for name in ("fixed", "tags") if name in arrays}
        wrong = [name for name, length in lengths.items() if len(arrays[name]) != length]
        if wrong or offsets[0] != 0 or (np.diff(offsets) < 1).any():
            raise DataError(f"{path} is damaged, its {', '.join(wrong) or 'offsets'} cannot be: convert again.")
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} is no shard of a frame store ({error}): restore it, or convert again.") from error
    return arrays


def structure_at(arrays: Arrays, k: int) -> Structure:
    """Frame `k` of a shard.

    Its content is not checked again: it was when the shard was written, and the shard has a checksum.
    """
    first, last = arrays["offsets"][k : k + 2].tolist()
    energy = arrays["energy"].item(k)
    cell, pbc, stress = (arrays[name][k] if name in arrays else None for name in ("cell", "pbc", "stress"))
    fixed, tags = (arrays[name][first:last] if name in arrays else None for name in ("fixed", "tags"))
    return Structure.unchecked(
        numbers=arrays["numbers"][first:last].astype(np.int64),
        positions=arrays["positions"][first:last].astype(np.float64),
        cell=np.zeros((3, 3)) if cell is None else cell.astype(np.float64),
        pbc=np.zeros(3, dtype=np.bool_) if pbc is None else pbc.copy(),
        energy=None if math.isnan(energy) else energy,
        forces=arrays["forces"][first:last].astype(np.float64) if arrays["labelled"][k] else None,
        stress=None if stress is None or np.isnan(stress).any() else stress.astype(np.float64),
        info=_info(arrays, k),
        fixed=None if fixed is None or not fixed.any() else fixed.copy(),
        tags=None if tags is None or tags.min() < 0 else tags.astype(np.int64),
    )


def _info(arrays: Arrays, k: int) -> dict[str, Scalar]:
    """Scalars of frame `k`."""
    if "info" not in arrays:
        return {}
    first, last = arrays["info_offsets"][k : k + 2].tolist()
    try:
        return _DECODE(arrays["info"][first:last].tobytes().decode())[0]
    except ValueError as error:
        raise DataError(f"The scalars of frame {k} of a shard are damaged ({error}): convert again.") from error


def write_shard(
    path: Path, trajectories: Iterable[Trajectory], dtype: str, references: Mapping[int, float]
) -> dict[str, Any] | None:
    """Write trajectories as one shard, atomically.

    Args:
        path: Destination.
        trajectories: In order.
        dtype: Of positions and forces, `float32` or `float64`.
        references: eV by atomic number, for `sums`; missing ones count as 0.

    Returns:
        Counts of the shard; None if there was nothing to write.
    """
    names: list[str] = []
    frames: list[Structure] = []
    lengths: list[int] = []
    for trajectory in trajectories:
        names.append(trajectory.name)
        lengths.append(len(trajectory.frames))
        frames += trajectory.frames
    if not frames:
        return None
    arrays = _arrays(frames, np.dtype(dtype))
    arrays["trajectories"] = np.cumsum([0, *lengths], dtype=np.int64)
    arrays["sums"] = _sums(frames, lengths, references)
    save_arrays(path, arrays, {"names": json.dumps(names)})
    elements = np.unique(arrays["numbers"]).tolist()
    return {"frames": len(frames), "trajectories": len(names), "atoms": len(arrays["numbers"]), "elements": elements}


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as a safetensors file, atomically."""
    from safetensors.numpy import save

    with atomic_write(path) as temporary:
        # Not `save_file`, whose error for a full disk is no OSError.
        temporary.write_bytes(save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, dict(metadata or {})))


def _arrays(frames: Sequence[Structure], dtype: np.dtype) -> Arrays:
    """All arrays but those of trajectories; optional ones only if a frame needs them."""
    nothing = np.full((3, 3), np.nan)
    arrays: Arrays = {
        "offsets": np.cumsum([0, *(len(s) for s in frames)], dtype=np.int64),
        "numbers": np.concatenate([s.numbers for s in frames]).astype(np.uint8),
        "positions": np.concatenate([s.positions for s in frames]).astype(dtype),
        "energy": np.array([np.nan if s.energy is None else s.energy for s in frames], dtype=np.float64),
        "labelled": np.array([s.forces is not None for s in frames]),
    }
    forces = [np.zeros((len(s), 3)) if s.forces is None else s.forces for s in frames]
    arrays["forces"] = np.concatenate(forces).astype(dtype)
    if any(s.cell.any() or s.pbc.any() for s in frames):
        arrays["cell"] = np.stack([s.cell for s in frames])
        arrays["pbc"] = np.stack([s.pbc for s in frames])
    if any(s.stress is not None for s in frames):
        arrays["stress"] = np.stack([nothing if s.stress is None else s.stress for s in frames])
    if any(s.fixed is not None for s in frames):
        arrays["fixed"] = ~np.concatenate([s.free for s in frames])
    if any(s.tags is not None for s in frames):
        tags = [np.full(len(s), -1) if s.tags is None else s.tags for s in frames]
        arrays["tags"] = np.concatenate(tags).astype(np.int8)
    if any(s.info for s in frames):
        texts = [json.dumps(dict(s.info), ensure_ascii=False).encode() for s in frames]
        arrays["info"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
        arrays["info_offsets"] = np.cumsum([0, *(len(text) for text in texts)], dtype=np.int64)
    return arrays


def _sums(frames: Sequence[Structure], lengths: Sequence[int], references: Mapping[int, float]) -> NDArray[np.float64]:
    """`SUMS` of each trajectory, `[T, 6]`."""
    table = np.zeros((119,))
    for number, energy in references.items():
        table[number] = energy
    rows = np.zeros((len(frames), len(SUMS)))
    for row, s in zip(rows, frames, strict=True):
        row[0] = 1.0
        if s.energy is not None:
            above = (s.energy - table[s.numbers].sum()) / len(s)
            row[1:4] = 1.0, above, above**2
        if s.forces is not None:
            row[4:6] = s.forces.size, np.square(s.forces).sum()
    return np.add.reduceat(rows, np.cumsum([0, *lengths[:-1]]), axis=0)
