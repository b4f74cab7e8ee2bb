"""The last layer's uncertainty against its definition: linearity, the full Jacobian, and Bayesian regression."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from torch import Tensor

from tdn.calculator import TDNCalculator
from tdn.errors import DataError
from tdn.graph import AtomGraph
from tdn.modelfile import load_model, save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.models.uncertainty import (
    FORCE_SAMPLES,
    LastLayer,
    LastLayerPosterior,
    energy_uncertainty,
    forces_uncertainty,
    last_layer_names,
)
from tdn.structure import Structure


def make_potential() -> Potential:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,))
    return Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, 1.5, {6: -2.0}).double().eval()


def graph_of(name: str) -> AtomGraph:
    atoms = bulk("C", cubic=True) if name == "C8" else molecule(name)
    atoms.rattle(0.1, seed=0)
    return AtomGraph.from_structure(Structure.from_ase(atoms), 4.0)


def changed(potential: Potential, change: Tensor) -> Potential:
    """The potential with `change` added to its last layer."""
    other = copy.deepcopy(potential)
    parameters, start = dict(other.named_parameters()), 0
    with torch.no_grad():
        for name in last_layer_names(potential):
            size = parameters[name].numel()
            parameters[name] += change[start : start + size].view_as(parameters[name])
            start += size
    assert start == len(change)
    return other


@pytest.mark.parametrize("name", ["CH3CH2OH", "C8"])
def test_energy_and_forces_are_linear_in_the_last_layer(name: str) -> None:
    potential, graph = make_potential(), graph_of(name)
    layer = LastLayer(potential)
    features = layer.energy_features(graph)
    change = torch.randn(len(features), dtype=torch.float64)
    before, after = potential(graph), changed(potential, change)(graph)
    assert float(after.energy - before.energy) == pytest.approx(float(features @ change), rel=1e-8)
    assert torch.allclose(after.forces - before.forces, layer.forces(graph, change), atol=1e-9)


def test_probes_are_products_with_the_jacobian_of_the_forces() -> None:
    potential, graph = make_potential(), graph_of("H2O")
    layer = LastLayer(potential)
    size = len(layer.energy_features(graph))
    jacobian = torch.stack([layer.forces(graph, unit) for unit in torch.eye(size, dtype=torch.float64)])
    directions = torch.randn(3, graph.num_atoms, 3, dtype=torch.float64)
    expected = torch.einsum("dna,kna->kd", jacobian, directions)
    assert torch.allclose(layer.force_feature_probes(graph, directions), expected, atol=1e-9)


def test_uncertainties_are_those_of_the_posterior() -> None:
    potential, graph = make_potential(), graph_of("CH3CH2OH")
    layer = LastLayer(potential)
    size = len(layer.energy_features(graph))
    matrix = torch.randn(size, size, dtype=torch.float64)
    precision = matrix @ matrix.T + torch.eye(size)
    root = torch.linalg.inv(torch.linalg.cholesky(precision))
    posterior = LastLayerPosterior(layer.names, root, 2.0, 3.0)
    features = layer.energy_features(graph)
    variance = float(features @ torch.linalg.inv(precision) @ features)
    assert energy_uncertainty(layer, posterior, graph) == pytest.approx(2.0 * math.sqrt(variance), rel=1e-8)
    draws = posterior.samples(20000)
    assert torch.allclose(draws.T @ draws / len(draws), torch.linalg.inv(precision), atol=0.05)
    jacobian = torch.stack([layer.forces(graph, unit) for unit in torch.eye(size, dtype=torch.float64)])
    exact = torch.einsum("dna,de,ena->n", jacobian, torch.linalg.inv(precision), jacobian).sqrt()
    found = forces_uncertainty(layer, posterior, graph) / 3.0
    np.testing.assert_allclose(found, exact, rtol=4.0 / math.sqrt(2 * FORCE_SAMPLES))


def test_posterior_is_saved_with_the_model(tmp_path: Path) -> None:
    potential = make_potential()
    save_model(tmp_path / "plain.tdn", potential)
    assert load_model(tmp_path / "plain.tdn").uncertainty is None
    size = len(LastLayer(potential).energy_features(graph_of("H2O")))
    root = torch.randn(size, size, dtype=torch.float64)
    potential.uncertainty = LastLayerPosterior(last_layer_names(potential), root, 0.5, math.nan, {"training_frames": 7})
    save_model(tmp_path / "model.tdn", potential)
    for dtype in (torch.float32, torch.float64):
        again = load_model(tmp_path / "model.tdn", dtype=dtype).uncertainty
        assert again is not None
        assert torch.equal(again.root, root)
        assert (again.names, again.energy_scale) == (last_layer_names(potential), 0.5)
        assert math.isnan(again.forces_scale)
        assert again.facts == {"training_frames": 7}


def test_networks_without_linear_readouts_are_refused() -> None:
    potential = make_potential()
    del potential.network.readouts
    with pytest.raises(DataError, match="use a committee"):
        last_layer_names(potential)


def test_calculator_gives_the_uncertainty_of_energies_when_asked() -> None:
    potential, atoms = make_potential(), molecule("CH3CH2OH")
    with pytest.raises(PropertyNotImplementedError, match="tdn calibrate"):
        TDNCalculator(potential).get_property("energy_uncertainty", atoms)
    with pytest.raises(PropertyNotImplementedError, match="tdn calibrate"):
        TDNCalculator(potential, uncertainty=True)
    layer, graph = LastLayer(potential), AtomGraph.from_structure(Structure.from_ase(atoms), 4.0)
    root = torch.eye(len(layer.energy_features(graph)), dtype=torch.float64)
    potential.uncertainty = LastLayerPosterior(layer.names, root, 0.5, math.nan)
    expected = energy_uncertainty(layer, potential.uncertainty, graph)
    calculator = TDNCalculator(potential)
    atoms.calc = calculator
    atoms.get_potential_energy()
    assert "energy_uncertainty" not in calculator.results
    assert calculator.get_property("energy_uncertainty", atoms) == pytest.approx(expected)
    always = TDNCalculator(potential, uncertainty=True)
    always.calculate(atoms)
    assert always.results["energy_uncertainty"] == pytest.approx(expected)


def test_uncertainty_of_a_committee_is_its_spread() -> None:
    first, second = make_potential(), make_potential()
    with torch.no_grad():
        second.shift += 0.1
    calculator = TDNCalculator([first, second], uncertainty=True)
    calculator.calculate(molecule("H2O"))
    assert calculator.results["energy_uncertainty"] == calculator.results["energy_std"] > 0
