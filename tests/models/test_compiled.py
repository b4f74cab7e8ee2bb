"""Compiled code gives what eager code gives, in training and evaluation, for every size of graph."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from tdn.calculator import TDNCalculator
from tdn.graph import AtomGraph, Prediction, collate
from tdn.models.compiled import CompiledCore, compiler_available
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.structure import Structure

pytestmark = pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")


def graph_of(*names: str) -> AtomGraph:
    from ase.build import bulk, molecule

    frames = [bulk("Si", cubic=True) if name == "Si" else molecule(name) for name in names]
    return collate([AtomGraph.from_structure(Structure.from_ase(atoms), 4.0) for atoms in frames])


def loss(prediction: Prediction) -> Tensor:
    return prediction.energies.square().sum() + prediction.forces.square().sum()


@pytest.fixture(scope="module")
def potentials() -> tuple[Potential, Potential]:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,))
    eager = Potential(config, dict.fromkeys((1, 6, 8, 14), -1.0), shifts={6: -2.0}).double()
    compiled = copy.deepcopy(eager)
    compiled.compile()
    return eager, compiled


@pytest.mark.parametrize("names", [("CH3CH2OH", "H2O"), ("Si",), ("H2O", "Si", "C"), ("O",)])
def test_compiled_agrees_in_training_and_evaluation(potentials: tuple[Potential, Potential], names: tuple) -> None:
    graph = graph_of(*names)
    predictions, gradients = [], []
    for potential in potentials:
        potential.train().zero_grad()
        predictions.append(potential(graph))
        loss(predictions[-1]).backward()
        gradients.append([parameter.grad.clone() for parameter in potential.parameters()])
        predictions.append(potential.eval()(graph))
    for prediction in predictions[1:]:
        for name in ("energies", "forces", "energy"):
            assert torch.allclose(getattr(prediction, name), getattr(predictions[0], name), rtol=1e-10, atol=1e-11), (
                name
            )
    for eager, compiled in zip(*gradients, strict=True):
        assert torch.allclose(compiled, eager, rtol=1e-9, atol=1e-11)


def test_new_sizes_do_not_recompile(potentials: tuple[Potential, Potential]) -> None:
    _, compiled = potentials
    compiled.eval()(graph_of("CH3CH2OH"))
    with torch.compiler.set_stance("fail_on_recompile"):
        for names in (("H2O",), ("CH4", "H2O"), ("Si", "Si", "H2O")):
            compiled.eval()(graph_of(*names))


def test_statistics_of_the_data_are_no_part_of_the_code() -> None:
    def code(scale: float, avg_num_neighbors: float) -> str:
        config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, avg_num_neighbors=avg_num_neighbors)
        potential = Potential(config, {1: -1.0, 8: -2.0 * scale}, scale, {1: 0.3 * scale})
        return CompiledCore(potential, potential.eager_energies_and_edge_forces).run.code

    assert code(1.5, 13.0) == code(1.7, 11.2)


def test_compiled_code_sees_changed_weights(potentials: tuple[Potential, Potential]) -> None:
    _, compiled = potentials
    graph = graph_of("CH3CH2OH")
    before = compiled.eval()(graph).energy
    with torch.no_grad():
        compiled.shift += 1.0
    after = compiled(graph).energy
    with torch.no_grad():
        compiled.shift -= 1.0
    assert (after - before).abs() > 1.0


def test_a_copy_compiles_for_itself(potentials: tuple[Potential, Potential]) -> None:
    _, compiled = potentials
    compiled.eval()(graph_of("CH4"))
    assert copy.deepcopy(compiled)._core is None


def test_calculator_runs_compiled_code_if_asked(potentials: tuple[Potential, Potential]) -> None:
    from ase.build import molecule

    results = []
    for compile in (False, True):
        atoms = molecule("CH3CH2OH")
        calculator = TDNCalculator(potentials[0], device="cpu", compile=compile)
        results.append(calculator.get_forces(atoms))
        assert (calculator.potentials[0]._core is not None) == compile
    np.testing.assert_allclose(results[1], results[0], atol=1e-10)
