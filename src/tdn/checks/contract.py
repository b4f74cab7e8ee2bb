"""The checks: each takes a potential and structures and returns one `CheckResult`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from tdn.checks import probes
from tdn.checks.dynamics import check_nve
from tdn.checks.measure import (
    AMPLITUDE,
    Array,
    CheckResult,
    Predict,
    energies_above_reference,
    energy_spreads,
    in_precision,
    make_result,
    mark_claims,
    predict,
    rms,
    sum_above_reference,
    with_generators,
)
from tdn.errors import DataError
from tdn.graph import AtomGraph, collate
from tdn.models.potential import Potential
from tdn.structure import Structure

INVARIANCE_LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}


def run_checks(
    potential: Potential,
    structures: Sequence[Structure] | None = None,
    quick: bool = False,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
    compiled: bool = False,
) -> tuple[CheckResult, ...]:
    """Measure the whole contract.

    Args:
        potential: The model; it is copied, not changed.
        structures: What to measure it on, four or so; random clusters and a crystal of the model's elements if None.
            Stress is measured on that crystal if none is periodic, extensivity on the two smallest structures, NVE on
            the one with the fewest edges.
        quick: Fewer copies and half the trajectory.
        dtypes: Precisions in which the invariances are measured.
        compiled: Also compile the potential, which can take a minute, and compare it with its eager form.

    Raises:
        DataError: If a structure has elements that the potential does not know, or none has atoms within its cutoff.
    """
    own = probes.probe_structures(potential.elements, potential.r_max)
    chosen = own if structures is None else _with_neighbors(potential, structures)
    periodic = [structure for structure in chosen if structure.pbc.all()] or [own[-1]]
    copies = 5 if quick else 8
    double = in_precision(potential, torch.float64)
    results = []
    for dtype in dtypes:
        model = in_precision(potential, dtype)
        results += [
            check_rotation(model, chosen, copies),
            check_reflection(model, chosen, copies),
            check_translation(model, chosen, copies),
            check_permutation(model, chosen, copies),
        ]
    results += [
        check_batching(double, chosen),
        check_extensivity(double, sorted(chosen, key=len)[:2]),
        check_energy_sums(double, chosen),
        check_lone_atoms(double),
        check_forces(double, chosen, directions=2 if quick else 6),
        check_stress(double, periodic),
        check_cutoff(double, chosen),
        check_neighbors_all_count(double, chosen),
        check_nve(double, min(chosen, key=lambda s: _num_edges(double, s)), steps=50 if quick else 100),
        check_precision(double, in_precision(potential, torch.float32), chosen),
    ]
    if compiled:
        fast = in_precision(potential, potential.dtype)
        fast.compile()
        results.append(check_compiled(potential, fast, chosen))
    return mark_claims(results, potential.config.not_claimed)


# ---------------------------------------------------------------------------------------------------- invariances


def check_rotation(potential: Potential, structures: Sequence[Structure], copies: int = 8) -> CheckResult:
    """The energy does not change when a structure is turned."""
    return _invariance(potential, structures, copies, "rotation", probes.rotated)


def check_reflection(potential: Potential, structures: Sequence[Structure], copies: int = 8) -> CheckResult:
    """The energy does not change when a structure is turned and mirrored."""
    return _invariance(
        potential, structures, copies, "reflection",
        lambda structure, rng: probes.rotated(structure, rng, improper=True),
    )  # fmt: skip


def check_translation(potential: Potential, structures: Sequence[Structure], copies: int = 8) -> CheckResult:
    """The energy does not change when a structure is moved, or an atom is replaced by its periodic image."""
    return _invariance(potential, structures, copies, "translation", probes.translated)


def check_permutation(potential: Potential, structures: Sequence[Structure], copies: int = 8) -> CheckResult:
    """The energy does not depend on the order of the atoms."""
    return _invariance(potential, structures, copies, "permutation", probes.permuted)


def _invariance(
    potential: Potential,
    structures: Sequence[Structure],
    copies: int,
    name: str,
    change: Callable[[Structure, np.random.Generator], Structure],
) -> CheckResult:
    values = []
    for structure, rng in with_generators(structures):
        originals = probes.displaced(structure, AMPLITUDE, rng, copies)
        energies = energies_above_reference(potential, originals)
        changed = energies_above_reference(potential, [change(original, rng) for original in originals])
        values.append(rms(changed - energies) / float(energies.std()))
    precision = str(potential.dtype).removeprefix("torch.")
    detail = f"RMS energy change of {copies} copies over their energy spread, worst of {len(values)} structures"
    limit = INVARIANCE_LIMITS[potential.dtype]
    return make_result(f"{name} {precision}", values, limit, "energy spread", detail)


# ------------------------------------------------------------------------------------------- sums over structures


def check_batching(potential: Potential, structures: Sequence[Structure]) -> CheckResult:
    """A structure has the same energy alone and in a batch with others."""
    alone = np.concatenate([energies_above_reference(potential, [structure]) for structure in structures])
    graph = collate([AtomGraph.from_structure(structure, potential.r_max) for structure in structures])
    values = np.abs(sum_above_reference(potential, graph) - alone) / energy_spreads(potential, structures)
    return make_result("batching", values, 1e-12, "energy spread", "energy in one batch less energy alone")  # fmt: skip


def check_extensivity(potential: Potential, structures: Sequence[Structure]) -> CheckResult:
    """Two molecules further apart than the cutoff have the sum of their energies.

    The atoms of periodic structures are used without their cell.
    """
    first, second = (probes.make_structure(s.numbers, s.positions) for s in (structures[0], structures[-1]))
    together = energies_above_reference(potential, [probes.side_by_side(first, second, 2.0 * potential.r_max)])
    apart = np.concatenate([energies_above_reference(potential, [part]) for part in (first, second)])
    values = np.abs(together - apart.sum()) / energy_spreads(potential, [first, second]).max()
    return make_result(
        "extensivity", values, 1e-12, "energy spread", "two far fragments less the sum of their energies"
    )


def check_energy_sums(potential: Potential, structures: Sequence[Structure]) -> CheckResult:
    """Total energies are the sums of the atomic ones: references plus what every other check measures."""
    graph = collate([AtomGraph.from_structure(structure, potential.r_max) for structure in structures])
    graph = graph.to(potential.device)
    prediction = potential(graph)
    references = potential.reference_energies[potential.element_index[graph.numbers]]
    zero = torch.zeros(graph.num_graphs, dtype=torch.float64, device=graph.batch.device)
    reference = zero.index_add(0, graph.batch, references)
    summed = zero.index_add(0, graph.batch, prediction.energies)
    above = torch.from_numpy(sum_above_reference(potential, graph)).to(summed)
    size = 1.0 + reference.abs() + above.abs()
    values = torch.maximum((prediction.energy - summed).abs(), (prediction.energy - reference - above).abs()) / size
    detail = "energy less the sum of atomic energies, and less references plus energy above them"
    return make_result("energy sums", values.tolist(), 1e-12, "energy", detail)


def check_lone_atoms(potential: Potential) -> CheckResult:
    """An atom without neighbours has exactly its reference energy and no force, in vacuum and in a large cell."""
    box = 3.0 * potential.r_max * np.eye(3)
    atoms = [probes.make_structure([z], np.zeros((1, 3)), cell) for z in potential.elements for cell in (None, box)]
    values = []
    for structure in atoms:
        prediction = potential(AtomGraph.from_structure(structure, potential.r_max).to(potential.device))
        reference = potential.reference_energies[potential.element_index[int(structure.numbers[0])]]
        force = prediction.forces.abs().max() if potential.config.predicts_forces else 0.0
        values.append(float((prediction.energy - reference).abs().max() + force))
    detail = f"energy less reference, plus force, of lone atoms of all {len(potential.elements)} elements"
    return make_result("lone atoms", values, 0.0, "eV", detail)


# ---------------------------------------------------------------------------------------------------- derivatives


def check_forces(potential: Potential, structures: Sequence[Structure], directions: int = 6) -> CheckResult:
    """Forces are minus the derivative of the energy, along random directions of all atoms together."""
    values = []
    for structure, rng in with_generators(structures):
        (start,) = probes.displaced(structure, AMPLITUDE, rng, 1)
        forces = predict(potential, start).forces.cpu().numpy()
        for _ in range(directions):
            direction = rng.standard_normal(forces.shape)
            direction /= np.linalg.norm(direction)

            def moved(step: float, start: Structure = start, direction: Array = direction) -> Structure:
                return dataclasses.replace(start, positions=start.positions + step * direction)

            slope = _slope(potential, moved, 2e-3)
            values.append(abs(slope + float((forces * direction).sum())) / rms(forces))
    detail = f"finite differences along {directions} random directions of {len(structures)} structures"
    return make_result("forces", values, 1e-6, "RMS force", detail)


def check_stress(potential: Potential, structures: Sequence[Structure]) -> CheckResult:
    """Stress is the derivative of the energy by a symmetric strain, over the volume; for periodic structures."""
    values = []
    for structure, rng in with_generators(structures):
        (start,) = probes.displaced(structure, AMPLITUDE, rng, 1)
        stress = predict(potential, start).stress[0].cpu().numpy()
        for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
            direction = np.zeros((3, 3))
            direction[i, j] += 0.5
            direction[j, i] += 0.5

            def strained(step: float, start: Structure = start, direction: Array = direction) -> Structure:
                return probes.transformed(start, np.eye(3) + step * direction)

            slope = _slope(potential, strained, 5e-4) / abs(np.linalg.det(start.cell))
            values.append(abs(slope - float(stress[i, j])) / rms(stress))
    detail = f"finite differences by all six strains of {len(structures)} periodic structures"
    return make_result("stress", values, 1e-6, "RMS stress", detail)


def _slope(potential: Potential, at: Callable[[float], Structure], step: float) -> float:
    """Derivative of the energy along `at` at zero: central differences of fourth order."""
    e = energies_above_reference(potential, [at(k * step) for k in (-2, -1, 1, 2)])
    return float(e[0] - 8.0 * e[1] + 8.0 * e[2] - e[3]) / (12.0 * step)


# --------------------------------------------------------------------------------------------------------- cutoff


def check_cutoff(potential: Potential, structures: Sequence[Structure], shells: int = 4) -> CheckResult:
    """Energy and forces do not jump where a pair of atoms crosses the cutoff.

    A structure is scaled so that one of its pairs is just inside and just outside of `r_max`; smooth functions
    change by a part in a million there, a jump stays whatever the step.
    """
    values, step = [], 1e-9
    for structure, rng in with_generators(structures):
        (start,) = probes.displaced(structure, AMPLITUDE, rng, 1)
        graph = AtomGraph.from_structure(start, 1.1 * potential.r_max)
        distances = graph.edge_vectors().norm(dim=-1).unique().numpy()
        nearest = distances[np.argsort(np.abs(np.log(distances / potential.r_max)))[:shells]]
        spread = float(energy_spreads(potential, [start])[0])
        for scale in potential.r_max / nearest:
            inside, outside = (
                predict(potential, probes.transformed(start, np.eye(3) * scale * (1.0 + sign * step)))
                for sign in (-1.0, 1.0)
            )
            force = rms(inside.forces.cpu().numpy()) + spread / AMPLITUDE
            values.append(float((inside.forces - outside.forces).abs().max()) / force)
            values.append(float((inside.energy - outside.energy).abs().max()) / spread)
    detail = f"jump of energy and forces as pairs cross {potential.r_max:g} Å, over spread and RMS force"
    return make_result("smooth cutoff", values, 1e-5, "relative", detail)


def check_neighbors_all_count(potential: Potential, structures: Sequence[Structure]) -> CheckResult:
    """Every neighbour within 0.9 of the cutoff has a part in the energy, also where there are more than a hundred."""
    density_bound = 0.27 * potential.r_max
    crowded = probes.skewed_crystal([potential.elements[0]] * 4)
    crowded = probes.transformed(crowded, np.eye(3) * density_bound / _shortest_distance(crowded))
    ignored, most = 0, 0
    for structure in (*structures, crowded):
        graph = AtomGraph.from_structure(structure, potential.r_max).to(potential.device)
        well_inside = graph.edge_vectors().norm(dim=-1) < 0.9 * potential.r_max
        ignored += int((well_inside & (_edge_gradients(potential, graph) == 0.0).all(dim=-1)).sum())
        most = max(most, int(graph.receivers.bincount(minlength=1).max()))
    detail = f"neighbours without influence on the energy, atoms with up to {most} neighbours"
    return make_result("no neighbor truncation", [float(ignored)], 0.0, "neighbors", detail)


def _edge_gradients(potential: Potential, graph: AtomGraph) -> torch.Tensor:
    """Derivative of the energy by every edge vector, `[E, 3]`, whatever the potential makes its forces of."""
    # With unit cells the shifts are part of the vectors as they stand, and each edge has its own.
    images = torch.einsum("ek,ekc->ec", graph.shifts, graph.cell[graph.batch[graph.receivers]]).requires_grad_(True)
    moved = dataclasses.replace(graph, shifts=images, cell=torch.eye(3).to(graph.cell).expand_as(graph.cell))
    (gradients,) = torch.autograd.grad(potential.energies_above_reference(moved).sum(), images)
    return gradients


# ------------------------------------------------------------------------------------- other forms of one potential


def check_precision(double: Potential, single: Potential, structures: Sequence[Structure]) -> CheckResult:
    """Energies and forces in float32 agree with float64."""
    values = _differences(double, double, single, structures)
    detail = "float32 less float64: energies over their spread, forces over their RMS"
    return make_result("float32 agrees", values, 1e-4, "relative", detail)


def check_compiled(potential: Potential, compiled: Predict, structures: Sequence[Structure]) -> CheckResult:
    """A compiled form of the potential gives the same energies and forces."""
    values = _differences(potential, potential, compiled, structures)
    limit = 1e-4 if potential.dtype == torch.float32 else 1e-10
    detail = "compiled less eager: energies over their spread, forces over their RMS"
    return make_result("compiled agrees", values, limit, "relative", detail)


def _differences(potential: Potential, one: Predict, other: Predict, structures: Sequence[Structure]) -> list[float]:
    values = []
    for structure, spread in zip(structures, energy_spreads(potential, structures), strict=True):
        graph = AtomGraph.from_structure(structure, potential.r_max).to(potential.device)
        first, second = one(graph), other(graph)
        force = rms(first.forces.detach().cpu().numpy()) + float(spread) / AMPLITUDE
        values.append(float((first.energy - second.energy).abs().max()) / float(spread))
        if not potential.config.predicts_forces:
            continue
        values.append(float((first.forces.double() - second.forces.double()).abs().max()) / force)
    return values


def _with_neighbors(potential: Potential, structures: Sequence[Structure]) -> tuple[Structure, ...]:
    """The structures in which atoms have neighbours that can move: a primitive cell of one atom as a supercell."""
    for structure in structures:
        potential.check_elements(structure.numbers)
    larger = [probes.supercell(structure) if len(structure) == 1 else structure for structure in structures]
    kept = tuple(s for s in larger if len(s) > 1 and _num_edges(potential, s))
    if not kept:
        raise DataError(
            f"Expected a structure with at least two atoms within {potential.r_max:g} Å, got none among "
            f"{len(structures)}. Leave the structures out to check the model on some of its own elements."
        )
    return kept


def _num_edges(potential: Potential, structure: Structure) -> int:
    return AtomGraph.from_structure(structure, potential.r_max).num_edges


def _shortest_distance(structure: Structure) -> float:
    reach = float(np.linalg.norm(structure.cell, axis=1).min())
    return float(AtomGraph.from_structure(structure, 1.01 * reach).edge_vectors().norm(dim=-1).min())
