"""`PaperTDN` for relaxed energies: energies of a structure as a whole, no forces, bond order in the embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from scipy.spatial.transform import Rotation

from oc_files import slabs
from tdn.calculator import TDNCalculator
from tdn.checks import run_checks
from tdn.errors import ConfigError
from tdn.evaluation import evaluate
from tdn.graph import AtomGraph, collate
from tdn.modelfile import load_model, save_model
from tdn.models.architectures import build_potential
from tdn.models.paper import PaperTDNConfig
from tdn.models.potential import Potential
from tdn.structure import Structure

REFERENCES = {1: -1.0, 6: -2.0, 7: -3.0, 8: -4.0, 28: 0.5, 29: 0.25, 46: 0.0, 47: 1.0, 78: 2.0}
STRUCTURES = [Structure.from_ase(atoms) for atoms in slabs(3)]


def potential(seed: int = 0, **changes: Any) -> Potential:
    """A small network of relaxed energies in float64."""
    shape = {"num_channels": 8, "num_layers": 1, "num_heads": 2, "num_gaussians": 8, "r_max": 5.0, "products": "exact"}
    energies = {"energy": "per_structure", "forces": "none", "truncation": "nearest"}
    torch.manual_seed(seed)
    config = PaperTDNConfig.parse({**shape, **energies, **changes})
    return build_potential(config, REFERENCES, scale=2.0).double().eval()


def energies(model: Potential, structures: list[Structure] = STRUCTURES) -> torch.Tensor:
    return model(collate([AtomGraph.from_structure(s, model.r_max) for s in structures])).energy


def test_the_mean_is_added_once_a_structure():
    plain, shifted = potential(), potential(energy_mean=-1.5)
    torch.testing.assert_close(energies(shifted) - energies(plain), torch.full((3,), -1.5, dtype=torch.float64))
    prediction = shifted(AtomGraph.from_structure(STRUCTURES[0], 5.0))
    torch.testing.assert_close(prediction.energies.sum(), prediction.energy[0])


def test_energies_are_the_references_plus_the_scaled_sum_of_the_network():
    model = potential(avg_num_nodes=9.0)
    graph = AtomGraph.from_structure(STRUCTURES[1], 5.0)
    outputs, forces = model.network(
        graph.edge_vectors(), model.element_index[graph.numbers], graph.senders, graph.receivers
    )
    assert forces is None
    references = sum(REFERENCES[int(z)] for z in STRUCTURES[1].numbers)
    expected = references + 2.0 * outputs.sum() / 3.0
    torch.testing.assert_close(model(graph).energy[0], expected)


def test_there_are_no_forces():
    model = potential()
    assert not any("force" in name for name, _ in model.named_parameters())
    evaluation = evaluate(model, STRUCTURES)
    assert all(np.isnan(p.forces).all() for p in evaluation.predictions)
    assert evaluation.overall.forces is None
    atoms = slabs(1)[0]
    with pytest.warns(match="forces: none"):
        atoms.calc = TDNCalculator(model)
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError, match="energies alone"):
        atoms.get_forces()


def test_only_the_nearest_neighbors_are_seen():
    model = potential(max_neighbors=4)
    assert model.config.nearest_neighbors == 4
    few = collate([AtomGraph.from_structure(s, 5.0, max_neighbors=4) for s in STRUCTURES])
    assert few.num_edges < collate([AtomGraph.from_structure(s, 5.0) for s in STRUCTURES]).num_edges
    torch.testing.assert_close(model(few).energy, energies(model), rtol=0, atol=0)


def test_bond_order_enters_the_embedding_and_keeps_the_symmetry():
    model = potential(bond_order_lmax=9, max_neighbors=20, r_max=6.0)
    weight = dict(model.named_parameters())["network.bond_order.weight"]
    assert weight.shape == (8, 10)
    before = energies(model)
    turned = []
    for structure, rotation in zip(STRUCTURES, Rotation.random(3, random_state=0), strict=True):
        atoms = structure.to_ase()
        matrix = rotation.as_matrix()
        atoms.set_cell(atoms.cell.array @ matrix.T, scale_atoms=True)
        turned.append(Structure.from_ase(atoms))
    torch.testing.assert_close(energies(model, turned), before, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        weight.zero_()
    assert (energies(model) - before).abs().min() > 1e-6


def test_the_model_file_keeps_all_of_it(tmp_path):
    model = potential(energy_mean=-1.5, energy_std=2.0, bond_order_lmax=3)
    save_model(tmp_path / "model.tdn", model)
    torch.testing.assert_close(energies(load_model(tmp_path / "model.tdn")), energies(model), rtol=0, atol=0)


def test_a_normaliser_without_such_energies_is_refused():
    with pytest.raises(ConfigError, match="belong to energy: per_structure"):
        potential(energy="extensive", energy_mean=-1.5)


def test_checks_fail_only_what_is_not_claimed():
    results = run_checks(potential(energy_mean=-1.5), STRUCTURES[:2], dtypes=(torch.float64,), quick=True)
    assert {result.name for result in results if not result.passed} == set()
    broken = {result.name for result in results if not result.within_limit}
    assert {"lone atoms", "forces", "NVE drift", "extensivity"} <= broken
