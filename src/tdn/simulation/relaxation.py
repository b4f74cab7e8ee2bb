"""`relax`: many structures at once, each with its own ASE optimiser, all of them with one call of the potential a step.

The optimisers are ASE's, so that constraints, mixed periodicity and cell filters mean what they mean there, and a
structure takes the same path as it would alone. What is shared is the costly part: energies, forces and stress of all
structures that are still moving are one batch. A structure that has converged, failed or run out of steps makes room
for the next at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from tdn.errors import ConfigError, DataError
from tdn.evaluation.evaluate import MAX_EDGES, FramePrediction, split
from tdn.interfaces.dispersion import d3_calculator, with_dispersion
from tdn.models.potential import Potential
from tdn.simulation.verlet import OverlapError, VerletBatch
from tdn.structure import Structure

Status = Literal["converged", "unconverged", "failed"]
OPTIMIZERS = ("lbfgs", "fire", "bfgs")
# Share of the free memory of a GPU that a batch may take, and bytes that an edge of the first batch is taken to need.
MEMORY_SHARE, FIRST_BYTES_PER_EDGE = 0.7, 30_000


@dataclass(frozen=True)
class RelaxSettings:
    """How structures are relaxed.

    Attributes:
        fmax: Stop when no atom has a larger force, eV/Å; with `cell` also the force on the cell, as ASE counts it.
        steps: Give up after so many steps.
        optimizer: `lbfgs`, `fire` or `bfgs`, as in ASE.
        cell: Also relax the cell of structures that are periodic in all directions; others keep theirs.
        pressure: External pressure, eV/Å³; with `cell` only.
        trajectory: Record the path of every structure.
        dispersion: Density functional whose D3(BJ) dispersion is added, for models whose labels have none.
    """

    fmax: float = 0.05
    steps: int = 500
    optimizer: str = "lbfgs"
    cell: bool = False
    pressure: float = 0.0
    trajectory: bool = False
    dispersion: str | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"The optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}.")
        if not self.fmax > 0 or self.steps < 0:
            raise ConfigError(f"fmax must be > 0 eV/Å and steps >= 0, got {self.fmax} and {self.steps}.")
        if self.dispersion is not None:
            d3_calculator(self.dispersion)  # refused here, before files are written or work starts


@dataclass(frozen=True)
class Relaxed:
    """What became of one structure.

    Attributes:
        index: Its place among the structures given.
        status: `converged`; `unconverged` after the last step; `failed`.
        atoms: The last geometry, with energy, forces and stress attached; where it failed, the last one that was whole.
        steps: Steps taken.
        fmax: Largest force at the end, eV/Å; NaN if there was none.
        message: Why it failed.
        trajectory: Geometries of all steps, if asked for.
    """

    index: int
    status: Status
    atoms: Atoms
    steps: int
    fmax: float
    message: str = ""
    trajectory: tuple[Atoms, ...] = ()


def relax(
    potential: Potential,
    structures: Sequence[Atoms],
    settings: RelaxSettings | None = None,
    *,
    max_edges: int | None = None,
) -> list[Relaxed]:
    """Relax all structures; nothing that is wrong with one of them stops the others.

    Args:
        potential: The model, on its device and in evaluation mode.
        structures: Starting geometries; left as they are. Constraints are respected.
        settings: How.
        max_edges: Most edges in a batch; by default what fits the device.

    Returns:
        One result a structure, in their order.
    """
    done = relax_each(potential, enumerate(structures), settings, max_edges=max_edges)
    return sorted(done, key=lambda result: result.index)


def relax_each(
    potential: Potential,
    structures: Iterable[tuple[int, Atoms]],
    settings: RelaxSettings | None = None,
    *,
    max_edges: int | None = None,
) -> Iterator[Relaxed]:
    """The same as `relax` from `(index, atoms)` pairs, which are read as there is room; results as they come."""
    settings = settings or RelaxSettings()
    batch = _Batch(potential, settings, max_edges)
    waiting = iter(structures)
    pending: tuple[int, Atoms] | None = next(waiting, None)
    while pending is not None or batch.movers:
        while pending is not None:
            mover = batch.prepare(*pending)
            if isinstance(mover, Relaxed):
                yield mover
            elif not batch.admits(mover):
                break
            else:
                batch.movers[mover.index] = mover
            pending = next(waiting, None)
        yield from batch.advance()


class _Answers(Calculator):
    """A calculator that is told its results, for whatever positions its atoms have."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (as in ASE)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        if name not in self.results:
            raise PropertyNotImplementedError(f"{name} is not defined for this structure.")
        return np.copy(self.results[name]) if name in ("forces", "stress") else self.results[name]


@dataclass
class _Mover:
    """One structure on its way."""

    index: int
    source: Atoms
    atoms: Atoms
    optimizer: Any
    structure: Structure
    edges: int
    whole: tuple[NDArray[np.float64], NDArray[np.float64], FramePrediction] | None = None
    fmax: float = np.nan
    trajectory: list[Atoms] = field(default_factory=list)

    def accept(self, prediction: FramePrediction) -> None:
        """Give the optimiser what the potential says of the present geometry.

        Raises:
            DataError: If energy or forces are not finite.
        """
        if not (np.isfinite(prediction.energy) and np.isfinite(prediction.forces).all()):
            raise DataError("The potential gave NaN or infinity: the structure has left what the model knows.")
        calculator = self.atoms.calc
        assert calculator is not None
        calculator.results = {
            "energy": prediction.energy, "free_energy": prediction.energy, "forces": prediction.forces
        }  # fmt: skip
        if prediction.stress is not None:
            calculator.results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress)
        self.whole = self.structure.positions, self.structure.cell, prediction
        gradient = self.optimizer.optimizable.get_gradient()
        self.fmax = float(self.optimizer.optimizable.gradient_norm(gradient))

    def snapshot(self) -> Atoms:
        """A copy of the source at the last whole geometry, with results attached."""
        atoms = self.source.copy()
        if self.whole is not None:
            positions, cell, prediction = self.whole
            atoms.set_cell(cell)
            atoms.set_positions(positions, apply_constraint=False)
            results: dict[str, Any] = {"energy": prediction.energy, "forces": prediction.forces}
            if prediction.stress is not None:
                results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress)
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def result(self, status: Status, message: str = "") -> Relaxed:
        steps = self.optimizer.nsteps
        return Relaxed(self.index, status, self.snapshot(), steps, self.fmax, message, tuple(self.trajectory))


