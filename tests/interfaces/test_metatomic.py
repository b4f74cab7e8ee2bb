"""The metatomic file gives in metatomic's calculator what the model gives in ours, and needs no tdn."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write

from tdn import Potential, TDNCalculator, TDNConfig, save_model
from tdn.cli.main import main

pytest.importorskip("metatomic.torch", reason="needs metatomic: pip install 'tdn[metatomic]'")
pytest.importorskip("metatomic_ase", reason="needs metatomic: pip install 'tdn[metatomic]'")

import vesin.metatomic as vesin_metatomic
from metatensor.torch import Labels
from metatomic.torch import ModelEvaluationOptions, ModelOutput, systems_to_torch
from metatomic_ase import MetatomicCalculator

from tdn.interfaces.metatomic import metatomic_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "metatomic_ase.py"


def make_potential() -> Potential:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,))
    return Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, shifts={6: -2.0}).eval()


def frames() -> list[Atoms]:
    crystal = bulk("C", cubic=True).repeat((2, 1, 1))
    crystal.rattle(0.1, seed=1)
    slab = crystal.copy()
    slab.center(vacuum=3.0, axis=2)
    slab.pbc = (True, True, False)
    slab.cell[2] = 0.0
    return [molecule("CH3CH2OH"), crystal, molecule("H2O"), Atoms("O"), slab]


@pytest.fixture(scope="module", params=["float32", "float64"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Precision and folder with `model.tdn` and `model.pt`."""
    folder = tmp_path_factory.mktemp(request.param)
    save_model(folder / "model.tdn", make_potential())
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["tdn", "export", str(folder / "model.tdn"), "--to", "metatomic", "--dtype", request.param, "-q"]
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt", "model.tdn"]
    return request.param, folder


def test_results_are_those_of_our_calculator(exported: tuple[str, Path]) -> None:
    dtype, folder = exported
    tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]
    theirs = MetatomicCalculator(folder / "model.pt", check_consistency=True)
    # Twice: TorchScript runs other code once it has seen how it is used.
    for atoms in [*frames(), *frames()]:
        atoms.calc = TDNCalculator(folder / "model.tdn", dtype=dtype)
        copy = atoms.copy()
        copy.calc = theirs
        assert copy.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=10 * tolerance)
        forces = atoms.get_forces()
        np.testing.assert_allclose(copy.get_forces(), forces, atol=tolerance * max(1.0, np.abs(forces).max()))
        if atoms.pbc.all():
            np.testing.assert_allclose(copy.get_stress(), atoms.get_stress(), atol=tolerance)
        else:
            with pytest.raises(PropertyNotImplementedError):
                atoms.get_stress()


def test_atoms_can_be_selected() -> None:
    model = metatomic_model(make_potential().double())
    atoms = frames()[:2]
    systems = systems_to_torch(atoms, dtype=torch.float64)
    vesin_metatomic.compute_requested_neighbors(systems, "angstrom", model)
    selected = Labels(["system", "atom"], torch.tensor([[0, 2], [0, 5], [1, 3]], dtype=torch.int32))

    def run(kind: str, labels: Labels | None) -> torch.Tensor:
        options = ModelEvaluationOptions("angstrom", {"energy": ModelOutput(unit="eV", sample_kind=kind)}, labels)
        return model(systems, options, check_consistency=True)["energy"].block().values.flatten()

    energies = [TDNCalculator(make_potential(), dtype="float64").get_potential_energies(frame) for frame in atoms]
    np.testing.assert_allclose(run("atom", None), np.concatenate(energies), rtol=1e-12)
    np.testing.assert_allclose(run("system", None), [values.sum() for values in energies], rtol=1e-12)
    chosen = [energies[0][2], energies[0][5], energies[1][3]]
    np.testing.assert_allclose(run("atom", selected), chosen, rtol=1e-12)
    np.testing.assert_allclose(run("system", selected), [chosen[0] + chosen[1], chosen[2]], rtol=1e-12)


def test_file_runs_without_tdn(exported: tuple[str, Path]) -> None:
    dtype, folder = exported
    atoms = frames()[1]
    write(folder / "frame.traj", atoms)
    script = (
        "import sys; sys.modules['tdn'] = None\n"
        "from ase.io import read\nfrom metatomic_ase import MetatomicCalculator\n"
        "atoms = read('frame.traj'); atoms.calc = MetatomicCalculator('model.pt'); print(atoms.get_potential_energy())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    options = {"capture_output": True, "text": True, "check": True, "timeout": 120}
    printed = subprocess.run(command, env=environment, cwd=folder, **options).stdout
    (folder / "frame.traj").unlink()
    atoms.calc = TDNCalculator(folder / "model.tdn", dtype=dtype)
    assert float(printed) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)


def test_range_covers_all_message_passing_steps() -> None:
    capabilities = metatomic_model(make_potential()).capabilities()
    assert capabilities.interaction_range == 8.0
    assert capabilities.atomic_types == [1, 6, 8]


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model.tdn", make_potential())
    write(tmp_path / "start.xyz", molecule("CH3CH2OH"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "model.tdn", "start.xyz", "2"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    atoms = read("relaxed.extxyz")
    energy = atoms.get_potential_energy()
    atoms.calc = TDNCalculator("model.tdn")
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
