"""The paper's network: its size, its ablations as one function, what it breaks, and that each repair repairs it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule

from tdn import Structure, TDNCalculator, load_model, save_model
from tdn.calculator import PhysicsWarning
from tdn.checks import contract as checks
from tdn.checks import probes, run_checks
from tdn.cp.tables import load_table
from tdn.errors import ConfigError
from tdn.graph import AtomGraph, Prediction, collate
from tdn.models.architectures import build_potential, parse_model_config
from tdn.models.compiled import compiler_available
from tdn.models.paper import PaperTDN, PaperTDNConfig
from tdn.models.paper_potential import PaperPotential
from tdn.nn.edge_product import TableProduct

REFERENCES = {1: -13.6, 6: -1029.0, 8: -2042.0}
SMALL = {"num_channels": 8, "num_layers": 2, "num_gaussians": 8, "num_heads": 2, "architecture": "PaperTDN"}
REPAIRED = {
    **{"products": "exact", "parity": "natural", "energy": "extensive", "forces": "gradient"},
    **{"envelope": True, "lone_atoms": "kept", "max_neighbors": None},
}


def make_potential(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> PaperPotential:
    torch.manual_seed(seed)
    potential = build_potential(parse_model_config({**SMALL, **changes}), REFERENCES, 1.5, {1: -2.0, 6: -7.0})
    assert isinstance(potential, PaperPotential)
    return potential.to(dtype).eval()


def lively_potential(**changes: Any) -> PaperPotential:
    """Fresh weights hardly depend on the geometry, and checks compare with how much energies do: these depend more."""
    potential = make_potential(**changes)
    with torch.no_grad():
        potential.shift.zero_()
        potential.network.embedding.mul_(0.2)
        for name, parameter in potential.network.named_parameters():
            if "radial" in name or name.startswith("degree_embedding.out"):
                parameter.add_(torch.randn_like(parameter))
    return potential


def graph_of(*names: str, r_max: float = 4.5) -> AtomGraph:
    return collate([AtomGraph.from_structure(Structure.from_ase(molecule(name)), r_max) for name in names])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lmax": 1}, 4_476_676),
        ({"lmax": 2}, 4_480_004),
        ({"lmax": 3}, 4_483_332),
        ({"forces": "gradient"}, 4_044_163),
        ({"num_channels": 128, "num_layers": 4, "num_gaussians": 128}, 883_332),
    ],
)
def test_parameters_are_as_many_as_published(changes: dict[str, Any], expected: int) -> None:
    network = PaperTDN(PaperTDNConfig.parse(changes), [1, 6])
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(("lmax", "millions"), [(1, 5.0), (2, 6.3), (3, 8.9)])
def test_path_weights_cost_what_the_paper_says(lmax: int, millions: float) -> None:
    network = PaperTDN(PaperTDNConfig(lmax=lmax, products="cg_paths"), [1])
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_exact_factors_and_exact_couplings_are_one_function(lmax: int) -> None:
    graph = graph_of("CH3CH2OH", "H2O")
    predictions = []
    for products in ("exact", "cg", "cp"):
        potential = make_potential(lmax=lmax, products=products)
        predictions.append(potential(graph))
    exact, couplings, fitted = predictions
    assert torch.allclose(exact.energy, couplings.energy, rtol=0, atol=1e-11)
    assert torch.allclose(exact.forces, couplings.forces, rtol=0, atol=1e-11)
    distance = (fitted.forces - exact.forces).norm() / exact.forces.norm()
    assert 1e-4 < distance < 0.5


def test_path_weights_that_are_equal_are_shared_weights() -> None:
    shared, free = make_potential(products="cg", lmax=2), make_potential(products="cg_paths", lmax=2)
    state = shared.state_dict()
    expanded = {}
    for name, value in free.state_dict().items():
        source = state[name]
        # The last layer of a radial network has a row for every path and channel.
        expanded[name] = source if source.shape == value.shape else source.repeat(15, *[1] * (source.dim() - 1))
    free.load_state_dict(expanded)
    graph = graph_of("CH3CH2OH")
    assert torch.allclose(free(graph).energy, shared(graph).energy, rtol=0, atol=1e-10)


def turned(structure: Structure, improper: bool = False) -> tuple[Structure, np.ndarray]:
    from tdn.cp.couplings import random_rotations

    matrix = random_rotations(1, np.random.default_rng(1), improper)[0]
    return probes.transformed(structure, matrix), matrix


@pytest.mark.parametrize(
    ("changes", "improper", "holds"),
    [
        ({"products": "exact"}, False, True),
        ({"products": "cg_paths", "shared_linear": False}, False, True),
        ({"products": "exact"}, True, False),
        ({"products": "exact", "parity": "natural"}, True, True),
        ({"products": "cg_paths", "parity": "natural"}, True, True),
        ({"products": "cp"}, False, False),
    ],
)
def test_direct_forces_turn_with_the_molecule_if_products_are_exact(
    changes: dict[str, Any], improper: bool, holds: bool
) -> None:
    potential = make_potential(lmax=2, **changes)
    structure = probes.probe_structures(sorted(REFERENCES), 4.5)[0]
    other, matrix = turned(structure, improper)
    first, second = (potential(AtomGraph.from_structure(s, 4.5)).forces.numpy() for s in (structure, other))
    assert (np.abs(second - first @ matrix.T).max() < 1e-10 * np.abs(first).max()) == holds


def test_repaired_network_fulfils_the_whole_contract() -> None:
    potential = lively_potential(**REPAIRED)
    assert potential.config.not_claimed == {}
    results = run_checks(potential, quick=True, dtypes=(torch.float64,))
    assert [result for result in results if not result.passed or not result.claimed] == []


def test_published_network_breaks_what_it_says_and_nothing_else() -> None:
    potential = lively_potential(products="cp")
    results = run_checks(potential, quick=True, dtypes=(torch.float64,))
    names = {result.name.removesuffix(" float64") for result in results if not result.within_limit}
    expected = {"rotation", "reflection", "extensivity", "forces", "stress", "smooth cutoff", "NVE drift"}
    assert names == {*expected, "no neighbor truncation"}
    assert all(result.passed for result in results)
    assert names <= set(potential.config.not_claimed)


@pytest.mark.parametrize(
    ("option", "check"),
    [
        ({"envelope": False}, "smooth cutoff"),
        ({"parity": "all"}, "reflection"),
        ({"products": "cp", "parity": "all"}, "rotation"),
        ({"max_neighbors": 20}, "no neighbor truncation"),
        ({"max_neighbors": 20}, "permutation"),
        ({"forces": "direct"}, "forces"),
        ({"energy": "per_atom", "lone_atoms": "deleted"}, "extensivity"),
        ({"energy": "per_atom", "lone_atoms": "deleted"}, "forces"),
        ({"lone_atoms": "deleted"}, "smooth cutoff"),
    ],
    ids=str,
)
def test_each_option_left_as_published_is_named(option: dict[str, Any], check: str) -> None:
    assert check in PaperTDNConfig.parse({**REPAIRED, **option}).not_claimed


def test_truncation_keeps_the_first_neighbours_or_the_nearest() -> None:
    structure = probes.probe_structures(sorted(REFERENCES), 4.5)[-1]
    first, nearest, every = (
        make_potential(max_neighbors=limit, truncation=which, products="exact")
        for limit, which in ((6, "first"), (6, "nearest"), (None, "first"))
    )
    graph = AtomGraph.from_structure(structure, 4.5)
    seen = first.visible(graph)
    for atom in range(len(structure)):
        expected = graph.senders[graph.receivers == atom].sort().values[:6]
        assert torch.equal(seen.senders[seen.receivers == atom].sort().values, expected)
    assert nearest.visible(graph).num_edges < every.visible(graph).num_edges == graph.num_edges
    assert checks.check_permutation(nearest, [structure]).passed
    assert not checks.check_permutation(first, [structure]).passed


def test_lone_atoms_have_their_references_beside_molecules() -> None:
    atoms = molecule("CH3CH2OH")
    atoms += type(atoms)("O", positions=[[30.0, 0.0, 0.0]])
    graph = AtomGraph.from_structure(Structure.from_ase(atoms), 4.5)
    for changes in ({}, {"energy": "extensive", "lone_atoms": "kept"}, {"forces": "gradient"}):
        prediction = make_potential(**changes)(graph)
        assert prediction.energies[-1] == REFERENCES[8]
        assert prediction.forces[-1].abs().max() == 0.0
        assert prediction.forces[:-1].abs().max() > 0.0


def test_energy_per_atom_is_the_sum_over_the_root_of_the_mean_size() -> None:
    potential = make_potential(avg_num_nodes=9.0)
    with torch.no_grad():
        potential.shift.zero_()
        potential.network.embedding.mul_(0.2)
    graph = graph_of("CH3CH2OH")
    energies = potential.network(graph.edge_vectors(), potential.element_index[graph.numbers], graph.senders,
                                 graph.receivers)[0]  # fmt: skip
    references = potential.reference_energies[potential.element_index[graph.numbers]].sum()
    expected = graph.num_atoms * potential.scale * energies.sum() / 3.0
    assert torch.allclose(potential(graph).energy - references, expected, rtol=1e-9)


def test_calculator_warns_of_what_is_not_claimed_and_has_no_stress_without_a_virial() -> None:
    from ase.calculators.calculator import PropertyNotImplementedError

    with pytest.warns(PhysicsWarning, match="not the gradient of the energy"):
        calculator = TDNCalculator(make_potential(), device="cpu")
    atoms = molecule("H2O", vacuum=5.0, pbc=True)
    atoms.calc = calculator
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="no stress"):
        atoms.get_stress()


def test_model_file_returns_the_same_potential_and_says_what_it_does_not_claim(tmp_path: Path) -> None:
    potential = make_potential(lmax=2)
    # As in a checkpoint of the public code, where every product may have factors of its own.
    products = [module for module in potential.modules() if isinstance(module, TableProduct)]
    table = products[1].table
    products[1].set_table(dataclasses.replace(table, in1=1.01 * table.in1, stored_certificate=None))
    save_model(tmp_path / "model.tdn", potential)
    loaded = load_model(tmp_path / "model.tdn")
    graph = graph_of("CH3CH2OH")
    assert type(loaded) is PaperPotential
    assert loaded.config == potential.config
    assert torch.equal(loaded(graph).energy, potential(graph).energy)
    assert torch.equal(loaded(graph).forces, potential(graph).forces)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"architecture": "Paper"}, "no architecture 'Paper'"),
        ({"architecture": "PaperTDN", "num_chanels": 3}, "did you mean 'num_channels'"),
        ({"architecture": "PaperTDN", "num_channels": 6, "num_heads": 4}, "multiple of num_heads"),
        ({"architecture": "PaperTDN", "parity": "natural"}, "products: exact"),
        ({"architecture": "PaperTDN", "lone_atoms": "kept"}, "energy: extensive"),
    ],
)
def test_wrong_configurations_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_model_config(content)


def test_elements_beyond_the_embedding_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_atom_types to 84"):
        build_potential(parse_model_config(SMALL), {1: 0.0, 83: 0.0})


def loss(prediction: Prediction) -> torch.Tensor:
    return prediction.energy.sum() * 1e-3 + prediction.forces.square().sum()


@pytest.mark.slow
@pytest.mark.skipif(not compiler_available(), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("changes", [{}, REPAIRED], ids=["published", "repaired"])
def test_compiled_agrees_in_training_and_evaluation(changes: dict[str, Any]) -> None:
    graph = graph_of("CH3CH2OH", "H2O")
    results = []
    for compiled in (False, True):
        potential = make_potential(num_layers=1, dropout=0.0, **changes)
        if compiled:
            potential.compile()
        prediction = potential.train()(graph)
        loss(prediction).backward()
        gradient = torch.cat([p.grad.flatten() for p in potential.parameters() if p.grad is not None])
        results.append(
            (prediction.energy.detach(), prediction.forces.detach(), gradient, potential.eval()(graph).forces)
        )
    for eager, fast in zip(*results, strict=True):
        assert torch.allclose(eager, fast, rtol=1e-9, atol=1e-10)


def test_dropout_acts_in_training_only() -> None:
    potential, graph = make_potential(dropout=0.5), graph_of("CH3CH2OH")
    assert torch.equal(potential(graph).energy, potential(graph).energy)
    potential.train()
    assert not torch.equal(potential(graph).energy, potential(graph).energy)


def test_fits_are_no_exact_tables() -> None:
    assert not load_table(2, 2, 2, "all", "paper").certificate.exact
    assert load_table(2, 2, 2, "all", 32).weight_range == (1.0, 1.0)
