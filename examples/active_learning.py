"""One round of active learning: molecular dynamics, the frames the model is least sure of, labels from GFN2-xTB.

    tdn calibrate run/model.tdn
    python active_learning.py run/model.tdn start.extxyz new.extxyz [steps] [frames]
    tdn train --from run/model.tdn --train new.extxyz ... && tdn calibrate ...

Needs `pip install tblite`; put your own method in `label`. The model must be trained on the same method.
"""

from __future__ import annotations

import sys

import ase.io
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from tdn import TDNCalculator
from tdn.simulation.guards import Guard, SimulationStopped


def explore(atoms: Atoms, steps: int, interval: int = 10) -> list[tuple[float, Atoms]]:
    """Uncertainty per atom (eV) and geometry along a trajectory at 500 K, until the guard stops it."""
    found: list[tuple[float, Atoms]] = []

    def note() -> None:
        found.append((atoms.calc.get_property("energy_uncertainty", atoms) / len(atoms), atoms.copy()))

    MaxwellBoltzmannDistribution(atoms, temperature_K=500)
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=500, friction=0.01 / units.fs)
    dynamics.attach(note, interval=interval)
    dynamics.attach(Guard(max_temperature=5000.0, max_uncertainty=0.1).check, interval=interval, atoms=atoms)
    try:
        dynamics.run(steps)
    except SimulationStopped as stopped:
        print(stopped)
    return found


def label(atoms: Atoms) -> Atoms:
    """Energy and forces of GFN2-xTB."""
    from tblite.ase import TBLite

    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def main(model: str, start: str, output: str, steps: int = 2000, frames: int = 10) -> None:
    """Explore from every structure in `start`; write the `frames` most uncertain geometries with labels."""
    calculator, visited = TDNCalculator(model), []
    for atoms in ase.io.iread(start):
        atoms.calc = calculator
        visited += explore(atoms, steps)
    chosen = sorted(visited, key=lambda pair: -pair[0])[:frames]
    print("uncertainty of the chosen frames, meV/atom:", *(f"{1000 * sigma:.1f}" for sigma, _ in chosen))
    ase.io.write(output, [label(atoms) for _, atoms in chosen])


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:6]))
