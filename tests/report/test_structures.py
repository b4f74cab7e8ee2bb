"""Drawings keep distances and handedness, show the error of every atom, and choose the frames with the largest."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from tdn.evaluation.evaluate import Evaluation, FramePrediction, Timing
from tdn.evaluation.tables import tabulate, tabulate_config_types, tabulate_elements
from tdn.report import Report
from tdn.report.structures import AROUND, draw_structure, element_colours, worst_frames
from tdn.structure import Structure


class Parts(HTMLParser):
    """What is drawn: kind, numbers."""

    def __init__(self, svg):
        super().__init__()
        self.circles, self.lines, self.tags = [], {"bond": [], "error": [], "cell": []}, []
        self.feed(svg)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "circle":
            self.circles.append(attrs)
        elif tag == "line":
            self.lines[attrs["class"]].append(attrs)

    handle_startendtag = handle_starttag


def points(nodes):
    return np.array([[float(x) for x in node["data-p"].split(",")] for node in nodes])


def in_order(svg, parts):
    """Points of the atoms in the order of the structure, whose indices are in the titles."""
    indices = [int(k) for k in re.findall(r"<title>\w+ (\d+)", svg)]
    return points(parts.circles)[np.argsort(indices)]


def test_drawing_keeps_distances_and_handedness():
    chiral = Atoms("CHFClBr", [[0, 0, 0], [1.1, 0, 0], [-0.4, 1.3, 0], [-0.5, -0.7, 1.4], [-0.6, -0.8, -1.6]])
    svg = draw_structure(Structure.from_ase(chiral), None, "x")
    drawn = in_order(svg, Parts(svg)) * [1, -1, 1]
    positions = chiral.positions
    gram = [(p[1:] - p[0]) @ (p[1:] - p[0]).T for p in (drawn, positions)]
    np.testing.assert_allclose(gram[0], gram[1], atol=1e-2)
    volumes = [np.linalg.det(p[1:4] - p[0]) for p in (drawn, positions)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.02)


def test_arrows_point_along_the_errors_and_the_longest_is_the_largest():
    structure = Structure.from_ase(molecule("CH3OH"))
    errors = np.zeros((6, 3))
    errors[0], errors[1], errors[2] = [2.0, 0, 0], [0, 1.0, 0], [0, 0, 1e-3]
    svg = draw_structure(structure, errors, "x")
    arrows = points(Parts(svg).lines["error"])
    lengths = np.linalg.norm(arrows[:, 3:] - arrows[:, :3], axis=1)
    assert len(arrows) == 2
    assert lengths.max() == pytest.approx(2 * lengths.min(), rel=0.01)
    assert Parts(draw_structure(structure, 0 * errors, "x")).lines["error"] == []


def test_bonds_and_cell_are_drawn():
    methane = Parts(draw_structure(Structure.from_ase(molecule("CH4")), None, "x"))
    assert len(methane.lines["bond"]) == 4
    assert methane.lines["cell"] == []
    silicon = Parts(draw_structure(Structure.from_ase(bulk("Si", cubic=True)), None, "x"))
    assert len(silicon.lines["cell"]) == 12


def test_what_is_far_is_drawn_first():
    svg = draw_structure(Structure.from_ase(molecule("C6H6")), None, "x")
    depth = points(Parts(svg).circles)[:, 2]
    assert (np.diff(depth) >= 0).all()


def test_of_a_large_structure_the_surroundings_of_the_worst_atom_are_drawn():
    structure = Structure.from_ase(bulk("Cu", cubic=True) * (4, 4, 4))
    errors = np.zeros((256, 3))
    errors[0] = 1.0
    svg = draw_structure(structure, errors, "x")
    parts = Parts(svg)
    assert len(parts.circles) == AROUND
    assert "<title>Cu 0" in svg
    # The worst atom sits in a corner of the cell: nearest images put it into the middle.
    start = points(parts.lines["error"])[0, :3]
    assert np.linalg.norm(points(parts.circles) - start, axis=1).max() < 6.5


def report_of(energy_errors, force_errors, **rest):
    structures, predictions = [], []
    for energy, force in zip(energy_errors, force_errors, strict=True):
        atoms = molecule("H2O")
        structures.append(Structure.from_ase(atoms, energy=-1.0, forces=np.zeros((3, 3))))
        predictions.append(FramePrediction(-1.0 + energy, np.full((3, 3), force), None))
    evaluation = Evaluation(
        structures, tuple(predictions), tabulate(structures, predictions), tabulate_elements(structures, predictions),
        tabulate_config_types(structures, predictions), {}, Timing(0, 1, 1, 1, "cpu", "float64", 1),
    )  # fmt: skip
    return Report("Test", evaluation=evaluation, **rest)


def test_worst_frames_are_those_with_the_largest_errors_each_once():
    names = [f"f:{k}" for k in range(5)]
    report = report_of([0, -3, 1, 2, 0], [0.1, 0.5, 0.2, 0.0, 0.4], origins=names, num_worst=3)
    assert [frame.label for frame in worst_frames(report)] == ["f:1", "f:3", "f:4"]
    assert worst_frames(dataclasses.replace(report, num_worst=0)) == ()
    assert "500 meV/Å" in worst_frames(report)[0].facts
    assert worst_frames(Report("Empty")) == ()


def test_frames_without_energies_are_ranked_by_forces_alone():
    report = report_of([0, 0], [0.1, 0.5])
    bare = [dataclasses.replace(s, energy=None) for s in report.evaluation.structures]
    report = dataclasses.replace(report, evaluation=dataclasses.replace(report.evaluation, structures=bare))
    assert [frame.label for frame in worst_frames(report)] == ["frame 1", "frame 0"]


def test_colours_of_elements_are_in_the_order_of_atomic_numbers():
    assert list(element_colours([Structure.from_ase(molecule("CH3OH"))])) == ["H", "C", "O"]
