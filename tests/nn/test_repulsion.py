"""The repulsion is that of Ziegler, Biersack and Littmark, ends smoothly, and is part of the model everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from tdn import Potential, Structure, TDNCalculator, TDNConfig, save_model
from tdn.checks.contract import run_checks
from tdn.interfaces.engine import EngineCore, engine_arguments
from tdn.modelfile import load_model
from tdn.nn.repulsion import Repulsion

CONFIG = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,), zbl=True)
REFERENCES = {1: -13.6, 6: -1029.0, 8: -2042.0}


def make_potential(config: TDNConfig = CONFIG) -> Potential:
    torch.manual_seed(0)
    return Potential(config, REFERENCES, shifts={6: -2.0}).double().eval()


def pair_energy(distance: torch.Tensor, first: int = 1, second: int = 2) -> torch.Tensor:
    """C-O unless told, eV."""
    pair = torch.tensor([0, 1]), torch.tensor([1, 0])
    repulsion = Repulsion((1, 6, 8), 4.0).double()
    return repulsion(distance.expand(2), torch.tensor([first, second]), *pair).sum()


def test_close_nuclei_repel_as_published() -> None:
    r = 0.05
    x = r * (6**0.23 + 8**0.23) / 0.46848
    phi = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x)
    phi += 0.28022 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.20162 * x)
    found = float(pair_energy(torch.tensor(r, dtype=torch.float64)))
    assert found == pytest.approx(14.39964 * 48 / r * phi, rel=1e-4)


@pytest.mark.parametrize(("first", "second", "reach"), [(0, 0, 0.62), (1, 2, 0.76 + 0.66), (1, 1, 1.52)])
def test_it_ends_at_the_covalent_radii_smoothly(first: int, second: int, reach: float) -> None:
    inside = torch.tensor(reach - 1e-3, dtype=torch.float64, requires_grad=True)
    energy = pair_energy(inside, first, second)
    (slope,) = torch.autograd.grad(energy, inside, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, inside)
    assert 0 < float(energy.detach()) < 1e-10
    assert abs(float(slope.detach())) < 1e-6
    assert abs(float(curvature)) < 1e-3
    assert float(pair_energy(torch.tensor(reach + 1e-6, dtype=torch.float64), first, second)) == 0.0


def test_atoms_on_the_way_to_each_other_are_pushed_apart() -> None:
    distances = np.linspace(0.2, 1.4, 60)
    energies = [float(pair_energy(torch.tensor(r, dtype=torch.float64))) for r in distances]
    assert (np.diff(energies) < 0).all()
    atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, 0.3]])
    atoms.calc = TDNCalculator(make_potential())
    assert atoms.get_forces()[1, 2] > 100.0


def test_potential_differs_by_the_repulsion_alone_and_keeps_it_in_its_file(tmp_path: Path) -> None:
    own, without = make_potential(), make_potential(CONFIG.model_copy(update={"zbl": False}))
    assert own.state_dict().keys() == without.state_dict().keys()
    atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, 0.8]])
    energy = [TDNCalculator(p).get_potential_energy(atoms) for p in (own, without)]
    assert energy[0] - energy[1] == pytest.approx(float(pair_energy(torch.tensor(0.8, dtype=torch.float64))), rel=1e-9)
    save_model(tmp_path / "model.tdn", own)
    assert load_model(tmp_path / "model.tdn").config.repulsive
    assert TDNCalculator(tmp_path / "model.tdn").get_potential_energy(atoms) == pytest.approx(energy[0], rel=1e-12)


def test_engines_have_it() -> None:
    potential, atoms = make_potential(), bulk("C", "sc", a=1.2)
    atoms.calc = TDNCalculator(potential)
    energies, _, virials = EngineCore(potential)(*engine_arguments(Structure.from_ase(atoms), potential.r_max))
    assert float(energies.sum()) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    assert -float(virials.sum(0)[0, 0]) / atoms.get_volume() == pytest.approx(atoms.get_stress()[0], rel=1e-9)


def test_contract_holds() -> None:
    dense = [molecule("CH3CH2OH"), bulk("C", "sc", a=1.3)]
    for structures in (None, [Structure.from_ase(atoms) for atoms in dense]):
        failed = [
            r for r in run_checks(make_potential(), structures, quick=True, dtypes=(torch.float64,)) if not r.passed
        ]
        assert failed == []
