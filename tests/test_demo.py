"""The demonstration, small: every stage runs on the shipped data and shows up in the page."""

import json
import re

import ase.io
import pytest
from typer.testing import CliRunner

import tdn.report.demo as demo_module
from tdn.cli.demo import app
from tdn.datasets import organics_path
from tdn.errors import DataError, TDNError
from tdn.evaluation.dynamics import rmsd
from tdn.report.demo import DemoSettings, run_demo

TINY = {"lmax": 1, "num_channels": 8, "num_layers": 1, "product_order": 2, "r_max": 3.0, "radial_hidden": [16]}
TRAINING = {"max_time": None, "max_steps": 300, "validate_every": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(folder):
    # A demonstration replaces the one before.
    (folder / "run").mkdir()
    (folder / "run" / "model.tdn").write_text("an older run")
    return run_demo(folder, DemoSettings(picoseconds=0.02, threads=1, model=TINY, training=TRAINING))


def test_page_has_every_section_and_no_path(result, folder):
    page = result.report.read_text(encoding="utf-8")
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections == [
        *(
            "summary",
            "advice",
            "accuracy",
            "worst",
            "learning",
            "relaxation",
            "dynamics",
            "certificate",
            "checks",
            "timing",
            "provenance",
        ),
    ]
    assert str(folder) not in page
    assert str(organics_path("test").parent) not in page


def test_every_test_molecule_is_relaxed_towards_its_own_geometry(result):
    frames = ase.io.read(organics_path("test"), index=":")
    paths = {}
    for frame in frames:
        if frame.info["config_type"] == "relaxation":
            paths.setdefault(frame.info["molecule"], []).append((int(frame.info["step"]), frame.positions))
    names = [relaxation.name for relaxation in result.relaxations]
    assert sorted(names) == sorted(f"{name}, {start}" for name in paths for start in ("displaced", "conformer"))
    assert names[0] == f"{demo_module.MOLECULE}, displaced"
    for relaxation in result.relaxations:
        name, start = relaxation.name.rsplit(", ", 1)
        path = sorted(paths[name], key=lambda pair: pair[0])
        if start == "conformer":
            assert relaxation.rmsds[0] == pytest.approx(rmsd(path[0][1], path[-1][1]), abs=1e-6)
        else:
            assert 0.02 < relaxation.rmsds[0] < 0.4
        assert relaxation.energies[-1] < relaxation.energies[0]


def test_errors_are_of_unseen_molecules_and_training_helps(result):
    trained = {f.info["smiles"] for split in ("train", "valid") for f in ase.io.read(organics_path(split), index=":")}
    assert not trained & {structure.info["smiles"] for structure in result.evaluation.structures}
    forces = result.evaluation.overall.forces
    assert forces is not None
    assert forces.relative_rmse_percent is not None
    assert forces.relative_rmse_percent < 100.0


def test_a_training_too_short_to_move_molecules_with_says_so(tmp_path, monkeypatch):
    def collapse(*_):
        raise DataError("Atoms 1 and 2 are 0.05 Å apart.")

    monkeypatch.setattr(demo_module, "relax_molecules", collapse)
    settings = DemoSettings(threads=1, model=TINY, training={**TRAINING, "max_steps": 3})
    with pytest.raises(TDNError, match=r"0\.05 Å(.|\n)*--max-time"):
        run_demo(tmp_path, settings)
    assert (tmp_path / "run" / "model.tdn").exists()


def test_numbers_have_stable_names(result):
    content = result.to_dict()
    assert set(content) == {"evaluation", "relaxations", "nve", "checks", "seconds"}
    assert set(content["nve"]) == {
        *("drift_mev_per_atom_per_ps", "fluctuation_mev_per_atom", "picoseconds", "mean_temperature"),
        *("ms_per_step", "ns_per_day"),
    }
    assert content["nve"]["picoseconds"] == pytest.approx(0.02)
    assert len(content["checks"]) == len(result.checks)
    json.dumps(content, allow_nan=False)


def test_command_says_where_the_report_is_and_what_to_try(tmp_path, monkeypatch, result):
    seen = []

    def quick(folder, settings, progress):
        seen.append((folder, settings))
        return result

    monkeypatch.setattr(demo_module, "run_demo", quick)
    arguments = ["--output", str(tmp_path), "--max-time", "3s", "--picoseconds", "0.5", "--seed", "4", "--json"]
    outcome = CliRunner().invoke(app, [*arguments, str(tmp_path / "demo.json")], catch_exceptions=False)
    assert outcome.exit_code == 0
    assert str(result.report) in outcome.output.replace("\n", "")
    assert outcome.output.count("\n  tdn ") == 3
    assert json.loads((tmp_path / "demo.json").read_text())["nve"]["picoseconds"] == pytest.approx(0.02)
    ((used, settings),) = seen
    assert used == tmp_path
    assert (settings.max_time, settings.picoseconds, settings.seed) == ("3s", 0.5, 4)
