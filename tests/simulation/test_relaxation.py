"""Batched relaxation against ASE's own optimisers, one structure at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from tdn.calculator import TDNCalculator
from tdn.errors import ConfigError
from tdn.models.potential import Potential
from tdn.simulation.relaxation import RelaxSettings, relax, relax_each

from .conftest import LennardJones, cluster, crystal, water


def alone(potential: Potential, atoms: Atoms, optimizer: Any, cell: bool, fmax: float = 0.02) -> tuple[Atoms, int]:
    """The same relaxation by ASE and its calculator."""
    atoms = atoms.copy()
    atoms.calc = TDNCalculator(potential, device="cpu")
    moving = FrechetCellFilter(atoms) if cell and atoms.pbc.all() else atoms
    run = optimizer(moving, logfile=None)
    run.run(fmax=fmax, steps=200)
    return atoms, run.nsteps


@pytest.mark.parametrize(("name", "optimizer"), [("lbfgs", LBFGS), ("fire", FIRE), ("bfgs", BFGS)])
def test_batched_structures_take_the_path_they_take_alone(
    lennard_jones: LennardJones, name: str, optimizer: Any
) -> None:
    starts = [cluster(size, seed=size) for size in (2, 5, 8)]
    results = relax(lennard_jones, starts, RelaxSettings(fmax=0.02, optimizer=name))
    for start, result in zip(starts, results, strict=True):
        expected, steps = alone(lennard_jones, start, optimizer, cell=False)
        assert result.status == "converged"
        assert result.steps == steps > 0
        assert result.fmax < 0.02
        np.testing.assert_allclose(result.atoms.positions, expected.positions, atol=1e-8)
        assert result.atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-10)


def test_cells_relax_only_where_they_are_periodic(lennard_jones: LennardJones) -> None:
    slab = crystal()
    slab.pbc = (True, True, False)
    crystal_result, slab_result = relax(lennard_jones, [crystal(), slab], RelaxSettings(fmax=0.02, cell=True))
    expected, _ = alone(lennard_jones, crystal(), LBFGS, cell=True)
    np.testing.assert_allclose(crystal_result.atoms.cell.array, expected.cell.array, atol=1e-7)
    assert np.abs(crystal_result.atoms.get_stress()).max() < 1e-3
    np.testing.assert_array_equal(slab_result.atoms.cell.array, slab.cell.array)
    assert slab_result.status == "converged"


def test_pressure_compresses(lennard_jones: LennardJones) -> None:
    free, pressed = (
        relax(lennard_jones, [crystal()], RelaxSettings(fmax=0.01, cell=True, pressure=p))[0] for p in (0.0, 0.02)
    )
    assert pressed.atoms.get_volume() < free.atoms.get_volume() - 0.1
    assert np.trace(pressed.atoms.get_stress(voigt=False)) / 3 == pytest.approx(-0.02, abs=1e-3)


def test_fixed_atoms_stay_and_their_forces_do_not_count(lennard_jones: LennardJones) -> None:
    start = cluster(5)
    start.set_constraint(FixAtoms([0, 1]))
    (result,) = relax(lennard_jones, [start], RelaxSettings(fmax=0.02))
    assert result.status == "converged"
    np.testing.assert_array_equal(result.atoms.positions[:2], start.positions[:2])
    assert np.abs(result.atoms.positions[2:] - start.positions[2:]).max() > 0.01
    assert len(result.atoms.constraints) == 1


def test_results_do_not_depend_on_the_size_of_batches(network: Potential) -> None:
    starts = [water() for _ in range(5)]
    for k, atoms in enumerate(starts):
        atoms.rattle(0.05, seed=k)
    settings = RelaxSettings(steps=4, trajectory=True)
    together = relax(network, starts, settings)
    in_twos = relax(network, starts, settings, max_edges=12)
    for one, other in zip(together, in_twos, strict=True):
        assert one.index == other.index
        assert one.status == other.status
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-9)
        assert len(one.trajectory) == one.steps + 1


def test_what_is_wrong_with_one_structure_does_not_stop_the_others(lennard_jones: LennardJones) -> None:
    nan, unknown, overlapping = cluster(3), cluster(3), cluster(3)
    nan.positions[0] = np.nan
    unknown.numbers[:] = 79
    overlapping.positions[1] = overlapping.positions[0]
    empty, lone = Atoms(), Atoms("Ar")
    results = relax(lennard_jones, [nan, cluster(4), unknown, overlapping, empty, lone])
    assert [r.status for r in results] == ["failed", "converged", "failed", "failed", "failed", "converged"]
    for index, word in ((0, "NaN"), (2, "Au"), (3, "apart"), (4, "at least one atom")):
        assert word in results[index].message
    assert results[5].steps == 0


def test_structure_that_breaks_on_the_way_keeps_its_last_whole_geometry(
    lennard_jones: LennardJones, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = lennard_jones.forward

    def forward(graph: Any) -> Any:
        prediction = honest(graph)
        # The dimer is the first of the two structures; beyond 2.6 Å its potential breaks down.
        if graph.num_graphs == 2 and (graph.positions[0] - graph.positions[1]).norm() > 2.4:
            prediction.energy[0] = torch.nan
        return prediction

    monkeypatch.setattr(lennard_jones, "forward", forward)
    dimer = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 2.3]])
    broken, whole = relax(lennard_jones, [dimer, cluster(6)], RelaxSettings(fmax=1e-3))
    assert broken.status == "failed"
    assert "NaN" in broken.message
    assert np.isfinite(broken.atoms.positions).all()
    assert 2.3 <= broken.atoms.get_distance(0, 1) <= 2.4
    assert whole.status == "converged"


def test_unconverged_structures_are_kept_and_marked(lennard_jones: LennardJones) -> None:
    (result,) = relax(lennard_jones, [cluster(8)], RelaxSettings(fmax=1e-6, steps=2))
    assert result.status == "unconverged"
    assert result.steps == 2
    assert result.fmax > 1e-6


def test_full_memory_makes_batches_smaller(lennard_jones: LennardJones, monkeypatch: pytest.MonkeyPatch) -> None:
    honest: Callable[[Any], Any] = lennard_jones.forward
    sizes = []

    def forward(graph: Any) -> Any:
        sizes.append(graph.num_edges)
        if graph.num_edges > 100:
            raise torch.OutOfMemoryError("full")
        return honest(graph)

    starts = [cluster(8, seed=k) for k in range(4)]
    expected = relax(lennard_jones, starts)
    monkeypatch.setattr(lennard_jones, "forward", forward)
    results = relax(lennard_jones, starts)
    assert [r.status for r in results] == ["converged"] * 4
    assert sum(size > 100 for size in sizes) <= 3
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-9)
    wide, small = relax(lennard_jones, [crystal() * (2, 1, 1), cluster(3)])
    assert wide.status == "failed"
    assert "memory" in wide.message
    assert small.status == "converged"


def test_structures_are_read_as_there_is_room(lennard_jones: LennardJones) -> None:
    taken = []

    def stream() -> Any:
        for k in range(10):
            taken.append(k)
            yield k, cluster(4, seed=k)

    first = next(relax_each(lennard_jones, stream(), max_edges=30))
    assert len(taken) < 6
    assert first.index in taken


@pytest.mark.parametrize("wrong", [{"optimizer": "newton"}, {"fmax": 0.0}, {"steps": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RelaxSettings(**wrong)
