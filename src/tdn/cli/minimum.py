"""What commands about minima share: a model in float64, one structure, relaxed first, and a folder for the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdn.cli.common import choose_dtype, set_threads

if TYPE_CHECKING:
    from ase import Atoms

    from tdn.models.potential import Potential

ModelArgument = Annotated[Path, typer.Argument(help="Model file.")]
StructureArgument = Annotated[str, typer.Argument(help="File with the structure; its last frame counts.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; its files are replaced.")]
RelaxOption = Annotated[bool, typer.Option("--relax/--no-relax", help="Whether to relax the structure first.")]
FmaxOption = Annotated[float, typer.Option("--fmax", help="How far to relax, eV/Å.")]
StepsOption = Annotated[int, typer.Option("--steps", help="Most steps of relaxations.")]


def load(model: Path, device: str, dtype: str, threads: int) -> Potential:
    """The model on its device."""
    from tdn.devices import choose_device
    from tdn.modelfile import load_model

    set_threads(threads)
    return load_model(model, choose_device(device), choose_dtype(dtype))


def read_structure(path: str) -> Atoms:
    """The last frame of a file.

    Raises:
        DataError: If there is none, or it cannot be used.
    """
    from tdn.data.formats import expand_paths, read_atoms
    from tdn.errors import DataError
    from tdn.structure import Structure

    frames = read_atoms(expand_paths([path])[0])
    if not frames:
        raise DataError(f"{path} holds no structure.")
    Structure.from_ase(frames[-1])  # refuses what nothing could use
    return frames[-1]


def minimum(potential: Potential, atoms: Atoms, *, cell: bool, fmax: float, steps: int) -> Atoms:
    """The minimum next to `atoms`.

    Raises:
        DataError: If it was not reached.
    """
    from tdn.errors import DataError
    from tdn.simulation.relaxation import RelaxSettings, relax

    (result,) = relax(potential, [atoms], RelaxSettings(fmax, steps, cell=cell))
    if result.status != "converged":
        why = result.message or f"the largest force is {result.fmax:.2g} eV/Å after {result.steps} steps"
        raise DataError(f"The structure did not relax: {why}. Raise --steps or --fmax, or pass --no-relax.")
    return result.atoms


def make_folder(path: Path) -> None:
    """A folder that can be written.

    Raises:
        ConfigError: If it cannot.
    """
    from tdn.errors import ConfigError
    from tdn.files import atomic_write

    try:
        with atomic_write(path / ".writable"):
            pass
        (path / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"The folder {path} cannot be written ({error.strerror}): name another.") from error


def write_results(folder: Path, name: str, content: dict[str, Any], figure: Any, atoms: Atoms) -> None:
    """`NAME.json`, `NAME.png` and `structure.extxyz`."""
    import ase.io

    from tdn.files import atomic_write, write_json
    from tdn.report.figures import save_png

    write_json(folder / f"{name}.json", content)
    save_png(figure, folder / f"{name}.png")
    with atomic_write(folder / "structure.extxyz") as temporary:
        ase.io.write(temporary, atoms, format="extxyz")
