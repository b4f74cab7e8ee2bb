"""What a trajectory's log tells: drift, temperature, pressure; numbers and pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tdn.report.figures import ACCENT, MUTED, WARM, new_figure, save_png
from tdn.units import MEV_PER_EV

PS_PER_NS = 1000.0


@dataclass(frozen=True)
class MDSummary:
    """Averages over a whole run.

    Attributes:
        time_ps: Its length.
        temperature: Mean, K.
        temperature_std: Its standard deviation over the lines of the log, K.
        drift: Slope of the straight line through the conserved energy, meV/atom/ns; None where none is conserved, or
            there are fewer than three lines.
        fluctuation: Root mean square of the conserved energy about that line, meV/atom; None as `drift`.
        pressure: Mean, GPa; None without a periodic cell.
        volume: Mean, Å³; None without a periodic cell.
    """

    time_ps: float
    temperature: float
    temperature_std: float
    drift: float | None
    fluctuation: float | None
    pressure: float | None
    volume: float | None

    def to_dict(self) -> dict[str, float | None]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def rows(self) -> list[tuple[str, float, str]]:
        """What there is, with units, for people."""
        named = [
            ("time", self.time_ps, "ps"), ("temperature", self.temperature, "K"),
            ("its standard deviation", self.temperature_std, "K"), ("energy drift", self.drift, "meV/atom/ns"),
            ("energy fluctuation", self.fluctuation, "meV/atom"), ("pressure", self.pressure, "GPa"),
            ("volume", self.volume, "Å³"),
        ]  # fmt: skip
        return [(name, value, unit) for name, value, unit in named if value is not None]


def read_log(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of a run's `log.csv`; NaN where a column does not apply."""
    table: Any = np.genfromtxt(folder / "log.csv", delimiter=",", names=True, dtype=np.float64)
    return {name: np.atleast_1d(table[name]) for name in table.dtype.names or ()}


def drift_of(times: NDArray[np.float64], energies: NDArray[np.float64], num_atoms: int) -> tuple[float, float]:
    """Slope of the energy and root mean square about the straight line, meV/atom/ns and meV/atom.

    Args:
        times: ps, `[k]`.
        energies: eV, `[k]`.
        num_atoms: Of the structure.
    """
    scaled = MEV_PER_EV * (energies - energies[0]) / num_atoms
    line = np.polyfit(times, scaled, 1)
    return float(line[0] * PS_PER_NS), float(np.sqrt(np.square(scaled - np.polyval(line, times)).mean()))


def summarise(folder: Path, num_atoms: int) -> MDSummary:
    """Averages over the log of a run."""
    log = read_log(folder)
    energies = log["conserved_eV"]
    drift = fluctuation = None
    if len(energies) > 2 and np.isfinite(energies).all():
        drift, fluctuation = drift_of(log["time_ps"], energies, num_atoms)
    periodic = bool(np.isfinite(log["volume_A3"]).all())
    return MDSummary(
        time_ps=float(log["time_ps"][-1]),
        temperature=float(log["temperature_K"].mean()),
        temperature_std=float(log["temperature_K"].std()),
        drift=drift,
        fluctuation=fluctuation,
        pressure=float(log["pressure_GPa"].mean()) if periodic else None,
        volume=float(log["volume_A3"].mean()) if periodic else None,
    )


def write_pictures(folder: Path, num_atoms: int) -> None:
    """`energy.png` and `temperature.png` of a run's log."""
    log = read_log(folder)
    save_png(energy_figure(log, num_atoms), folder / "energy.png")
    figure, axes = new_figure()
    axes.plot(log["time_ps"], log["temperature_K"], color=ACCENT, linewidth=0.7)
    axes.axhline(float(log["temperature_K"].mean()), color=WARM, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="time (ps)", ylabel="temperature (K)")
    save_png(figure, folder / "temperature.png")


def energy_figure(log: dict[str, NDArray[np.float64]], num_atoms: int) -> Figure:
    """Conserved energy per atom since the start with its straight line, or, where none is, the total energy."""
    conserved = bool(np.isfinite(log["conserved_eV"]).all())
    energy = log["conserved_eV" if conserved else "total_eV"]
    scaled = MEV_PER_EV * (energy - energy[0]) / num_atoms
    figure, axes = new_figure()
    axes.plot(log["time_ps"], scaled, color=ACCENT if conserved else MUTED, linewidth=0.9)
    if conserved and len(scaled) > 2:
        axes.plot(log["time_ps"], np.polyval(np.polyfit(log["time_ps"], scaled, 1), log["time_ps"]), color=WARM)
        # A conserved energy should look conserved: never magnify 0.1 meV/atom to more than the full height.
        half = max(1.3 * float(np.abs(scaled - scaled.mean()).max()), 0.05)
        axes.set_ylim(scaled.mean() - half, scaled.mean() + half)
    axes.set(xlabel="time (ps)", ylabel=f"{'conserved' if conserved else 'total'} energy (meV/atom)")
    return figure
