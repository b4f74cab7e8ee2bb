"""One file for many engines, here in ASE: `python metatomic_ase.py model.tdn structure.extxyz [steps]`.

Needs `pip install 'tdn[metatomic]'`. Writes `model.pt`, which needs no tdn from then on, and relaxes the structure with
it. LAMMPS, GROMACS, PLUMED, i-PI, EON and chemiscope read the same file.
"""

from __future__ import annotations

import sys

from ase.io import read, write
from ase.optimize import LBFGS
from metatomic_ase import MetatomicCalculator

from tdn import load_model
from tdn.interfaces.metatomic import export_metatomic


def main(model: str, structure: str, steps: int = 200) -> None:
    agreement = export_metatomic(load_model(model), "model.pt")
    print(f"largest relative difference of the forces from the model: {agreement.forces:.1e}")
    atoms = read(structure)
    atoms.calc = MetatomicCalculator("model.pt")
    LBFGS(atoms).run(fmax=0.05, steps=steps)
    write("relaxed.extxyz", atoms)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
