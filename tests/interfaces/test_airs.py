"""Checkpoints of the public code give its energies and forces, and what is wrong with them can be repaired or is named.

`airs_vectors.npz` was computed by running the public code (divelab/AIRS at 4a16c68, float32, CPU): random weights of
two small networks, 100 molecules (lone atoms, far fragments, every element of PubChemQCR and close contacts among
them), and energies per atom (eV) and forces (eV/Å, NaN for atoms that it deletes) with the force head, by gradient,
and with at most six neighbours an atom.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tdn import Structure, load_model
from tdn.checks import contract as checks
from tdn.cli.import_airs import app
from tdn.cp.projection import equivariant_part
from tdn.cp.tables import load_table
from tdn.errors import ModelFileError
from tdn.graph import AtomGraph, collate
from tdn.interfaces.airs import read_airs

VECTORS = Path(__file__).with_name("airs_vectors.npz")
RELATIVE = 1e-4
KINDS = {"direct": {}, "gradient": {"forces": "gradient"}, "limit6": {"max_neighbors": 6}}


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    with np.load(VECTORS, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


@pytest.fixture(scope="module")
def molecules(vectors) -> list[Structure]:
    ends = np.cumsum(vectors["sizes"].astype(int))[:-1]
    split = (np.split(vectors[name], ends) for name in ("numbers", "positions"))
    return [
        Structure(numbers.astype(np.int64), positions.astype(np.float64), np.zeros((3, 3)), np.zeros(3, dtype=bool))
        for numbers, positions in zip(*split, strict=True)
    ]


def state_of(vectors: dict[str, np.ndarray], lmax: int, prefix: str = "") -> dict[str, torch.Tensor]:
    start = f"l{lmax}.weights."
    return {
        prefix + name.removeprefix(start): torch.from_numpy(value)
        for name, value in vectors.items()
        if name.startswith(start)
    }


@pytest.fixture
def checkpoint(vectors, tmp_path: Path) -> Path:
    torch.save(state_of(vectors, 1), tmp_path / "TDN_best_model.pth")
    return tmp_path / "TDN_best_model.pth"


@pytest.mark.parametrize("lmax", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_energies_and_forces_are_those_of_the_public_code(vectors, molecules, tmp_path, lmax: int, kind: str) -> None:
    torch.save(state_of(vectors, lmax), tmp_path / "model.pth")
    potential = read_airs(tmp_path / "model.pth", **KINDS[kind])
    assert potential.dtype == torch.float32
    assert len(molecules) == 100
    graph = collate([AtomGraph.from_structure(molecule, potential.r_max) for molecule in molecules])
    prediction = potential(graph)
    above = prediction.energies - potential.reference_energies[potential.element_index[graph.numbers]]
    energy = above.new_zeros(graph.num_graphs).index_add(0, graph.batch, above) / graph.batch.bincount()
    expected, forces = vectors[f"l{lmax}.{kind}.energy"], vectors[f"l{lmax}.{kind}.forces"]
    deleted = np.isnan(forces[:, 0])
    assert deleted.sum() == 6
    found = prediction.forces.numpy()
    assert np.abs(energy.numpy() - expected).max() < RELATIVE * np.abs(expected).max()
    assert np.abs(found - forces)[~deleted].max() < RELATIVE * np.abs(forces[~deleted]).max()
    assert np.abs(found[deleted]).max() == 0.0


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", ""])
def test_prefixes_of_wrappers_do_not_matter(vectors, checkpoint, tmp_path, prefix: str) -> None:
    state = {
        prefix + (name.replace("blocks.0.", "blocks.0._orig_mod.").replace("blocks.1.", "blocks.1._orig_mod.")): value
        for name, value in state_of(vectors, 1).items()
    }
    torch.save({"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}}, tmp_path / "checkpoint.pth")
    plain, wrapped = read_airs(checkpoint), read_airs(tmp_path / "checkpoint.pth")
    for name, value in plain.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[name])


def test_moving_average_is_read_if_asked_for(vectors, tmp_path) -> None:
    state = state_of(vectors, 1)
    shadow = [2.0 * value for name, value in state.items() if ".cp_tp." not in name]
    content: dict[str, Any] = {"model_state_dict": state, "ema_state_dict": {"decay": 0.995, "shadow_params": shadow}}
    torch.save(content, tmp_path / "checkpoint.pth")
    raw, averaged = read_airs(tmp_path / "checkpoint.pth"), read_airs(tmp_path / "checkpoint.pth", averaged=True)
    for name, value in raw.network.state_dict().items():
        assert torch.equal(averaged.network.state_dict()[name], 2.0 * value)


def test_wrong_files_are_refused_with_a_reason(vectors, checkpoint, tmp_path) -> None:
    state = state_of(vectors, 1)
    name = "blocks.1.attn.proj.linear.weight"
    cases = {
        "older version": {**state, "edge_embed.tp.cp_tp.cp_u": torch.zeros(4, 7)},
        f"lacks {name}": {key: value for key, value in state.items() if key != name},
        "has the shape|gives": {**state, name: torch.zeros(16, 15)},
        r"rank\)": {**state, "force_head.tp1.cp_tp.cp_b": torch.zeros(9, 7)},
        "has tensors that the public network has not: surplus": {**state, "surplus": torch.zeros(1)},
        "no checkpoint of TDN's public code": {"conv.weight": torch.zeros(3)},
        "holds a list": [1, 2],
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "wrong.pth")
        with pytest.raises(ModelFileError, match=message):
            read_airs(tmp_path / "wrong.pth")
    with pytest.raises(ModelFileError, match="no moving average"):
        read_airs(checkpoint, averaged=True)
    with pytest.raises(ModelFileError, match="No checkpoint at"):
        read_airs(tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ModelFileError, match="tensors alone"):
        read_airs(tmp_path / "text.pth")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"model_state_dict": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(ModelFileError, match="nothing else is read"):
        read_airs(tmp_path / "harmful.pth")
    assert not (tmp_path / "harm").exists()


def test_equivariant_part_is_exact_and_the_nearest() -> None:
    fit = load_table(2, 2, 2, "all", "paper")
    part = equivariant_part(fit)
    assert part.certificate.residual < 1e-13
    error = fit.reconstruct() - part.reconstruct()
    assert np.abs((error * part.reconstruct()).sum()) < 1e-10
    assert np.linalg.norm(error) <= np.linalg.norm(fit.reconstruct() - fit.coupling()) + 1e-12


@pytest.mark.parametrize(
    ("repair", "check"),
    [
        ({"products": "exact"}, checks.check_rotation),
        ({"products": "exact", "mirror_average": True}, checks.check_reflection),
        ({"energy": "per_fragment"}, checks.check_extensivity),
        ({"forces": "conservative"}, checks.check_forces),
        ({"max_neighbors": None}, checks.check_neighbors_all_count),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.__name__,
)
def test_repairs_without_training_repair(checkpoint, molecules, repair: dict[str, Any], check) -> None:
    structures = molecules[:2]
    published, repaired = (read_airs(checkpoint, **options).double() for options in ({}, repair))
    assert check(repaired, structures).passed
    assert not check(published, structures).passed


def test_repairs_leave_connected_molecules_alone_where_they_can(checkpoint, molecules) -> None:
    graph = AtomGraph.from_structure(molecules[0], 4.5)
    published = read_airs(checkpoint)(graph)
    untouched = read_airs(checkpoint, energy="per_fragment", max_neighbors=None)(graph)
    assert torch.equal(published.energy, untouched.energy)
    assert torch.equal(published.forces, untouched.forces)


def test_command_writes_a_model_that_says_what_it_breaks(checkpoint, tmp_path) -> None:
    output = tmp_path / "model.tdn"
    result = CliRunner().invoke(app, [str(checkpoint), "-o", str(output), "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    assert "not the gradient of the energy" in result.output
    assert "--repair mirror" in result.output
    content = json.loads((tmp_path / "out.json").read_text())
    assert {check["name"] for check in content["checks"] if not check["claimed"]} >= {"forces", "extensivity"}
    assert load_model(output).config.not_claimed
    repaired = [str(checkpoint), "-o", str(output), "--repair", "all", "--no-check"]
    result = CliRunner().invoke(app, repaired)
    assert result.exit_code == 0, result.output
    assert set(load_model(output).config.not_claimed) == {"smooth cutoff", "NVE drift"}
