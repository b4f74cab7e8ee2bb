"""The network, the potential around it, and its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from ase.build import molecule

from tdn import Potential, Structure, TDNConfig, load_model, save_model
from tdn.checks import probes
from tdn.errors import DataError, ModelFileError
from tdn.graph import AtomGraph, collate
from tdn.modelfile import read_header
from tdn.models.tdn import SATURATION, saturate

REFERENCES = {1: -13.6, 6: -1029.0, 8: -2042.0}


def make_potential(seed: int = 0, **changes: object) -> Potential:
    config = TDNConfig.parse({"num_channels": 8, "r_max": 4.0, "radial_hidden": [16], **changes})
    torch.manual_seed(seed)
    return Potential(config, REFERENCES, scale=1.5, shifts={1: -2.0, 6: -7.0}).double().eval()


def graph(r_max: float = 4.0) -> AtomGraph:
    structures = probes.probe_structures(sorted(REFERENCES), 4.0)
    return collate([AtomGraph.from_structure(structure, r_max) for structure in structures])


@pytest.mark.parametrize(
    "changes",
    [{}, {"lmax": 3}, {"parity": "all"}, {"product_order": 1}, {"shared_linear": True}, {"element_matrices": 2}],
)
def test_exact_twin_is_the_same_function_of_the_same_state(changes: dict[str, object]) -> None:
    cp, exact = make_potential(**changes), make_potential(seed=1, products="exact", **changes)
    exact.load_state_dict(cp.state_dict(), strict=True)
    assert cp.state_dict().keys() == exact.state_dict().keys()
    first, second = cp(graph()), exact(graph())
    above = first.energies - cp.reference_energies[cp.element_index[graph().numbers]]
    assert above.abs().max() > 1e-2
    torch.testing.assert_close(first.energies, second.energies, atol=1e-11, rtol=0)
    scale = float(first.forces.square().mean().sqrt())
    torch.testing.assert_close(first.forces / scale, second.forces / scale, atol=1e-11, rtol=0)


def test_edges_beyond_the_cutoff_contribute_exactly_nothing() -> None:
    potential, wide = make_potential(), graph(r_max=6.0)
    vectors, species = wide.edge_vectors(), potential.element_index[wide.numbers]
    _, forces = potential.energies_and_edge_forces(vectors, species, wide.senders, wide.receivers)
    beyond = vectors.norm(dim=-1) > potential.r_max
    assert beyond.sum() > 100
    assert (forces[beyond] == 0.0).all()
    torch.testing.assert_close(potential(wide).energies, potential(graph()).energies, atol=0, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_mode_gives_second_derivatives_and_evaluation_mode_no_graph(dtype: torch.dtype) -> None:
    potential = make_potential().to(dtype)
    assert not potential(graph()).forces.requires_grad
    assert not potential(graph()).energy.requires_grad
    prediction = potential.train()(graph())
    (prediction.energy.sum() + prediction.forces.square().sum()).backward()
    # Features that nobody reads have no gradient; every other parameter has one that is finite.
    gradients = [parameter.grad for parameter in potential.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_forces_sum_to_zero_and_stress_is_symmetric() -> None:
    prediction = make_potential()(graph())
    total = torch.zeros(4, 3, dtype=torch.float64).index_add(0, graph().batch, prediction.forces)
    assert total.abs().max() < 1e-11
    assert torch.equal(prediction.stress[3], prediction.stress[3].T)
    assert prediction.stress[:3].isnan().all()


def test_total_energies_keep_float64_references_in_a_float32_model() -> None:
    potential = make_potential().float()
    assert potential.reference_energies.dtype == torch.float64
    lone = AtomGraph.from_structure(Structure.from_ase(molecule("O")), 4.0)
    assert float(potential(lone).energy) == REFERENCES[8]


def test_same_seed_same_model() -> None:
    first, second, other = make_potential(3), make_potential(3), make_potential(4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.network.embedding, other.network.embedding)


def test_unknown_elements_are_named() -> None:
    with pytest.raises(DataError, match="knows H, C, O; the structure also has N"):
        make_potential().check_elements([7, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_file_gives_the_same_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    potential = make_potential(lmax=1).to(dtype)
    save_model(tmp_path / "model.tdn", potential, {"note": "x"})
    loaded = load_model(tmp_path / "model.tdn")
    assert loaded.dtype == dtype
    assert read_header(tmp_path / "model.tdn")["metadata"] == {"note": "x"}
    for field in dataclasses.fields(first := potential(graph())):
        a, b = getattr(first, field.name), getattr(loaded(graph()), field.name)
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tdn"
    with pytest.raises(ModelFileError, match="No model file"):
        load_model(path)
    save_model(path, make_potential())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(path)
    path.write_bytes(content.replace(b'\\"format_version\\": 2', b'\\"format_version\\": 9'))
    with pytest.raises(ModelFileError, match="Upgrade tdn"):
        load_model(path)


def test_files_of_the_first_format_have_cubic_splines(tmp_path: Path) -> None:
    path = tmp_path / "model.tdn"
    save_model(path, make_potential(radial_degree=3))
    content = path.read_bytes()
    # What the first format did not say is taken out and made up for with blanks.
    old = content.replace(b'\\"format_version\\": 2', b'\\"format_version\\": 1')
    key = b', \\"radial_degree\\": 3'
    assert old.count(key) == 1
    path.write_bytes(old.replace(key, b" " * len(key)))
    loaded = load_model(path)
    assert isinstance(loaded.config, TDNConfig)
    assert loaded.config.radial_degree == 3
    torch.testing.assert_close(loaded(graph()).energy, make_potential(radial_degree=3)(graph()).energy)


def test_messages_saturate_channel_by_channel() -> None:
    torch.manual_seed(0)
    message = torch.randn(9, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(saturate(1e-4 * message), 1e-4 * message, rtol=1e-6, atol=0)
    large = saturate(1e4 * message)
    torch.testing.assert_close(
        large.square().mean(0).sqrt(), torch.full((5, 4), SATURATION).double(), rtol=1e-6, atol=0
    )
    message[:, :, 1:] = 0
    assert (saturate(message)[:, :, 1:] == 0).all()
