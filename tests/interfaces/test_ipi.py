"""i-PI's driver gives what ASE gives, bead by bead, and path-integral dynamics with it keeps its conserved quantity."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from ase.units import Bohr, Hartree

from tdn import Potential, TDNCalculator, TDNConfig, save_model
from tdn.errors import DataError

pytest.importorskip("ipi", reason="needs i-PI: pip install 'tdn[ipi]'")

from ipi.pes import load_pes

from tdn.interfaces.ipi import TDNDriver, driver_path

EXAMPLE = Path(__file__).parents[2] / "examples" / "ipi_path_integral.py"


@pytest.fixture
def model(tmp_path: Path) -> str:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,))
    potential = Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, shifts={6: -2.0}).double()
    save_model(tmp_path / "model.tdn", potential)
    return str(tmp_path / "model.tdn")


def crystal() -> Atoms:
    atoms = bulk("C", cubic=True)
    atoms.numbers[::3] = 8
    atoms.set_cell([[3.9, 0.2, 0.0], [0.3, 3.7, 0.1], [-0.2, 0.4, 3.8]], scale_atoms=True)
    return atoms


@pytest.mark.parametrize("make", [crystal, lambda: molecule("CH3CH2OH", cell=[9.0, 9.0, 9.0])])
def test_beads_get_what_ase_gives(tmp_path: Path, model: str, make) -> None:
    beads = [make() for _ in range(3)]
    for k, atoms in enumerate(beads):
        atoms.rattle(0.05, seed=k)
        atoms.calc = TDNCalculator(model)
    write(tmp_path / "template.xyz", beads[0], format="extxyz")
    made: Any = load_pes("custom", driver_path())
    driver = made(model=model, template=str(tmp_path / "template.xyz"))
    cells, positions = [a.cell.array.T / Bohr for a in beads], [a.positions / Bohr for a in beads]
    results = driver(cells, positions)
    for atoms, (energy, forces, virial, _) in zip(beads, results, strict=True):
        # The two programs have their own digits of the units.
        assert energy * Hartree == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
        np.testing.assert_allclose(forces * Hartree / Bohr, atoms.get_forces(), atol=2e-6)
        if atoms.pbc.all():
            np.testing.assert_allclose(-virial * Hartree / atoms.get_volume(), atoms.get_stress(voigt=False), atol=1e-7)
    single = driver(cells[1], positions[1])
    np.testing.assert_allclose(single[1], results[1][1], atol=1e-12)


def test_bad_input_is_refused(tmp_path: Path, model: str) -> None:
    write(tmp_path / "ammonia.xyz", molecule("NH3"))
    with pytest.raises(DataError, match="the structure also has N"):
        TDNDriver(model, str(tmp_path / "ammonia.xyz"))
    write(tmp_path / "water.xyz", molecule("H2O"))
    driver = TDNDriver(model, str(tmp_path / "water.xyz"))
    with pytest.raises(DataError, match="NaN"):
        driver(np.eye(3) * 20.0, np.full((3, 3), np.nan))


def test_example_runs_and_conserves(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "water.xyz", molecule("H2O"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), model, "water.xyz", "20", "4"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "with 4 beads" in capsys.readouterr().out
    rows = np.loadtxt("pimd.out")
    assert len(rows) == 21
    assert np.ptp(rows[:, 2]) < 0.05 * np.ptp(rows[:, 3])  # conserved beside potential
    frames = [cast(Atoms, read(f"pimd.pos_{bead}.extxyz", index=-1)) for bead in range(4)]
    for frame in frames:
        frame.calc, frame.pbc = TDNCalculator(model), False
    assert len(frames[0]) == 3
    assert np.mean([frame.get_potential_energy() for frame in frames]) == pytest.approx(rows[-1, 3], abs=1e-2)
