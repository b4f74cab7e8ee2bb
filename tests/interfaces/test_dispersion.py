"""D3(BJ) is added as the library of its authors gives it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

from tdn import Potential, TDNCalculator, TDNConfig
from tdn.errors import ConfigError
from tdn.simulation.relaxation import RelaxSettings, relax

pytest.importorskip("dftd3", reason="needs pip install 'tdn[dispersion]'")


def make_potential() -> Potential:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,))
    return Potential(config, {1: -13.6, 6: -1029.0}).double().eval()


@pytest.mark.parametrize("periodic", [False, True])
def test_results_are_the_sum_of_model_and_library(periodic: bool) -> None:
    from dftd3.ase import DFTD3

    atoms = bulk("C", cubic=True) if periodic else molecule("C6H6")
    atoms.rattle(0.05, seed=0)
    names = ["energy", "free_energy", "forces"] + ["stress"] * periodic
    potential = make_potential()
    both, own = TDNCalculator(potential, dispersion="PBE"), TDNCalculator(potential)
    library = DFTD3(method="PBE", damping="d3bj")
    for name in names:
        correction = library.get_property("energy" if name == "free_energy" else name, atoms)
        assert np.abs(correction).max() > 1e-4
        np.testing.assert_allclose(
            both.get_property(name, atoms), own.get_property(name, atoms) + correction, rtol=1e-10
        )


def test_energy_of_benzene_is_the_known_one() -> None:
    """-0.29816 eV: dftd3 1.7.0, PBE-D3(BJ), ASE's benzene."""
    atoms, potential = molecule("C6H6"), make_potential()
    difference = TDNCalculator(potential, dispersion="PBE").get_potential_energy(atoms)
    difference -= TDNCalculator(potential).get_potential_energy(atoms)
    assert difference == pytest.approx(-0.29816, abs=2e-4)


def test_what_dispersion_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameters for 'nonsense'"):
        TDNCalculator(make_potential(), dispersion="nonsense")
    with pytest.raises(ConfigError, match="no parameters for 'nonsense'"):
        RelaxSettings(dispersion="nonsense")
    calculator = TDNCalculator(make_potential(), dispersion="PBE")
    with pytest.raises(PropertyNotImplementedError, match="leave out dispersion"):
        calculator.get_potential_energies(molecule("CH4"))
    assert "energies" not in calculator.results


def test_relaxation_takes_the_path_of_ase_with_dispersion() -> None:
    potential = make_potential()
    starts = [molecule("C6H6"), bulk("C", cubic=True)]
    results = relax(potential, starts, RelaxSettings(fmax=1e-4, steps=5, cell=True, dispersion="PBE"))
    for start, result in zip(starts, results, strict=True):
        start.calc = TDNCalculator(potential, dispersion="PBE")
        LBFGS(FrechetCellFilter(start) if start.pbc.all() else start, logfile=None).run(fmax=1e-4, steps=5)
        np.testing.assert_allclose(result.atoms.positions, start.positions, atol=1e-7)
        np.testing.assert_allclose(result.atoms.cell.array, start.cell.array, atol=1e-7)
        assert result.atoms.get_potential_energy() == pytest.approx(start.get_potential_energy(), abs=1e-8)
    with pytest.raises(ConfigError, match="no parameters for 'nonsense'"):
        relax(potential, starts, RelaxSettings(dispersion="nonsense"))
