"""Make the aspirin geometry of the benchmarks: RDKit's distance geometry (ETKDG), then its MMFF94 minimum.

python scripts/make_aspirin.py      # needs the extra `reference`
"""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from ase.io import write
from rdkit import Chem
from rdkit.Chem import AllChem

OUTPUT = Path(__file__).parents[1] / "src" / "tdn" / "bench" / "geometries" / "aspirin.extxyz"


def main() -> None:
    molecule = Chem.AddHs(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"))
    AllChem.EmbedMolecule(molecule, randomSeed=0)
    AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    atoms = Atoms(numbers, positions=molecule.GetConformer().GetPositions().round(4))
    atoms.center(about=(0.0, 0.0, 0.0))
    atoms.info["source"] = "RDKit ETKDG, MMFF94 minimum; scripts/make_aspirin.py"
    write(OUTPUT, atoms, format="extxyz")


if __name__ == "__main__":
    main()
