"""Worst frames as drawings of their atoms and force errors: inline SVG that `viewer.js` turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from tdn.evaluation.breakdown import Breakdown
from tdn.evaluation.running import has_forces
from tdn.report.content import Report, number
from tdn.structure import Structure
from tdn.units import MEV_PER_EV

Array = NDArray[np.float64]

MOST_ATOMS, AROUND = 200, 60
"""Of a structure with more atoms than the first, as many as the second around the worst atom are drawn."""
STICK, ARROW, CELL = 0.14, 0.09, 0.04
"""Widths of bonds, arrows and cell edges, Å."""
TILT = 15.0
"""Degrees about two axes: seen from straight ahead, planes of atoms would hide each other."""
LONGEST_ARROW = 1.6
"""Å on the drawing, for the largest force error of the frame."""


@dataclass(frozen=True)
class WorstFrame:
    """One frame with a large error.

    Attributes:
        label: Name of the frame.
        why: By which error it is among the worst.
        formula: Its composition.
        facts: Its errors, in words.
        drawing: Inline SVG.
    """

    label: str
    why: str
    formula: str
    facts: str
    drawing: Markup


def worst_frames(report: Report) -> tuple[WorstFrame, ...]:
    """The frames with the largest errors of energy per atom and of forces, in turn, each once."""
    if report.evaluation is None or report.breakdown is None:
        return ()
    breakdown = report.breakdown
    energies, forces = np.abs(breakdown.energy_error), breakdown.force_rmse
    orders = [np.argsort(-errors[np.isfinite(errors)], kind="stable") for errors in (energies, forces)]
    lists = [
        np.flatnonzero(np.isfinite(errors))[order] for errors, order in zip((energies, forces), orders, strict=True)
    ]
    chosen: dict[int, str] = {}
    for rank in range(max(map(len, lists))):
        for ranking, quantity in zip(lists, ("energy", "forces"), strict=True):
            if rank < len(ranking) and len(chosen) < report.num_worst:
                chosen.setdefault(int(ranking[rank]), f"{quantity}, number {rank + 1}")
    return tuple(_describe(report, breakdown, k, why) for k, why in chosen.items())


def element_colours(structures: Iterable[Structure]) -> dict[str, str]:
    """Colour of every element, Jmol's, in the order of atomic numbers."""
    from ase.data import chemical_symbols

    numbers = sorted({int(z) for s in structures for z in np.unique(s.numbers)})
    return {chemical_symbols[z]: _colour(z) for z in numbers}


def draw_structure(structure: Structure, errors: Array | None, name: str) -> Markup:
    """Atoms as shaded balls, bonds, the edges of the cell, and an arrow for the force error of each atom.

    Args:
        structure: What to draw.
        errors: Force errors, eV/Å, `[n, 3]`; None draws no arrows.
        name: Keeps the identifiers apart from those of other drawings.
    """
    members, positions = _visible(structure, errors)
    cell = _cell_edges(structure) if len(members) == len(structure) and structure.pbc.any() else np.zeros((0, 6))
    centre, axes = _view(positions)
    points = (positions - centre) @ axes
    edges = ((cell.reshape(-1, 3) - centre) @ axes).reshape(-1, 6)
    parts = [(_line(edge, "cell", CELL), (edge[2] + edge[5]) / 2) for edge in edges]
    parts += _bonds(structure.numbers[members], points)
    parts += _atoms(structure, members, points, errors, name)
    arrows = _arrows(points, np.zeros((0, 3)) if errors is None else errors[members] @ axes)
    parts += [
        (_line(arrow, "error", ARROW, f' marker-end="url(#{name}-tip)"'), float(arrow[2]) + 1.0) for arrow in arrows
    ]
    ends = np.concatenate([points, edges.reshape(-1, 3), arrows.reshape(-1, 3)])
    reach = 0.6 + float(np.linalg.norm(ends, axis=1).max())
    body = "".join(part for part, depth in sorted(parts, key=lambda item: item[1]))
    box = f"{-reach:.2f} {-reach:.2f} {2 * reach:.2f} {2 * reach:.2f}"
    return Markup(
        f'<svg class="structure" viewBox="{box}" role="img" tabindex="0" aria-label="{escape(structure.formula)}">'
        f"<defs>{_definitions(structure.numbers[members], name)}</defs><g>{body}</g></svg>"
    )


def _describe(report: Report, breakdown: Breakdown, k: int, why: str) -> WorstFrame:
    assert report.evaluation is not None
    structure, prediction = report.evaluation.structures[k], report.evaluation.predictions[k]
    errors, facts = None, []
    if structure.energy is not None:
        facts.append(f"energy off by {number(MEV_PER_EV * breakdown.energy_error[k])} meV/atom")
    if structure.forces is not None and has_forces(structure, prediction):
        errors = np.where(structure.free[:, None], prediction.forces - structure.forces, 0.0)
        sizes = np.linalg.norm(errors, axis=1)
        worst = int(sizes.argmax())
        facts.append(f"force RMSE {number(MEV_PER_EV * breakdown.force_rmse[k])} meV/Å")
        facts.append(f"longest arrow {number(sizes[worst])} eV/Å, on {structure.symbols[worst]} {worst}")
    if len(structure) > MOST_ATOMS:
        facts.append(f"{AROUND} of its {len(structure)} atoms are drawn")
    label = report.origins[k] if report.origins is not None else f"frame {k}"
    return WorstFrame(label, why, structure.formula, "; ".join(facts), draw_structure(structure, errors, f"worst-{k}"))


