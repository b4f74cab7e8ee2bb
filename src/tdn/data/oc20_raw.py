"""OC20's raw S2EF download: `k.extxyz.xz` with frames and `k.txt.xz` with a line for each frame.

Line i of the text belongs to frame i: `random<system>,frame<number>,<reference energy>`. The frames hold total
energies; the adsorption energy, which is what OC20 is about, is the total less the reference. Forces of fixed atoms
are kept.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from tdn.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms


class FrameLine(NamedTuple):
    """One line of the text.

    Attributes:
        sid: System, the number after `random`.
        fid: Frame of its relaxation, the number after `frame`.
        reference: Energy of the slab and the gas-phase references, eV; None in test splits, which have no targets.
    """

    sid: int
    fid: int
    reference: float | None


def is_raw(path: Path) -> bool:
    """Whether a file belongs to the raw download: it is called `k.extxyz.xz`, or has a text of such lines beside it."""
    stem, _, suffix = path.name.partition(".")
    return (stem.isdigit() and suffix == "extxyz.xz") or _find_index(path) is not None


def _find_index(path: Path) -> Path | None:
    """The text beside a file of frames: compressed or, after the official `uncompress.py`, plain; None if none is."""
    stem, _, suffix = path.name.partition(".")
    if suffix not in ("extxyz.xz", "extxyz"):
        return None
    candidates = (path.with_name(f"{stem}.txt.xz"), path.with_name(f"{stem}.txt"))
    return next((index for index in candidates if index.is_file() and _holds_frame_lines(index)), None)


def _holds_frame_lines(path: Path) -> bool:
    """Whether the first line is one of this format; a user's own notes beside a file are none of our business."""
    try:
        with _open(path) as file:
            return re.match(r"random\d+,frame\d+,", file.readline()) is not None
    except (EOFError, lzma.LZMAError, UnicodeDecodeError):
        # Damaged: to be complained of when it is read.
        return path.suffix == ".xz"


def read_raw_frames(path: Path, total_energies: bool = False) -> list[Atoms]:
    """All frames of one file, their energies in the attached calculator, `sid`, `fid` and `reference_energy` in `info`.

    Args:
        path: `k.extxyz.xz`, or `k.extxyz` decompressed.
        total_energies: Keep the total energies instead of making adsorption energies.

    Raises:
        DataError: If a file is missing, truncated or malformed, or the two do not have equally many frames.
    """
    index = _find_index(path)
    if index is None:
        stem = path.name.partition(".")[0]
        raise DataError(
            f"{path} has no {stem}.txt.xz (or {stem}.txt) beside it, which holds systems and reference energies: keep "
            "the two together, as they were downloaded."
        )
    lines = list(_read_lines(index))
    frames = _read_frames(path)
    if len(frames) != len(lines):
        raise DataError(
            f"{path.name} has {len(frames)} frames but {index.name} has {len(lines)} lines; line i belongs to frame i. "
            "Download both again."
        )
    for atoms, line in zip(frames, lines, strict=True):
        atoms.info |= {"sid": line.sid, "fid": line.fid}
        if line.reference is not None:
            atoms.info["reference_energy"] = line.reference
        if atoms.calc is not None and "energy" in atoms.calc.results and not total_energies:
            if line.reference is None:
                raise DataError(f"{index.name} has no reference energy of system {line.sid}, frame {line.fid}.")
            atoms.calc.results["energy"] -= line.reference
            atoms.calc.results.pop("free_energy", None)
    return frames


def _read_lines(path: Path) -> Iterator[FrameLine]:
    try:
        with _open(path) as file:
            for number, text in enumerate(file, start=1):
                yield _parse(text.strip(), f"{path.name}, line {number}")
    except (EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is truncated or damaged ({error}). Download it again.") from error


def _read_frames(path: Path) -> list[Atoms]:
    import ase.io

    try:
        with _open(path) as file:
            return list(ase.io.iread(file, index=":", format="extxyz"))
    except (EOFError, lzma.LZMAError, UnicodeDecodeError, ValueError, KeyError, OSError) as error:
        raise DataError(
            f"{path} is truncated or damaged ({type(error).__name__}: {error}). Download it again."
        ) from error


def _open(path: Path) -> TextIO:
    return lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")


def _parse(text: str, where: str) -> FrameLine:
    try:
        system, frame, *rest = text.split(",")
        (reference,) = map(float, rest) if rest else (None,)
        return FrameLine(int(system.removeprefix("random")), int(frame.removeprefix("frame")), reference)
    except ValueError as error:
        raise DataError(f"{where}: expected `random<system>,frame<number>,<energy>`, got {text!r}.") from error
