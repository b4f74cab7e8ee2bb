"""Initial structure to relaxed structure: relaxations by the potential, in batches, compared with those by DFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tdn.errors import DataError
from tdn.evaluation.catalysis import is2re_metrics, is2rs_metrics
from tdn.models.potential import Potential
from tdn.structure import Structure

# Those of the published baselines (fairchem 1, `run_relaxations`).
FMAX = 0.02  # eV/Å
STEPS = 300


def relax_structures(
    potential: Potential,
    structures: Sequence[Structure],
    *,
    fmax: float = FMAX,
    steps: int = STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Structure]:
    """The structures relaxed by L-BFGS, fixed atoms held, each with its energy at the end.

    Where a relaxation fails, the last geometry that was whole counts, as it does where the steps do not suffice.

    Args:
        potential: The model, in evaluation mode.
        structures: Initial structures.
        fmax: Stop when no free atom has a larger force, eV/Å.
        steps: Give up after so many steps.
        progress: Called with (done, total) after each structure.

    Raises:
        DataError: If a structure has an element that the potential does not know.
    """
    from tdn.simulation.relaxation import RelaxSettings, relax_each

    potential.check_elements(np.unique(np.concatenate([s.numbers for s in structures])).tolist())
    done: dict[int, Structure] = {}
    settings = RelaxSettings(fmax=fmax, steps=steps)
    for result in relax_each(potential, ((k, s.to_ase()) for k, s in enumerate(structures)), settings):
        positions = np.array(result.atoms.get_positions(), dtype=np.float64)
        energy = None if result.atoms.calc is None else float(result.atoms.calc.results["energy"])
        done[result.index] = replace(structures[result.index], positions=positions, energy=energy, forces=None)
        if progress is not None:
            progress(len(done), len(structures))
    return [done[k] for k in range(len(structures))]


def measure_relaxations(relaxed: Sequence[Structure], references: Sequence[Structure]) -> dict[str, float]:
    """IS2RS metrics of relaxed structures and, where energies are known, IS2RE metrics of their energies.

    Args:
        relaxed: From `relax_structures`.
        references: Relaxed by DFT, the same systems in the same order.

    Raises:
        DataError: If the two do not belong together.
    """
    if len(relaxed) != len(references):
        raise DataError(f"{len(relaxed)} initial structures, but {len(references)} relaxed ones to compare with.")
    for k, (own, reference) in enumerate(zip(relaxed, references, strict=True)):
        if not np.array_equal(own.numbers, reference.numbers) or own.info.get("sid") != reference.info.get("sid"):
            raise DataError(f"Structure {k} is {own.formula}, but the relaxed one to compare with {reference.formula}.")
    metrics = is2rs_metrics(references, [s.positions for s in relaxed])
    pairs = [(r, s.energy) for s, r in zip(relaxed, references, strict=True) if r.energy is not None]
    known = [(reference, energy) for reference, energy in pairs if energy is not None]
    if known:
        metrics |= is2re_metrics(*(list(part) for part in zip(*known, strict=True)))  # pyright: ignore[reportArgumentType]
    return metrics