def _visible(structure: Structure, errors: Array | None) -> tuple[NDArray[np.int64], Array]:
    """Indices and positions of what is drawn: all atoms, or the surroundings of the worst one, nearest images."""
    if len(structure) <= MOST_ATOMS:
        return np.arange(len(structure)), structure.positions
    from ase.geometry import find_mic

    sizes = np.zeros(len(structure)) if errors is None else np.linalg.norm(errors, axis=1)
    centre = int(sizes.argmax())
    pbc: Any = structure.pbc
    vectors, lengths = find_mic(structure.positions - structure.positions[centre], structure.cell, pbc)
    members = np.argsort(lengths)[:AROUND]
    return members, np.asarray(vectors)[members]


def _view(positions: Array) -> tuple[Array, Array]:
    """Middle, and axes such that the longest direction lies across and the shortest points almost to the viewer.

    The axes go into SVG's, whose y points down: seen from the front, a right hand stays a right hand.
    """
    from scipy.spatial.transform import Rotation

    centre = (positions.max(axis=0) + positions.min(axis=0)) / 2
    _, _, directions = np.linalg.svd(positions - positions.mean(axis=0) + 1e-9 * np.eye(len(positions), 3))
    tilt = Rotation.from_euler("xy", [TILT, TILT], degrees=True).as_matrix()
    axes = directions.T * np.sign(np.linalg.det(directions)) @ tilt.T
    return centre, axes * np.array([1.0, -1.0, 1.0])


def _cell_edges(structure: Structure) -> Array:
    """The twelve edges, start and end, Å, `[12, 6]`."""
    corners = np.array(list(product((0, 1), repeat=3)))
    pairs = [(a, b) for a in corners for b in corners if (b - a).sum() == 1 and (b >= a).all()]
    return np.array([np.concatenate([a @ structure.cell, b @ structure.cell]) for a, b in pairs])


def _bonds(numbers: NDArray[np.int64], points: Array) -> list[tuple[str, float]]:
    from ase.data import covalent_radii

    radii = covalent_radii[numbers]
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    first, second = np.nonzero(np.triu(distances < 1.2 * (radii[:, None] + radii[None]), 1))
    return [
        (_line([*points[i], *points[j]], "bond", STICK), float(points[[i, j], 2].mean()) - 0.3)
        for i, j in zip(first, second, strict=True)
    ]


def _atoms(
    structure: Structure, members: Sequence[int] | NDArray[np.int64], points: Array, errors: Array | None, name: str
) -> list[tuple[str, float]]:
    from ase.data import covalent_radii

    symbols, found = structure.symbols, []
    for k, point in zip(members, points, strict=True):
        text = f"{symbols[k]} {k}"
        if errors is not None and structure.forces is not None:
            size, error = np.linalg.norm(structure.forces[k]), np.linalg.norm(errors[k])
            text += f": reference force {number(float(size))} eV/Å, error {number(float(error))} eV/Å"
        radius = 0.18 + 0.27 * covalent_radii[structure.numbers[k]]
        found.append(
            (
                f'<circle cx="{point[0]:.3f}" cy="{point[1]:.3f}" r="{radius:.2f}" data-p="{_numbers(point)}" '
                f'fill="url(#{name}-{symbols[k]})"><title>{text}</title></circle>',
                float(point[2]),
            )
        )
    return found


def _arrows(points: Array, errors: Array) -> Array:
    """Start and end of force errors that leave their atoms, `[m, 6]`; the smallest would only be dots."""
    sizes = np.linalg.norm(errors, axis=1)
    largest = sizes.max(initial=0.0)
    shown = np.flatnonzero(sizes > 0.1 * largest)
    tips = points[shown] + LONGEST_ARROW / max(largest, 1e-300) * errors[shown]
    return np.concatenate([points[shown], tips], axis=1)


def _line(ends: Sequence[float] | Array, kind: str, width: float, more: str = "") -> str:
    x1, y1, _, x2, y2, _ = ends
    return (
        f'<line class="{kind}" x1="{x1:.3f}" y1="{y1:.3f}" x2="{x2:.3f}" y2="{y2:.3f}" stroke-width="{width}" '
        f'data-p="{_numbers(ends)}"{more}/>'
    )


def _definitions(numbers: NDArray[np.int64], name: str) -> str:
    """Shading of every element, and the tip of an arrow."""
    from ase.data import chemical_symbols

    shades = "".join(
        f'<radialGradient id="{name}-{chemical_symbols[z]}" cx="35%" cy="32%" r="75%"><stop offset="0" '
        f'stop-color="{_colour(z, 0.55)}"/><stop offset="0.55" stop-color="{_colour(z)}"/><stop offset="1" '
        f'stop-color="{_colour(z, -0.4)}"/></radialGradient>'
        for z in np.unique(numbers).tolist()
    )
    return shades + (
        f'<marker id="{name}-tip" viewBox="0 0 4 4" refX="1.5" refY="2" markerWidth="3.4" markerHeight="3.4" '
        'orient="auto"><path class="tip" d="M0 0L4 2L0 4z"/></marker>'
    )


def _colour(z: int, lighter: float = 0.0) -> str:
    """Jmol's colour of an element, mixed with white (positive) or black (negative)."""
    from ase.data.colors import jmol_colors

    rgb: Any = jmol_colors[min(z, len(jmol_colors) - 1)]
    mixed = rgb + lighter * (1 - rgb) if lighter >= 0 else rgb * (1 + lighter)
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in mixed)


def _numbers(values: Sequence[float] | Array) -> str:
    return ",".join(f"{value:.3f}" for value in values)
