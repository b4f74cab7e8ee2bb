"""The physics contract passes on a sound model, and every check fails on a model that is broken in its way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from torch import Tensor
from typer.testing import CliRunner

from tdn import Potential, Structure, TDNConfig, save_model
from tdn.checks import CheckResult, check_compiled, probes, run_checks
from tdn.checks import contract as checks
from tdn.checks.dynamics import check_nve
from tdn.checks.measure import energies_above_reference, mark_claims
from tdn.cli.check import app
from tdn.errors import DataError
from tdn.graph import AtomGraph, Prediction

CONFIG = TDNConfig(num_channels=8, num_layers=2, r_max=4.0, radial_hidden=(16,), element_matrices=2)
REFERENCES = {1: -13.6, 6: -1029.0, 8: -2042.0}
Network = Callable[..., Tensor]


def make_potential(kind: type[Potential] = Potential, config: TDNConfig = CONFIG, dtype=torch.float64) -> Potential:
    torch.manual_seed(0)
    return kind(config, REFERENCES, scale=1.5).to(dtype).eval()


def structures() -> tuple[Structure, ...]:
    return probes.probe_structures(sorted(REFERENCES), CONFIG.r_max)


class Directional(Potential):
    """Knows where up is."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        energies = super().atomic_energies(vectors, species, senders, receivers)
        return energies.index_add(
            0, receivers, 1e-4 * vectors[:, 2] ** 2 * (4.0 - vectors.norm(dim=-1)).clamp(min=0) ** 3
        )


class Handed(Potential):
    """Adds a triple product, which a mirror turns round."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        energies = super().atomic_energies(vectors, species, senders, receivers)
        weight = (1.0 - vectors.square().sum(-1) / 16.0).clamp(min=0) ** 3
        moments = [
            energies.new_zeros(len(energies), 3).index_add(
                0, receivers, (weight**k * species[senders])[:, None] * vectors
            )
            for k in (1, 2, 3)
        ]
        return energies + 1e-3 * torch.linalg.det(torch.stack(moments, dim=1))


class Absolute(Potential):
    """Adds a field that is fixed in space."""

    def forward(self, graph: AtomGraph) -> Prediction:
        prediction = super().forward(graph)
        return dataclasses.replace(prediction, energy=prediction.energy + 1e-6 * graph.positions.sum())


class Ordered(Potential):
    """Prefers the first half of the atoms."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        energies = super().atomic_energies(vectors, species, senders, receivers)
        return energies * (1.0 + 1e-3 * (torch.arange(len(energies)) % 2))


class NotExtensive(Potential):
    """Adds the square of the mean over all atoms that it is given."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        energies = super().atomic_energies(vectors, species, senders, receivers)
        return energies + 1e-6 * energies.mean() ** 2


class Truncating(Potential):
    """Sees the 24 nearest neighbours of each atom only."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        distances = vectors.detach().norm(dim=-1)
        kept = torch.cat(
            [e[distances[e].argsort()[:24]] for n in receivers.unique() for e in [(receivers == n).nonzero()[:, 0]]]
        )
        return super().atomic_energies(vectors[kept], species, senders[kept], receivers[kept])


class HardCutoff(Potential):
    """A pair term that ends at the cutoff without an envelope."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        energies = super().atomic_energies(vectors, species, senders, receivers)
        distances = vectors.norm(dim=-1)
        return energies.index_add(0, receivers, torch.where(distances < 4.0, 1e-3 / distances, 0.0))


class KinkedCutoff(Potential):
    """An envelope that is continuous but has a kink at the cutoff."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        energies = super().atomic_energies(vectors, species, senders, receivers)
        return energies.index_add(0, receivers, 1e-3 * (4.0 - vectors.norm(dim=-1)).clamp(min=0.0))


class ScaledForces(Potential):
    """Forces that are 1 % too large, as of a head of their own."""

    def forward(self, graph: AtomGraph) -> Prediction:
        prediction = super().forward(graph)
        return dataclasses.replace(prediction, forces=1.01 * prediction.forces)


class WrongStress(Potential):
    """The sign of the stress of other codes."""

    def forward(self, graph: AtomGraph) -> Prediction:
        prediction = super().forward(graph)
        return dataclasses.replace(prediction, stress=-prediction.stress)


class Offset(Potential):
    """A lone atom is off its reference."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        return super().atomic_energies(vectors, species, senders, receivers) + 1e-6


class Coarse(Potential):
    """Rounds its input to three digits when it computes in float32."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        if vectors.dtype == torch.float32:
            vectors = vectors + ((vectors * 1e3).round() / 1e3 - vectors).detach()
        return super().atomic_energies(vectors, species, senders, receivers)


