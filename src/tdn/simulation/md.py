"""`MDRun`: molecular dynamics in a folder, which can be interrupted at any moment and continued bit for bit.

The folder holds `log.csv`, `trajectory.extxyz`, `state.safetensors` and, at the end, pictures. The state knows how long
the other two files were when it was saved: a continued run cuts what a kill has left beyond that, so that no line and
no frame is lost or doubled.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ase.io
import numpy as np
from ase import Atoms

from tdn.calculator import TDNCalculator
from tdn.errors import ConfigError, DataError
from tdn.files import atomic_write
from tdn.simulation.ensembles import Ensemble
from tdn.simulation.guards import Guard, SimulationStopped
from tdn.structure import Structure
from tdn.units import GPA_PER_EV_PER_ANGSTROM3

LOG, TRAJECTORY, STATE, STOPPED = "log.csv", "trajectory.extxyz", "state.safetensors", "stopped.extxyz"
FORMAT = "tdn-md-1"
COLUMNS = (
    "step", "time_ps", "potential_eV", "kinetic_eV", "total_eV", "conserved_eV", "temperature_K", "pressure_GPa",
    "volume_A3",
)  # fmt: skip


@dataclass(frozen=True)
class MDSettings:
    """A run: ensemble and how often what is written.

    Attributes:
        ensemble: What is integrated.
        log_interval: Steps between lines of the log, at which the guard looks too.
        trajectory_interval: Steps between frames; 0 writes none.
        state_interval: Steps between saved states.
        inputs: What else the result depends on, as JSON values: fingerprints of model and structure, precision.
    """

    ensemble: Ensemble = dataclasses.field(default_factory=Ensemble)
    log_interval: int = 10
    trajectory_interval: int = 100
    state_interval: int = 1000
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.log_interval < 1 or self.trajectory_interval < 0 or self.state_interval < 1:
            raise ConfigError("Intervals of log and state must be >= 1 step, that of the trajectory >= 0.")

    @property
    def identity(self) -> dict[str, Any]:
        """What a continued run must have in common with its start."""
        return {
            **dataclasses.asdict(self.ensemble), **self.inputs, "log_interval": self.log_interval,
            "trajectory_interval": self.trajectory_interval,
        }  # fmt: skip


class MDRun:
    """One trajectory in one folder.

    Args:
        folder: Made if it does not exist.
        atoms: Start; copied. Velocities are drawn unless it has some and `keep_velocities`.
        calculator: The potential.
        settings: How.
        guard: Limits.
        resume: Continue the run in the folder.
        overwrite: Start again where there is a run.
        keep_velocities: Start with the velocities of `atoms`.

    Raises:
        ConfigError: If there is a run and neither option is given, none to resume, another one, or the folder cannot
            be written.
        DataError: If the structure cannot be used.

    Attributes:
        step: Steps taken so far, earlier parts of the run included.
        atoms: The present geometry with velocities.
    """

    def __init__(
        self,
        folder: Path,
        atoms: Atoms,
        calculator: TDNCalculator,
        settings: MDSettings,
        guard: Guard | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        keep_velocities: bool = False,
    ) -> None:
        self.folder, self.settings, self.guard = folder, settings, guard or Guard()
        self.atoms = atoms.copy()
        structure = Structure.from_ase(self.atoms)  # refuses what no run could use
        calculator.potentials[0].check_elements(structure.numbers)
        settings.ensemble.check(self.atoms)
        self.atoms.calc = calculator
        self.step = 0
        self._rng = np.random.default_rng(settings.ensemble.seed)
        _open_folder(folder, resume, overwrite)
        state = _read_state(folder / STATE, settings) if resume else None
        if state is not None:
            self._restore(*state)
        elif not (keep_velocities and self.atoms.has("momenta")):
            settings.ensemble.start(self.atoms, self._rng)
        self.dynamics: Any = settings.ensemble.dynamics(self.atoms, self._rng)
        if state is not None:
            settings.ensemble.recall(self.dynamics, state[1])
        self._files = _Files(folder, state[0] if state is not None else None)
        self._has_start = state is not None  # states are written after the first line of the log, be it at step 0

    def run(
        self, steps: int, stop: Callable[[], bool] = lambda: False, report: Callable[[int], None] | None = None
    ) -> bool:
        """Go on until `steps` have been taken in all.

        Args:
            steps: Of the whole run, earlier parts included.
            stop: Asked after every step whether to stop now.
            report: Called with the step after every line of the log.

        Returns:
            Whether all steps were taken.

        Raises:
            SimulationStopped: If the guard objects; `stopped.extxyz` shows the geometry, the last state stays.
            OSError: If the disk is full; the last saved state stays.
        """
        self._files.start()
        try:
            if not self._has_start:
                self._guarded(self._record)
                self._has_start = True
            while self.step < steps and not stop():
                self._guarded(self.dynamics.step)
                self.step += 1
                if self.step % self.settings.log_interval == 0:
                    self._guarded(self._record)
                    if report is not None:
                        report(self.step)
                if self.step % self.settings.state_interval == 0:
                    self.save()
            self.save()
        finally:
            self._files.close()
        return self.step >= steps

    def save(self) -> None:
        """Write the state, from which a run goes on as if it had not stopped."""
        from safetensors.numpy import save

        arrays = {
            "positions": self.atoms.positions, "momenta": self.atoms.get_momenta(), "cell": self.atoms.cell.array,
            **self.settings.ensemble.memory(self.dynamics),
        }  # fmt: skip
        header = {
            "format": FORMAT, "step": self.step, "settings": self.settings.identity, "files": self._files.sizes(),
            "rng": self._rng.bit_generator.state,
        }  # fmt: skip
        content = save({k: np.array(v, order="C") for k, v in arrays.items()}, {"tdn": json.dumps(header)})
        with atomic_write(self.folder / STATE) as temporary:
            temporary.write_bytes(content)

    def _guarded(self, action: Callable[[], Any]) -> None:
        """Do something; if the structure turns out to be broken, say at which step."""
        try:
            action()
        except (DataError, SimulationStopped, FloatingPointError) as error:
            self._show()
            moment = f"step {self.step} ({self.step * self.settings.ensemble.timestep / 1000:g} ps)"
            raise SimulationStopped(f"Stopped at {moment}: {error}") from error

    def _show(self) -> None:
        """The geometry that a run stopped at, without results: computing them may be what went wrong."""
        with atomic_write(self.folder / STOPPED) as temporary:
            ase.io.write(temporary, self.atoms.copy(), format="extxyz")

    def _record(self) -> None:
        """Guard, a line of the log, and a frame if one is due."""
        self.guard.check(self.atoms)
        self._files.log(self._row())
        interval = self.settings.trajectory_interval
        if interval and self.step % interval == 0:
            self._files.frame(self.atoms, self.step, self.settings.ensemble.timestep)

    def _row(self) -> list[Any]:
        atoms = self.atoms
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        pressure = volume = None
        if atoms.pbc.all():
            stress = atoms.get_stress(voigt=False, include_ideal_gas=True)
            pressure, volume = -np.trace(stress) / 3 * GPA_PER_EV_PER_ANGSTROM3, atoms.get_volume()
        total = potential + kinetic
        conserved = self.settings.ensemble.conserved(self.dynamics, total)
        moment = self.step * self.settings.ensemble.timestep / 1000
        return [self.step, moment, potential, kinetic, total, conserved, atoms.get_temperature(), pressure, volume]

    def _restore(self, header: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.step = header["step"]
        self.atoms.set_cell(arrays["cell"])
        self.atoms.set_positions(arrays["positions"], apply_constraint=False)
        self.atoms.set_momenta(arrays["momenta"], apply_constraint=False)
        self._rng.bit_generator.state = header["rng"]


class _Files:
    """Log and trajectory, which grow, and are cut to what the state knows of when a run goes on."""

    def __init__(self, folder: Path, header: dict[str, Any] | None) -> None:
        self.paths = {name: folder / name for name in (LOG, TRAJECTORY)}
        self._open: dict[str, IO[str]] = {}
        for name, path in self.paths.items():
            size = header["files"].get(name, 0) if header else 0
            if path.is_file():
                os.truncate(path, size)
            elif size:
                raise ConfigError(f"{path} is gone, so that the run cannot go on where it was: start it again.")

    def start(self) -> None:
        for name, path in self.paths.items():
            self._open[name] = path.open("a", encoding="utf-8")
        if not self.paths[LOG].stat().st_size:
            self._open[LOG].write(",".join(COLUMNS) + "\n")

    def log(self, row: list[float | None]) -> None:
        self._open[LOG].write(",".join("" if value is None else repr(_plain(value)) for value in row) + "\n")

    def frame(self, atoms: Atoms, step: int, timestep: float) -> None:
        frame = atoms.copy()
        frame.calc = atoms.calc
        frame.info |= {"step": step, "time_fs": step * timestep}
        results: dict[str, Any] = getattr(atoms.calc, "results", {})
        if "energy_uncertainty" in results:
            frame.info["energy_uncertainty"] = results["energy_uncertainty"]
        ase.io.write(self._open[TRAJECTORY], frame, format="extxyz")

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, all of them on the disk."""
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())
        return {name: path.stat().st_size for name, path in self.paths.items() if path.is_file()}

    def close(self) -> None:
        for file in self._open.values():
            try:
                file.close()
            except OSError:  # a full disk; what was saved before is whole
                continue
        self._open = {}


def _plain(value: float) -> float | int:
    return int(value) if isinstance(value, (int, np.integer)) else float(value)


def _open_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError("Choose one of --resume and --overwrite.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"The output {folder} is a file: name a folder.")
    occupied = (folder / LOG).exists() or (folder / STATE).exists()
    if occupied and not resume and not overwrite:
        raise ConfigError(f"{folder} holds a run: --resume continues it, --overwrite removes it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / ".writable"):
            pass
        (folder / ".writable").unlink()
        for name in (LOG, TRAJECTORY, STATE) if overwrite else ():
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"The folder {folder} cannot be written ({error.strerror}): name another.") from error


def _read_state(path: Path, settings: MDSettings) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Header and arrays of a saved state; None if the run was stopped before the first one."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        if (path.parent / LOG).is_file():
            return None
        raise ConfigError(f"There is no run to resume in {path.parent}: leave out --resume.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("tdn", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}): start the run again.") from error
    if header.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a state of this version of tdn: start the run again.")
    known, wanted = header["settings"], settings.identity
    changed = [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]
    if changed:
        raise ConfigError(
            f"The run in {path.parent} was started with another {', '.join(sorted(changed))}: --resume continues it as "
            "it was, only --steps may change."
        )
    return header, arrays