class _Batch:
    """The structures that are moving, and how many of them fit."""

    def __init__(self, potential: Potential, settings: RelaxSettings, max_edges: int | None) -> None:
        if settings.cell and not potential.config.predicts_stress:
            raise ConfigError("Cells cannot relax with this model: it predicts no stress. Leave out --cell.")
        self.potential = potential
        self.settings = settings
        self.dispersion = d3_calculator(settings.dispersion) if settings.dispersion is not None else None
        self.neighbors = VerletBatch(potential.r_max)
        self.max_edges = max_edges or _fitting_edges(potential.device)
        self.movers: dict[int, _Mover] = {}

    def admits(self, mover: _Mover) -> bool:
        """Whether there is room for one more; a structure larger than the budget goes alone."""
        return not self.movers or sum(m.edges for m in self.movers.values()) + mover.edges <= self.max_edges

    def prepare(self, index: int, source: Atoms) -> _Mover | Relaxed:
        """A structure ready to move, or why it cannot."""
        try:
            structure = Structure.from_ase(source)
            self.potential.check_elements(structure.numbers)
            edges = self.neighbors.num_edges(structure)
        except DataError as error:
            return Relaxed(index, "failed", source.copy(), 0, float("nan"), str(error))
        atoms = source.copy()
        atoms.calc = _Answers()
        return _Mover(index, source, atoms, self._optimizer(atoms, structure), structure, edges)

    def advance(self) -> Iterator[Relaxed]:
        """One call of the potential and one step of every structure; yields those that are done."""
        for key, message in self._predict().items():
            yield self.movers.pop(key).result("failed", message)
        for mover in list(self.movers.values()):
            if self.settings.trajectory:
                mover.trajectory.append(mover.snapshot())
            if mover.fmax < self.settings.fmax:
                yield self.movers.pop(mover.index).result("converged")
            elif mover.optimizer.nsteps >= self.settings.steps:
                yield self.movers.pop(mover.index).result("unconverged")
            else:
                try:
                    mover.optimizer.step()
                    mover.optimizer.nsteps += 1
                    mover.structure = Structure.from_ase(mover.atoms)
                except (DataError, ArithmeticError, np.linalg.LinAlgError) as error:
                    yield self.movers.pop(mover.index).result("failed", f"The optimizer broke down: {error}")

    def _predict(self) -> dict[int, str]:
        """Results for all movers; messages of those that have none, by index."""
        failed: dict[int, str] = {}
        for chunk in self._chunks():
            for mover, own in self._evaluate(chunk, failed):
                try:
                    if self.dispersion is not None:
                        own = with_dispersion(self.dispersion, mover.structure, own)
                    mover.accept(own)
                except DataError as error:
                    failed[mover.index] = str(error)
        return failed

    def _chunks(self) -> list[list[_Mover]]:
        """The movers in portions that fit: a single one, unless the budget was lowered under way."""
        chunks: list[list[_Mover]] = []
        room = 0
        for mover in self.movers.values():
            if not chunks or mover.edges > room:
                chunks.append([])
                room = self.max_edges
            chunks[-1].append(mover)
            room -= mover.edges
        return chunks

    def _evaluate(self, movers: list[_Mover], failed: dict[int, str]) -> list[tuple[_Mover, FramePrediction]]:
        """Predictions for `movers`; those that cannot have one are noted in `failed` and left out."""
        while movers:
            try:
                graph = self.neighbors.graph({mover.index: mover.structure for mover in movers})
                prediction = self.potential(graph.to(self.potential.device))
                return list(zip(movers, split(prediction, [mover.structure for mover in movers]), strict=True))
            except OverlapError as error:
                failed |= error.messages
                movers = [mover for mover in movers if mover.index not in failed]
            except torch.OutOfMemoryError:
                self.max_edges = max(sum(mover.edges for mover in movers) // 2, 1)
                if len(movers) > 1:
                    middle = len(movers) // 2
                    return self._evaluate(movers[:middle], failed) + self._evaluate(movers[middle:], failed)
                failed[movers[0].index] = "The structure does not fit into the memory of the device."
                return []
        return []

    def _optimizer(self, atoms: Atoms, structure: Structure) -> Any:
        from ase import optimize
        from ase.filters import FrechetCellFilter

        kinds = {"lbfgs": optimize.LBFGS, "fire": optimize.FIRE, "bfgs": optimize.BFGS}
        moving: Any = atoms
        if self.settings.cell and structure.volume is not None:
            moving = FrechetCellFilter(atoms, scalar_pressure=self.settings.pressure)
        return kinds[self.settings.optimizer](moving, logfile=None)


def _fitting_edges(device: torch.device) -> int:
    """Most edges that a batch may have at first; it is halved where they turn out to be too many."""
    if device.type != "cuda":
        return MAX_EDGES
    free, _ = torch.cuda.mem_get_info(device)
    return max(MAX_EDGES, int(MEMORY_SHARE * free / FIRST_BYTES_PER_EDGE))