class Undefined(Potential):
    """Gives NaN for an atom without neighbours and in every sum."""

    def atomic_energies(self, vectors: Tensor, species: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        energies = super().atomic_energies(vectors, species, senders, receivers)
        return energies + torch.nan * energies[:1]


BROKEN: dict[str, tuple[type[Potential], Callable[[Potential], CheckResult]]] = {
    "rotation": (Directional, lambda p: checks.check_rotation(p, structures()[:2])),
    "reflection": (Handed, lambda p: checks.check_reflection(p, structures())),
    "permutation": (Ordered, lambda p: checks.check_permutation(p, structures())),
    "batching": (NotExtensive, lambda p: checks.check_batching(p, structures())),
    "extensivity": (NotExtensive, lambda p: checks.check_extensivity(p, structures())),
    "energy sums": (Absolute, lambda p: checks.check_energy_sums(p, structures())),
    "lone atoms": (Offset, checks.check_lone_atoms),
    "lone atoms NaN": (Undefined, checks.check_lone_atoms),
    "rotation NaN": (Undefined, lambda p: checks.check_rotation(p, structures())),
    "forces": (ScaledForces, lambda p: checks.check_forces(p, structures())),
    "stress": (WrongStress, lambda p: checks.check_stress(p, structures()[-1:])),
    "hard cutoff": (HardCutoff, lambda p: checks.check_cutoff(p, structures())),
    "kinked cutoff": (KinkedCutoff, lambda p: checks.check_cutoff(p, structures())),
    "neighbors": (Truncating, lambda p: checks.check_neighbors_all_count(p, structures())),
    "NVE": (ScaledForces, lambda p: check_nve(p, structures()[0])),
    "float32": (
        Coarse,
        lambda p: checks.check_precision(p, make_potential(Coarse, dtype=torch.float32), structures()),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_check_fails_on_a_model_that_is_broken_in_its_way_and_passes_on_a_sound_one(name: str) -> None:
    kind, check = BROKEN[name]
    sound = check(make_potential())
    if name != "float32":
        assert sound.passed, sound
    broken = check(make_potential(kind))
    assert not broken.passed, broken
    assert not broken.measured <= broken.limit


def test_translation_check_sees_absolute_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = make_potential()
    assert checks.check_translation(potential, structures()).passed
    original = energies_above_reference

    def in_a_field(model: Potential, moved: list[Structure]) -> np.ndarray:
        return original(model, moved) + 1e-9 * np.array([structure.positions.sum() for structure in moved])

    monkeypatch.setattr(checks, "energies_above_reference", in_a_field)
    assert not checks.check_translation(potential, structures()).passed


def test_a_mirror_image_tells_only_the_handed_model() -> None:
    potential = make_potential(Handed)
    assert checks.check_rotation(potential, structures()).passed


@pytest.mark.parametrize(
    "config",
    [CONFIG, TDNConfig(lmax=1, num_channels=4, r_max=4.0), TDNConfig(lmax=3, num_channels=4, num_layers=1, r_max=4.0)],
)
def test_contract_holds(config: TDNConfig) -> None:
    results = run_checks(make_potential(config=config, dtype=torch.float32), quick=True)
    assert len({result.name for result in results}) == len(results) == 18
    assert [result for result in results if not result.passed or not result.claimed] == []


def test_all_paths_break_mirror_symmetry_and_say_so() -> None:
    potential = make_potential(config=CONFIG.model_copy(update={"parity": "all"}))
    (result,) = mark_claims([checks.check_reflection(potential, structures())], potential.config.not_claimed)
    assert result.measured > 1e3 * result.limit
    assert not result.within_limit
    assert result.passed
    assert not result.claimed
    assert "mirror images" in result.detail


def test_compiled_form_is_compared() -> None:
    potential = make_potential()
    assert check_compiled(potential, potential, structures()).measured == 0.0
    assert not check_compiled(potential, make_potential(ScaledForces), structures()).passed


def test_own_structures_may_be_primitive_cells_and_molecules() -> None:
    potential = make_potential()
    own = [Structure.from_ase(atoms) for atoms in (bulk("C", "fcc", a=3.5), molecule("H2O"))]
    # A lone atom in vacuum has no energy that could change; it is left out.
    own.append(Structure.from_ase(molecule("H")))
    assert checks._with_neighbors(potential, own)[0].numbers.tolist() == [6] * 8
    results = run_checks(potential, own, quick=True, dtypes=(torch.float64,))
    assert [result for result in results if not result.passed] == []


def test_unusable_structures_are_refused() -> None:
    with pytest.raises(DataError, match="at least two atoms within 4 Å"):
        run_checks(make_potential(), [Structure.from_ase(molecule("H"))])
    with pytest.raises(DataError, match="also has N"):
        run_checks(make_potential(), [Structure.from_ase(molecule("NH3"))])


def test_probe_structures_are_deterministic_and_have_bonding_distances() -> None:
    first, second = (probes.probe_structures(range(1, 104), 5.0) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.positions, b.positions)
        graph = AtomGraph.from_structure(a, 5.0)
        radii = np.array([probes.covalent_radius(z) for z in a.numbers])
        bonds = graph.edge_vectors().norm(dim=-1).numpy() / (radii[graph.senders] + radii[graph.receivers])
        assert 0.98 < bonds.min() < 1.6


def test_command_prints_verdicts_and_writes_json(tmp_path: Path) -> None:
    save_model(tmp_path / "model.tdn", make_potential(config=CONFIG.model_copy(update={"parity": "all"})))
    molecule("CH3CH2OH").write(tmp_path / "ethanol.xyz")
    arguments = [str(tmp_path / "model.tdn"), str(tmp_path / "ethanol.xyz"), "--quick", "--dtype", "float64"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    assert "not claimed" in result.output
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["passed"] is True
    assert len(content["checks"]) == 14
    for check in content["checks"]:
        assert set(check) == {"name", "measured", "limit", "unit", "passed", "claimed", "detail"}
    assert [check["name"] for check in content["checks"] if not check["claimed"]] == ["reflection float64"]


def test_command_fails_with_exit_code_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model.tdn", make_potential())
    failure = CheckResult("forces", 0.01, 1e-6, "RMS force", passed=False, detail="finite differences")
    monkeypatch.setattr("tdn.checks.run_checks", lambda *_, **__: (failure,))
    result = CliRunner().invoke(app, [str(tmp_path / "model.tdn"), "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert json.loads((tmp_path / "out.json").read_text())["passed"] is False
