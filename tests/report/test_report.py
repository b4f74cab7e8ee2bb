"""The report: every section with its content and none without, nothing loaded from anywhere, figures in the theme."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from tdn.checks import CheckResult
from tdn.evaluation import evaluate
from tdn.evaluation.dynamics import Relaxation, Trajectory
from tdn.evaluation.uncertainty import Calibrated
from tdn.modelfile import save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.report import LearningCurves, Report, render_report, write_training_report
from tdn.report.content import number
from tdn.report.model import describe_machine, factor_tables, model_rows, not_claimed
from tdn.structure import Structure

SECTIONS = {
    *("advice", "calibration", "worst"),
    *("summary", "accuracy", "learning", "relaxation", "dynamics", "certificate", "checks", "timing", "provenance"),
}
FIGURES = {
    *("calibration-energy", "calibration-forces"),
    *("parity-energy", "parity-forces", "force-errors", "curve-forces", "curve-energy", "curve-loss"),
    *("relaxation-energy", "relaxation-force", "relaxation-rmsd", "nve-energy", "nve-temperature"),
}
VOID = {"meta", "br", "img", "link", "hr", "input", "col", "use"}


@pytest.fixture(scope="module")
def potential():
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=2, product_order=2, r_max=4.0)
    return Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}).eval()


@pytest.fixture(scope="module")
def structures():
    rng = np.random.default_rng(0)
    frames = []
    for k, name in enumerate(["H2O", "CH4", "CH3OH"]):
        atoms = molecule(name)
        forces = rng.normal(size=(len(atoms), 3))
        frames.append(Structure.from_ase(atoms, energy=-50.0 * k, forces=forces, info={"config_type": f"kind{k % 2}"}))
    return frames


@pytest.fixture(scope="module")
def report(potential, structures):
    steps = np.arange(5.0)
    columns = {
        "valid_forces_mae": np.geomspace(100, 10, 5),
        "train_forces_mae": np.geomspace(90, 5, 5),
        "valid_energy_mae_mev_per_atom": np.geomspace(20, 2, 5),
        "valid_loss": np.geomspace(1, 0.1, 5),
        "loss": np.array([np.nan, 0.8, 0.4, 0.2, 0.1]),
    }
    relaxation = Relaxation("water", Atoms("H2O"), -steps, 10.0**-steps, steps / 10, 0.01, True)
    times = np.linspace(0, 1, 50)
    trajectory = Trajectory("water", 3, 0.5, times, np.sin(times), 0.1 + np.cos(times), 4.0)
    return Report(
        title="Test <of> a report",
        lead="A lead.",
        model=model_rows(potential),
        data=(("Training", "3 frames"),),
        evaluation=evaluate(potential, structures),
        calibration=tuple(Calibrated(q, np.geomspace(0.01, 1, 60), np.full(60, 0.1)) for q in ("energy", "forces")),
        curves=LearningCurves(steps, columns),
        relaxations=(relaxation, dataclasses.replace(relaxation, name="other", rmsds=None, converged=False)),
        relaxation_reference="B3LYP/6-31G*",
        trajectory=trajectory,
        tables=factor_tables(potential),
        checks=(
            CheckResult("rotation", 1e-6, 1e-5, "energy spread", True, True, "detail"),
            CheckResult("reflection", 0.5, 1e-5, "energy spread", True, False, "detail"),
            CheckResult("forces", 0.5, 1e-5, "RMS force", False, True, "detail"),
        ),
        timing=(("Training", "1 s"),),
        provenance=(("tdn", "0"),),
        commands=("tdn demo",),
    )


@pytest.fixture(scope="module")
def page(report):
    return render_report(report)


class Balance(HTMLParser):
    """Complains about tags that are not closed in order and about identifiers that come twice."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def parsed(page):
    parser = Balance()
    parser.feed(page)
    return parser


def test_every_section_and_figure_is_there(parsed):
    assert {i for tag, attrs in parsed.tags if tag == "section" for i in [attrs["id"]]} == SECTIONS
    for name in FIGURES:
        assert any(i.startswith(name) for i in parsed.ids), name
    links = {attrs["href"][1:] for tag, attrs in parsed.tags if tag == "a" and attrs["href"].startswith("#")}
    assert links == SECTIONS


