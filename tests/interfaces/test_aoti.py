"""An exported package gives the model's numbers in a process that has no tdn, and is refused where it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from tdn import Potential, TDNCalculator, TDNConfig, save_model
from tdn.cli.main import main
from tdn.errors import ExportError
from tdn.interfaces.agreement import comparable, require_agreement
from tdn.interfaces.engine import EngineCore, engine_arguments
from tdn.models.compiled import compiler_available
from tdn.neighbors import neighbor_list
from tdn.structure import Structure

EXAMPLE = Path(__file__).parents[2] / "examples" / "aoti_without_tdn.py"


def make_potential() -> Potential:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,), element_matrices=2)
    return Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, shifts={6: -2.0}).eval()


def frames() -> list[Atoms]:
    crystal = bulk("C", cubic=True).repeat((2, 1, 1))
    crystal.rattle(0.1, seed=1)
    return [molecule("CH3CH2OH"), crystal, molecule("H2O"), Atoms("O"), bulk("C", "sc", a=2.0)]


@pytest.mark.parametrize("index", range(5))
def test_engine_core_is_the_calculator_whatever_the_list(index: int) -> None:
    potential, atoms = make_potential().double(), frames()[index]
    atoms.calc = TDNCalculator(potential)
    core = EngineCore(potential)
    rng = np.random.default_rng(0)
    for r_max in (potential.r_max, potential.r_max + 1.0):
        arguments = engine_arguments(Structure.from_ase(atoms), r_max)
        order = torch.from_numpy(rng.permutation(len(arguments[2])))
        energies, forces, virials = core(*arguments[:2], *(edge[order] for edge in arguments[2:]))
        assert float(energies.sum()) == pytest.approx(atoms.get_potential_energy(), rel=1e-13)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-11)
        if atoms.pbc.all():
            stress = -virials.sum(0).numpy() / atoms.get_volume()
            np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-12)


def test_unknown_elements_have_no_energy() -> None:
    energies, _, _ = EngineCore(make_potential())(*engine_arguments(Structure.from_ase(molecule("NH3")), 4.0))
    assert energies.isnan().tolist() == [True, False, False, False]


def test_export_that_differs_is_refused() -> None:
    potential = make_potential()
    core, structures = EngineCore(potential), comparable(potential, None)

    def evaluate(structure: Structure, error: float) -> tuple:
        energies, forces, virials = core(*engine_arguments(structure, potential.r_max))
        stress = None if structure.volume is None else -virials.sum(0).numpy() / structure.volume
        return float(energies.sum()), forces.numpy() * (1.0 + error), stress

    assert require_agreement(lambda s: evaluate(s, 0.0), potential, structures).passed
    for error in (1e-4, np.nan):
        with pytest.raises(ExportError, match="differs from the original"):
            require_agreement(lambda s, error=error: evaluate(s, error), potential, structures)


@pytest.mark.slow
@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
def test_package_runs_without_tdn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model.tdn", make_potential())
    report, package = tmp_path / "report.json", tmp_path / "out" / "model.pt2"
    arguments = ["tdn", "export", str(tmp_path / "model.tdn"), "--to", "aoti", "-o", str(package)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json", str(report), "-q"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert [path.name for path in package.parent.iterdir()] == ["model.pt2"]
    content = json.loads(report.read_text())
    assert max(content[name] for name in ("energy", "forces", "stress")) < 1e-5

    write(tmp_path / "frames.extxyz", frames())
    script = (
        "import runpy, sys; sys.modules['tdn'] = None; sys.argv.pop(0); runpy.run_path(sys.argv[0], {}, '__main__')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", script, str(EXAMPLE), str(package), str(tmp_path / "frames.extxyz")],
        capture_output=True, text=True, check=True, timeout=120, env=environment, cwd=tmp_path,
    ).stdout  # fmt: skip
    for line, atoms in zip(printed.splitlines(), frames(), strict=True):
        found = json.loads(line)
        atoms.calc = TDNCalculator(tmp_path / "model.tdn")
        assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        forces = atoms.get_forces()
        np.testing.assert_allclose(found["forces"], forces, atol=1e-5 * max(1.0, np.abs(forces).max()))
        if atoms.pbc.all():
            np.testing.assert_allclose(found["stress"], atoms.get_stress(voigt=False), atol=1e-5)


def test_no_export_without_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tdn.interfaces import aoti

    monkeypatch.setattr(aoti, "compiler_available", lambda: False)
    with pytest.raises(ExportError, match="install g"):
        aoti.export_aoti(make_potential(), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_neighbor_list_of_the_example_is_ours() -> None:
    import vesin

    for atoms in frames():
        lists = vesin.NeighborList(cutoff=4.0, full_list=True).compute(
            atoms.positions, np.asarray(atoms.cell), periodic=atoms.pbc, quantities="ijS"
        )
        assert len(lists[0]) == len(neighbor_list(Structure.from_ase(atoms), 4.0)[0])
