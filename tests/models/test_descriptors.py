"""Descriptors are invariant, local, and leave the model as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule

from tdn import Potential, TDNCalculator, TDNConfig
from tdn.errors import DataError


def make_potential() -> Potential:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=2, r_max=3.0, radial_hidden=(8,))
    return Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}).double().eval()


def test_descriptors_follow_atoms_and_ignore_rotations_and_far_atoms() -> None:
    atoms, calculator = molecule("CH3CH2OH"), TDNCalculator(make_potential())
    energy = calculator.get_potential_energy(atoms)
    found = calculator.get_descriptors(atoms)
    assert found.shape == (len(atoms), 8)
    assert np.ptp(found, axis=0).max() > 1e-3
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3))
    np.testing.assert_allclose(calculator.get_descriptors(turned), found, atol=1e-10)
    order = np.random.default_rng(0).permutation(len(atoms))
    np.testing.assert_allclose(calculator.get_descriptors(atoms[order]), found[order], atol=1e-10)
    far = atoms + molecule("H2O")
    far.positions[len(atoms) :] += 50.0
    np.testing.assert_allclose(calculator.get_descriptors(far)[: len(atoms)], found, atol=1e-10)
    assert calculator.get_potential_energy(atoms) == energy


def test_committees_are_refused() -> None:
    with pytest.raises(DataError, match="one model"):
        TDNCalculator([make_potential(), make_potential()]).get_descriptors(molecule("H2O"))