def test_page_is_well_formed_and_identifiers_are_unique(parsed):
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    references = {
        value[1:]
        for _, attrs in parsed.tags
        for name, value in attrs.items()
        if name in ("href", "xlink:href") and value and value.startswith("#")
    }
    assert references <= set(parsed.ids)


def test_nothing_is_loaded_from_anywhere(page, parsed):
    assert "http:" not in page
    assert "https:" not in page
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=\s]+|^\s*// .*$", "", page, flags=re.MULTILINE)
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in parsed.tags}
    assert [attrs for tag, attrs in parsed.tags if tag == "script"] == [{}]
    assert not re.search(r"\b(fetch|import|XMLHttpRequest|eval)\b\W*\(", page)
    for tag, attrs in parsed.tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            if attrs.get(name):
                assert attrs[name].startswith(("#", "data:")), (tag, attrs[name])
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_figures_follow_the_theme(page):
    svgs = re.findall(r"<svg (?!class).*?</svg>", page, flags=re.DOTALL)
    assert len(svgs) == len(FIGURES)
    for svg in svgs:
        assert "var(--" in svg
        assert "#1a1c20" not in svg
        assert "DejaVu" not in svg
    assert "prefers-color-scheme: dark" in page


def test_empty_report_has_a_summary_only():
    parser = Balance()
    parser.feed(render_report(Report(title="Nothing yet")))
    assert [attrs["id"] for tag, attrs in parser.tags if tag == "section"] == ["summary"]
    assert "script" not in {tag for tag, _ in parser.tags}


def test_text_is_escaped_and_numbers_are_those_of_the_evaluation(page, report):
    assert "Test &lt;of&gt; a report" in page
    assert "<of>" not in page
    assert number(report.evaluation.overall.forces.mae) in page
    for symbol, errors in report.evaluation.per_element.items():
        row = re.search(rf'<tr><th scope="row">{symbol}</th>(.*?)</tr>', page, flags=re.DOTALL)
        assert number(errors.mae) in row[1]
        assert number(errors.rmse) in row[1]
    assert "kind0" in page
    assert "kind1" in page


def test_checks_that_are_not_claimed_neither_pass_nor_count(page, report):
    assert "not claimed" in page
    (tile,) = [tile for tile in report.headlines if tile.label == "Physics checks"]
    assert tile.value == "1 of 2"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12.345, "12.3"),
        (-0.01234, "−0.0123"),
        (1234.5, "1\u202f234"),
        (3.2e-15, "3.2 × 10⁻¹⁵"),
        (float("nan"), "–"),
        (999.9, "1\u202f000"),
        (100.0, "100"),
    ],
)
def test_numbers_are_readable(value, text):
    assert number(value) == text


def test_all_paths_model_says_what_it_does_not_claim(potential):
    other = Potential(TDNConfig(lmax=1, num_channels=2, num_layers=1, parity="all"), {1: 0.0})
    assert "mirror" in " ".join(not_claimed(other))
    assert not_claimed(potential) == ()


def test_machine_summary_names_no_host_or_folder():
    import getpass
    import socket

    summary = describe_machine()
    assert socket.gethostname() not in summary
    assert "/" not in summary.replace("w/", "")
    assert f"@{getpass.getuser()}" not in summary


def test_training_report_reads_a_run_folder(tmp_path, potential, structures):
    metadata = {
        "data": {"train": {"files": ["a.extxyz"], "sha256": "0" * 64, "num_frames": 3, "labels": "energies"}},
        "num_frames": 3,
        "seed": 5,
    }
    save_model(tmp_path / "model.tdn", potential, metadata)
    (tmp_path / "metrics.csv").write_text(
        "step,elapsed_s,loss,valid_loss,valid_forces_mae,note\n10,1.5,0.5,0.9,80,a\n20,3.0,,0.8,70,b\n"
    )
    summary = {"steps": 20, "elapsed_s": 3.0, "seconds_per_step": 0.15, "best_step": 10}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    path = write_training_report(tmp_path, structures, "validation")
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    assert "A potential trained on 3 frames" in page
    assert "3 validation frames" in page
    assert "150 ms" in page
    assert "the best weights are those of step 10" in page
    assert str(tmp_path.parent) not in page
    curves = LearningCurves.read(tmp_path / "metrics.csv")
    assert "note" not in curves.columns
    assert np.isnan(curves.columns["loss"][1])
    np.testing.assert_allclose(curves.minutes, [0.025, 0.05])
