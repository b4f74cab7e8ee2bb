"""Energy, forces and stress from an exported package, with PyTorch, vesin and ASE but without tdn.

Make the package with `tdn export model.tdn --to aoti`, then

    python aoti_without_tdn.py model.pt2 structures.extxyz

prints one JSON object a structure.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import torch._inductor
import vesin
from ase import Atoms
from ase.io import read


class Package:
    """An exported potential.

    Args:
        path: File that `tdn export --to aoti` wrote.
    """

    def __init__(self, path: str) -> None:
        self.run = torch._inductor.aoti_load_package(path)
        self.description = json.loads(self.run.get_metadata()["tdn"])
        self.neighbors = vesin.NeighborList(cutoff=self.description["cutoff"], full_list=True)

    def __call__(self, atoms: Atoms) -> dict:
        """Energy (eV), forces (eV/Å) and, if periodic in all directions, stress (eV/Å³, tension positive)."""
        cell = np.asarray(atoms.cell)
        receivers, senders, shifts = self.neighbors.compute(atoms.positions, cell, periodic=atoms.pbc, quantities="ijS")
        energies, forces, virials = self.run(
            torch.tensor(atoms.positions),
            torch.tensor(atoms.numbers, dtype=torch.int64),
            torch.tensor(senders.astype(np.int64)),
            torch.tensor(receivers.astype(np.int64)),
            torch.tensor(shifts @ cell, dtype=torch.float64),
        )
        stress = (-virials.sum(0) / atoms.get_volume()).tolist() if atoms.pbc.all() else None
        return {"energy": float(energies.sum()), "forces": forces.tolist(), "stress": stress}


if __name__ == "__main__":
    package = Package(sys.argv[1])
    for frame in read(sys.argv[2], index=":"):
        print(json.dumps(package(frame)))
