"""Molecular dynamics in a folder: exact restarts, guards, files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import read

from tdn.calculator import TDNCalculator
from tdn.errors import ConfigError, DataError
from tdn.simulation.analysis import read_log, summarise, write_pictures
from tdn.simulation.ensembles import Ensemble
from tdn.simulation.guards import Guard, SimulationStopped
from tdn.simulation.md import LOG, STATE, STOPPED, TRAJECTORY, MDRun, MDSettings

from .conftest import LennardJones, cluster, crystal

ENSEMBLES = ("nve", "langevin", "nose-hoover", "npt", "npt-cell")


def start_run(folder: Path, potential: Any, atoms: Atoms, ensemble: Ensemble, **options: Any) -> MDRun:
    settings = MDSettings(ensemble, log_interval=5, trajectory_interval=10, state_interval=30)
    return MDRun(folder, atoms, TDNCalculator(potential, device="cpu"), settings, **options)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_interrupted_and_continued_is_uninterrupted_bit_for_bit(
    tmp_path: Path, lennard_jones: LennardJones, name: str
) -> None:
    ensemble = Ensemble(name, temperature=150.0, timestep=4.0, pressure=0.001, seed=3)
    whole = start_run(tmp_path / "whole", lennard_jones, crystal(), ensemble)
    assert whole.run(100)
    # Stopped at a step at which nothing is due, as Ctrl-C does, then killed beyond the last state, then finished.
    part = start_run(tmp_path / "parts", lennard_jones, crystal(), ensemble)
    assert not part.run(100, stop=lambda: part.step == 37)
    part = start_run(tmp_path / "parts", lennard_jones, crystal(), ensemble, resume=True)
    assert part.step == 37
    with pytest.raises(MemoryError):
        part.run(100, stop=lambda: part.step == 78 and _raise(MemoryError()))
    part = start_run(tmp_path / "parts", lennard_jones, crystal(), ensemble, resume=True)
    assert part.step == 60
    assert part.run(100)
    for file in (LOG, TRAJECTORY, STATE):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    np.testing.assert_array_equal(part.atoms.positions, whole.atoms.positions)
    assert len(read(tmp_path / "whole" / TRAJECTORY, ":")) == 11


def _raise(error: BaseException) -> bool:
    raise error


def test_ensembles_hold_what_they_should(tmp_path: Path, lennard_jones: LennardJones) -> None:
    ensemble = Ensemble("nve", temperature=60.0, timestep=2.0)
    run = start_run(tmp_path / "nve", lennard_jones, cluster(8), ensemble)
    run.run(150)
    summary = summarise(tmp_path / "nve", 8)
    assert summary.fluctuation is not None
    assert summary.fluctuation < 0.2
    np.testing.assert_allclose(run.atoms.get_momenta().sum(axis=0), 0.0, atol=1e-10)
    for name in ENSEMBLES[1:]:
        ensemble = Ensemble(name, temperature=200.0, timestep=5.0, friction=10.0, tdamp=200.0, pressure=0.005)
        start_run(tmp_path / name, lennard_jones, crystal(), ensemble).run(250)
        log = read_log(tmp_path / name)
        assert 100 < log["temperature_K"][20:].mean() < 320, name
        conserved = np.ptp(log["conserved_eV"]) / np.ptp(log["total_eV"])
        assert np.isnan(conserved) if name == "langevin" else conserved < 0.1, name
    for name, keeps_shape in (("npt", True), ("npt-cell", False)):
        assert np.ptp(read_log(tmp_path / name)["volume_A3"]) > 0.01
        angles = np.array([frame.cell.angles() for frame in read(tmp_path / name / TRAJECTORY, ":")])
        assert (np.ptp(angles) < 1e-4) == keeps_shape, name
    assert np.ptp(read_log(tmp_path / "nose-hoover")["volume_A3"]) == 0


def test_log_says_what_ase_says(tmp_path: Path, lennard_jones: LennardJones) -> None:
    run = start_run(tmp_path, lennard_jones, crystal(), Ensemble(timestep=3.0))
    run.run(20)
    log, atoms = read_log(tmp_path), run.atoms
    assert list(log["step"]) == [0, 5, 10, 15, 20]
    assert log["time_ps"][-1] == pytest.approx(0.06)
    assert log["potential_eV"][-1] == atoms.get_potential_energy()
    assert log["temperature_K"][-1] == pytest.approx(atoms.get_kinetic_energy() / (1.5 * 4 * units.kB))
    stress = atoms.get_stress(include_ideal_gas=True)
    assert log["pressure_GPa"][-1] == pytest.approx(-stress[:3].mean() / units.GPa)
    frame = read(tmp_path / TRAJECTORY, -1)
    assert frame.info["step"] == 20
    np.testing.assert_allclose(frame.get_forces(), atoms.get_forces(), atol=1e-7)
    np.testing.assert_allclose(frame.get_momenta(), atoms.get_momenta(), atol=1e-7)
    write_pictures(tmp_path, 4)
    assert (tmp_path / "energy.png").stat().st_size > 2000
    assert (tmp_path / "temperature.png").stat().st_size > 2000


def test_given_velocities_are_kept_if_asked(tmp_path: Path, lennard_jones: LennardJones) -> None:
    atoms = cluster(3)
    atoms.set_momenta(np.arange(9.0).reshape(3, 3) / 10)
    kept = start_run(tmp_path / "kept", lennard_jones, atoms, Ensemble(), keep_velocities=True)
    np.testing.assert_array_equal(kept.atoms.get_momenta(), atoms.get_momenta())
    drawn = start_run(tmp_path / "drawn", lennard_jones, atoms, Ensemble())
    assert not np.allclose(drawn.atoms.get_momenta(), atoms.get_momenta())


@pytest.mark.parametrize(
    ("guard", "word"),
    [
        (Guard(max_temperature=1.0), "temperature"),
        (Guard(max_force=1e-6), "force on atom"),
        (Guard(shortest={"Ar-Ar": 4.0}), "closest in the training data were 4.00"),
    ],
)
def test_guard_stops_and_shows_where(tmp_path: Path, lennard_jones: LennardJones, guard: Guard, word: str) -> None:
    run = start_run(tmp_path, lennard_jones, cluster(5), Ensemble(), guard=guard)
    with pytest.raises(SimulationStopped, match=word):
        run.run(100)
    assert len(read(tmp_path / STOPPED)) == 5


def test_explosion_is_stopped_in_words(tmp_path: Path, lennard_jones: LennardJones) -> None:
    run = start_run(tmp_path, lennard_jones, crystal(), Ensemble(timestep=300.0, temperature=900.0), guard=Guard(9e9))
    with pytest.raises(SimulationStopped, match="Stopped at step"):
        run.run(1000)


def test_guard_lets_pairs_without_a_limit_pass() -> None:
    atoms = cluster(4)
    atoms.calc = TDNCalculator(LennardJones(), device="cpu")
    Guard(shortest={"Ar-Ar": 1.0, "C-H": 3.0}).check(atoms)
    atoms.positions[0] = np.nan
    with pytest.raises((SimulationStopped, DataError)):
        Guard().check(atoms)


def test_nothing_is_overwritten_or_mixed_unasked(tmp_path: Path, lennard_jones: LennardJones) -> None:
    with pytest.raises(ConfigError, match="no run to resume"):
        start_run(tmp_path / "new", lennard_jones, cluster(3), Ensemble(), resume=True)
    start_run(tmp_path / "a", lennard_jones, cluster(3), Ensemble()).run(10)
    with pytest.raises(ConfigError, match="--resume continues"):
        start_run(tmp_path / "a", lennard_jones, cluster(3), Ensemble())
    with pytest.raises(ConfigError, match="another timestep"):
        start_run(tmp_path / "a", lennard_jones, cluster(3), Ensemble(timestep=1.0), resume=True)
    fresh = start_run(tmp_path / "a", lennard_jones, cluster(3), Ensemble(), overwrite=True)
    assert fresh.step == 0
    assert not (tmp_path / "a" / STATE).exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        start_run(tmp_path / "file", lennard_jones, cluster(3), Ensemble())


def test_damaged_state_is_refused(tmp_path: Path, lennard_jones: LennardJones) -> None:
    start_run(tmp_path, lennard_jones, cluster(3), Ensemble()).run(10)
    os.truncate(tmp_path / STATE, 50)
    with pytest.raises(ConfigError, match="damaged"):
        start_run(tmp_path, lennard_jones, cluster(3), Ensemble(), resume=True)


@pytest.mark.parametrize(
    "wrong", [{"name": "nvt"}, {"timestep": 0.0}, {"name": "langevin", "temperature": 0.0}, {"temperature": -1.0}]
)
def test_wrong_ensembles_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Ensemble(**wrong)


def test_structures_that_an_ensemble_cannot_move_are_refused(tmp_path: Path, lennard_jones: LennardJones) -> None:
    from ase.constraints import FixAtoms

    with pytest.raises(DataError, match="periodic"):
        start_run(tmp_path / "a", lennard_jones, cluster(3), Ensemble("npt-cell"))
    fixed = cluster(3)
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(DataError, match="fixed"):
        start_run(tmp_path / "b", lennard_jones, fixed, Ensemble("nose-hoover"))
    run = start_run(tmp_path / "c", lennard_jones, fixed, Ensemble("langevin"))
    run.run(20)
    np.testing.assert_array_equal(run.atoms.positions[0], fixed.positions[0])
