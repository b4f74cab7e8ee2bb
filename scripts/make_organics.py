"""Make the shipped data set of small organic molecules: B3LYP/6-31G* relaxations and distorted frames.

For every molecule: an RDKit ETKDG conformer (not pre-optimised, so that the first frames carry real forces) is relaxed
with geomeTRIC, every step is kept, and then the relaxed and intermediate geometries are distorted: random Cartesian
displacements, twists about single bonds, one stretched bond. Isolated atoms give the reference energies.

    PYTHONPATH=src python scripts/make_organics.py compute --work DIR    # about an hour on one core; can be resumed
    PYTHONPATH=src python scripts/make_organics.py check --work DIR      # finite differences of the energy
    PYTHONPATH=src python scripts/make_organics.py assemble --work DIR   # what is finished -> src/tdn/datasets/organics

Needs pyscf, geometric, rdkit and ase: `pip install "tdn[reference]"`. One thread (OMP_NUM_THREADS=1)
reproduces the published numbers to the SCF threshold. `compute` keeps one file per finished molecule in DIR and skips
those present.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from pyscf import dft, gto
from pyscf.geomopt import geometric_solver
from rdkit import Chem
from rdkit.Chem import AllChem

from tdn.files import atomic_write, write_json
from tdn.units import ANGSTROM_PER_BOHR, EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR, EV_PER_HARTREE

OUTPUT = Path(__file__).parents[1] / "src" / "tdn" / "datasets" / "organics"
FUNCTIONAL, BASIS, GRID_LEVEL, SCF_TOLERANCE = "b3lyp", "6-31g*", 3, 1e-9
METHOD = "B3LYP/6-31G*"
SEED = 20240611
MAX_STEPS = 12
DISTORTIONS = ((0.03, False), (0.05, True), (0.05, False), (0.04, True), (0.08, False))
"""Standard deviation of the Cartesian displacements in Å, and whether a single bond is twisted as well."""
MAX_TWIST_DEGREES = 60.0
STRETCH = (1.10, 1.30)
MAX_FORCE = 15.0
"""Frames with a larger force on any atom (eV/Å) are left out of the data set."""

SPIN = {"H": 1, "C": 2, "N": 3, "O": 2, "F": 1, "S": 2, "Cl": 1}
"""Unpaired electrons of the atomic ground states."""

# Name, SMILES, split; in the order of computation, so that an early stop still leaves every split with every element.
MOLECULES = (
    ("water", "O", "train"),
    ("ammonia", "N", "train"),
    ("methane", "C", "train"),
    ("hydrogen sulfide", "S", "train"),
    ("methanol", "CO", "train"),
    ("methanethiol", "CS", "train"),
    ("fluoromethane", "CF", "train"),
    ("chloromethane", "CCl", "train"),
    ("chlorofluoromethane", "FCCl", "valid"),
    ("methylamine", "CN", "test"),
    ("vinyl chloride", "C=CCl", "test"),
    ("ethanol", "CCO", "test"),
    ("dimethyl sulfide", "CSC", "test"),
    ("formaldehyde", "C=O", "train"),
    ("ethene", "C=C", "train"),
    ("ethanethiol", "CCS", "valid"),
    ("hydroxylamine", "NO", "valid"),
    ("fluoroethane", "CCF", "test"),
    ("hydrogen fluoride", "[H]F", "train"),
    ("hydrogen chloride", "[H]Cl", "train"),
    ("hydrogen cyanide", "C#N", "train"),
    ("ethyne", "C#C", "train"),
    ("ethane", "CC", "train"),
    ("formamide", "NC=O", "train"),
    ("methanimine", "C=N", "train"),
    ("dimethyl ether", "COC", "valid"),
    ("hydrogen peroxide", "OO", "train"),
    ("thioformaldehyde", "C=S", "train"),
    ("difluoromethane", "FCF", "train"),
    ("acetonitrile", "CC#N", "train"),
    ("dimethylamine", "CNC", "train"),
    ("propane", "CCC", "train"),
    ("formic acid", "OC=O", "train"),
    ("vinyl fluoride", "C=CF", "train"),
    ("dichloromethane", "ClCCl", "train"),
    ("chloroethane", "CCCl", "train"),
    ("acetaldehyde", "CC=O", "test"),
    ("propene", "CC=C", "train"),
    ("thioformamide", "NC=S", "train"),
    ("acetamide", "CC(N)=O", "test"),
    ("acetone", "CC(C)=O", "valid"),
    ("acetic acid", "CC(=O)O", "train"),
    ("pyrrole", "c1cc[nH]c1", "train"),
    ("furan", "c1ccoc1", "train"),
    ("2-aminoethanol", "NCCO", "train"),
    ("thiophene", "c1ccsc1", "train"),
    ("benzene", "c1ccccc1", "train"),
)


class Surface:
    """Restricted Kohn-Sham energies and forces of one molecule; each call starts from the density of the one before."""

    def __init__(self, symbols: list[str], positions: np.ndarray) -> None:
        molecule = build_molecule(symbols, positions, unpaired=0)
        gradient = kohn_sham(molecule).nuc_grad_method()
        # The derivative of the quadrature weights makes forces the exact gradient of the energy: no net force.
        gradient.grid_response = True
        self.molecule = molecule
        self.scanner = gradient.as_scanner()

    def __call__(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy in eV and forces [n, 3] in eV/Å at `positions` [n, 3] in Å.

        Raises:
            RuntimeError: If the self-consistent field did not converge.
        """
        geometry = self.molecule.set_geom_(positions / ANGSTROM_PER_BOHR, unit="Bohr", inplace=False)
        energy, gradient = self.scanner(geometry)
        if not self.scanner.converged:
            raise RuntimeError("SCF not converged")
        return energy * EV_PER_HARTREE, -gradient * EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR

    def relax(self) -> list[tuple[np.ndarray, float, np.ndarray]]:
        """Every step of a geomeTRIC relaxation: positions (Å), energy (eV), forces (eV/Å)."""
        steps = []

        def record(step: dict) -> None:
            positions = step["coords"].reshape(-1, 3) * ANGSTROM_PER_BOHR
            forces = -step["gradients"].reshape(-1, 3) * EV_PER_ANGSTROM_PER_HARTREE_PER_BOHR
            steps.append((positions, step["energy"] * EV_PER_HARTREE, forces))

        geometric_solver.kernel(self.scanner, maxsteps=MAX_STEPS, callback=record)
        return steps


def build_molecule(symbols: list[str], positions: np.ndarray, unpaired: int) -> gto.Mole:
    """Molecule with six Cartesian d functions, as in GAMESS and Firefly; `positions` [n, 3] in Å."""
    atoms = list(zip(symbols, positions / ANGSTROM_PER_BOHR, strict=True))
    return gto.M(atom=atoms, unit="Bohr", basis=BASIS, cart=True, spin=unpaired, verbose=0)


def kohn_sham(molecule: gto.Mole) -> dft.rks.RKS:
    """The shipped level of theory, restricted for closed shells and unrestricted otherwise."""
    method = (dft.UKS if molecule.spin else dft.RKS)(molecule, xc=FUNCTIONAL)
    method.grids.level = GRID_LEVEL
    method.conv_tol = SCF_TOLERANCE
    return method


def conformer(smiles: str, seed: int) -> tuple[Chem.Mol, np.ndarray]:
    """Molecule with explicit hydrogens and the positions [n, 3] (Å) of one ETKDG conformer."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = seed
    if AllChem.EmbedMolecule(molecule, parameters) != 0:
        raise RuntimeError(f"RDKit found no conformer of {smiles}")
    return molecule, molecule.GetConformer().GetPositions()


def side_of_bond(molecule: Chem.Mol, begin: int, end: int) -> np.ndarray:
    """Indices of the atoms connected to `end` once the bond begin-end is cut (the bond is not in a ring)."""
    found, waiting = {begin, end}, [end]
    while waiting:
        neighbors = {atom.GetIdx() for atom in molecule.GetAtomWithIdx(waiting.pop()).GetNeighbors()} - found
        found |= neighbors
        waiting.extend(neighbors)
    return np.array(sorted(found - {begin}))


def open_bonds(molecule: Chem.Mol, rotatable: bool) -> list[tuple[int, int]]:
    """Bonds outside rings; if `rotatable`, only single bonds whose atoms both have further neighbours."""
    return [
        (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        for bond in molecule.GetBonds()
        if not bond.IsInRing()
        and not (
            rotatable
            and (
                bond.GetBondType() != Chem.BondType.SINGLE
                or min(bond.GetBeginAtom().GetDegree(), bond.GetEndAtom().GetDegree()) < 2
            )
        )
    ]


def twist(molecule: Chem.Mol, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate one side of a random rotatable bond by up to MAX_TWIST_DEGREES; unchanged where there is none."""
    bonds = open_bonds(molecule, rotatable=True)
    if not bonds:
        return positions
    begin, end = bonds[rng.integers(len(bonds))]
    side = side_of_bond(molecule, begin, end)
    fragment = Atoms("X" * len(side), positions=positions[side])
    angle = rng.uniform(-MAX_TWIST_DEGREES, MAX_TWIST_DEGREES)
    fragment.rotate(angle, positions[end] - positions[begin], center=positions[end])
    twisted = positions.copy()
    twisted[side] = fragment.positions
    return twisted


def stretch(molecule: Chem.Mol, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lengthen one random bond outside rings by a factor from STRETCH, then displace all atoms."""
    bonds = open_bonds(molecule, rotatable=False)
    begin, end = bonds[rng.integers(len(bonds))]
    stretched = positions.copy()
    side = side_of_bond(molecule, begin, end)
    stretched[side] += (rng.uniform(*STRETCH) - 1.0) * (positions[end] - positions[begin])
    return displace(stretched, 0.03, rng)


def displace(positions: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add normal displacements of standard deviation `sigma` (Å), cut off at two standard deviations."""
    return positions + sigma * np.clip(rng.standard_normal(positions.shape), -2.0, 2.0)


def prepare(name: str, smiles: str) -> tuple[Chem.Mol, np.ndarray, np.random.Generator]:
    """Molecule, first geometry [n, 3] (Å) and the random numbers that belong to its name."""
    seed = zlib.crc32(name.encode()) ^ SEED
    return *conformer(smiles, seed % 2**31), np.random.default_rng(seed)


def relax_molecule(name: str, smiles: str) -> list[Atoms]:
    """Every step of the relaxation of one molecule from its conformer."""
    molecule, start, _ = prepare(name, smiles)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    steps = Surface(symbols, start).relax()
    return [frame(symbols, *step, "relaxation", name, smiles, index) for index, step in enumerate(steps)]


def distort_molecule(name: str, smiles: str, relaxation: list[Atoms]) -> list[Atoms]:
    """Perturbed and stretched frames of one molecule, from the geometries of its relaxation."""
    molecule, _, rng = prepare(name, smiles)
    trajectory = [atoms.positions for atoms in relaxation]
    geometries = []
    for index, (sigma, twisted) in enumerate(DISTORTIONS):
        # Every third frame departs from a random step, the others from the minimum.
        origin = trajectory[rng.integers(len(trajectory)) if index % 3 == 2 else -1]
        base = twist(molecule, origin, rng) if twisted else origin
        geometries.append(("perturbed", index, displace(base, sigma, rng)))
    geometries.append(("stretched", 0, stretch(molecule, trajectory[-1], rng)))

    symbols = relaxation[0].get_chemical_symbols()
    surface = Surface(symbols, trajectory[-1])
    return [frame(symbols, xyz, *surface(xyz), kind, name, smiles, index) for kind, index, xyz in geometries]


def frame(symbols: list[str], positions: np.ndarray, energy: float, forces: np.ndarray, *labels: str | int) -> Atoms:
    """Labelled structure; `labels` are config_type, molecule, smiles and step."""
    atoms = Atoms(symbols, positions=positions)
    atoms.arrays["REF_forces"] = forces
    atoms.info = {"REF_energy": float(energy)}
    atoms.info |= dict(zip(("config_type", "molecule", "smiles", "step"), labels, strict=True)) | {"method": METHOD}
    return atoms


def sample_atoms() -> list[Atoms]:
    """Energies of the isolated atoms: unrestricted, the lowest of the solutions found from two starting densities."""
    frames = []
    for symbol, unpaired in SPIN.items():
        method = kohn_sham(build_molecule([symbol], np.zeros((1, 3)), unpaired))
        energies = [method.kernel(dm0=method.get_init_guess(key=guess)) for guess in ("minao", "atom", "1e")]
        energies.append(method.newton().kernel())
        if not method.converged:
            raise RuntimeError(f"SCF of the {symbol} atom not converged")
        info = {"REF_energy": float(min(energies)) * EV_PER_HARTREE, "config_type": "IsolatedAtom"}
        info |= {"molecule": f"{symbol} atom", "multiplicity": unpaired + 1, "method": "U" + METHOD}
        frames.append(Atoms(symbol, positions=np.zeros((1, 3)), info=info))
    return frames


def write_frames(path: Path, frames: list[Atoms]) -> None:
    """Write extended XYZ (eight decimals) atomically; frames have no cell."""
    with atomic_write(path) as temporary:
        ase.io.write(temporary, frames, format="extxyz")


def file_of(work: Path, name: str, stage: str) -> Path:
    """Where `compute` keeps the frames of one stage of a molecule."""
    return work / f"{name.replace(' ', '_')}.{stage}.extxyz"


def once(path: Path, job: Callable[[], list[Atoms]]) -> list[Atoms]:
    """Frames in `path`, computed by `job` only if the file does not exist; the CPU time goes beside it."""
    if not path.exists():
        start = time.process_time()
        frames = job()
        seconds = time.process_time() - start
        write_json(path.with_suffix(".json"), {"cpu_seconds": round(seconds, 1)})
        write_frames(path, frames)
        print(f"{path.stem}: {len(frames)} frames in {seconds:.1f} s of CPU time", flush=True)
    return ase.io.read(path, index=":")


def compute(work: Path) -> None:
    """Compute whatever is not in `work` yet."""
    once(work / "isolated_atoms.extxyz", sample_atoms)
    for name, smiles, _ in MOLECULES:
        relaxation = once(file_of(work, name, "relaxation"), lambda n=name, s=smiles: relax_molecule(n, s))
        once(
            file_of(work, name, "distorted"),
            lambda n=name, s=smiles, r=relaxation: distort_molecule(n, s, r),
        )


def check(work: Path) -> None:
    """Compare forces with central differences on one distorted frame each, and measure net forces and torques."""
    step, defects = 1e-3, {}
    rng = np.random.default_rng(SEED)
    for name in ("methanol", "chlorofluoromethane", "methanethiol", "formamide"):
        path = file_of(work, name, "distorted")
        if not path.exists():
            continue
        atoms = ase.io.read(path, index=0)
        direction = rng.standard_normal(atoms.positions.shape)
        direction /= np.linalg.norm(direction)
        surface = Surface(atoms.get_chemical_symbols(), atoms.positions)
        upper, lower = (surface(atoms.positions + sign * step * direction)[0] for sign in (1, -1))
        defect = (lower - upper) / (2 * step) - float(np.sum(atoms.arrays["REF_forces"] * direction))
        defects[name] = round(abs(defect), 7)
        print(f"{name}: |finite difference - analytic force| = {defects[name]:.1e} eV/Å", flush=True)
    write_json(work / "check.json", {"step": step, "finite_difference_defect": defects})


def statistics(frames: list[Atoms]) -> dict[str, float]:
    """Force sizes (eV/Å) and defects of Newton's third law: net force (eV/Å) and net torque (eV)."""
    forces = [frame.arrays["REF_forces"] for frame in frames]
    torques = [
        np.cross(frame.positions - frame.positions.mean(0), force).sum(0)
        for frame, force in zip(frames, forces, strict=True)
    ]
    values = {
        "force_component_rms": np.sqrt(np.mean(np.concatenate(forces) ** 2)),
        "force_norm_max": max(np.linalg.norm(force, axis=1).max() for force in forces),
        "net_force_max": max(np.linalg.norm(force.sum(0)) for force in forces),
        "net_torque_max": np.linalg.norm(torques, axis=1).max(),
    }
    return {key: float(f"{value:.3g}") for key, value in values.items()}


def distinct(frames: list[Atoms]) -> list[Atoms]:
    """The frames without repetitions: the last steps of a relaxation may move atoms by less than 1e-4 Å."""
    kept: list[Atoms] = []
    for atoms in frames:
        if not any(np.allclose(atoms.positions, other.positions, rtol=0, atol=1e-4) for other in kept):
            kept.append(atoms)
    return kept


def assemble(work: Path, output: Path) -> None:
    """Gather the finished molecules of `work` into the split files and the manifest of `output`."""
    splits: dict[str, list[Atoms]] = {"train": [], "valid": [], "test": []}
    molecules, dropped, seconds = [], 0, 0.0
    for name, smiles, split in MOLECULES:
        paths = [file_of(work, name, stage) for stage in ("relaxation", "distorted")]
        if not all(path.exists() for path in paths):
            continue
        computed = distinct([atoms for path in paths for atoms in ase.io.read(path, index=":")])
        frames = [f for f in computed if np.linalg.norm(f.arrays["REF_forces"], axis=1).max() <= MAX_FORCE]
        dropped += len(computed) - len(frames)
        seconds += sum(json.loads(path.with_suffix(".json").read_text())["cpu_seconds"] for path in paths)
        splits[split] += frames
        kinds = [frame.info["config_type"] for frame in frames]
        counts = {kind: kinds.count(kind) for kind in ("relaxation", "perturbed", "stretched")}
        last = [atoms for atoms in computed if atoms.info["config_type"] == "relaxation"][-1]
        final_force = round(float(np.linalg.norm(last.arrays["REF_forces"], axis=1).max()), 4)
        entry = {"name": name, "smiles": smiles, "split": split, "frames": len(frames), **counts}
        molecules.append(entry | {"final_relaxation_force": final_force})
    for split, frames in splits.items():
        write_frames(output / f"{split}.extxyz", frames)
    atoms = ase.io.read(work / "isolated_atoms.extxyz", index=":")
    write_frames(output / "isolated_atoms.extxyz", atoms)

    checks = work / "check.json"
    write_json(
        output / "manifest.json",
        {
            "method": METHOD,
            "functional": "PySCF b3lyp: 0.2 HF + 0.08 Slater + 0.72 B88; 0.19 VWN(RPA) + 0.81 LYP",
            "basis": "6-31G*, six Cartesian d functions",
            "grid_level": GRID_LEVEL,
            "scf_tolerance_hartree": SCF_TOLERANCE,
            "seed": SEED,
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in ("pyscf", "geometric", "rdkit", "ase", "numpy")},
            "license": "MIT",
            "units": {"REF_energy": "eV", "REF_forces": "eV/Å", "positions": "Å"},
            "max_force_kept": MAX_FORCE,
            "frames_dropped": dropped,
            "compute_cpu_seconds": round(seconds),
            "frames": {split: len(frames) for split, frames in splits.items()},
            "statistics": {split: statistics(frames) for split, frames in splits.items()},
            "checks": json.loads(checks.read_text()) if checks.exists() else None,
            "isolated_atoms": {a.get_chemical_symbols()[0]: a.info["REF_energy"] for a in atoms},
            "molecules": molecules,
        },
    )
    print({split: len(frames) for split, frames in splits.items()}, f"{dropped} dropped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("compute", "check", "assemble"))
    parser.add_argument("--work", type=Path, required=True, help="folder with one file per finished molecule")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where `assemble` writes (default: the package)")
    arguments = parser.parse_args()
    if arguments.command == "assemble":
        assemble(arguments.work, arguments.output)
    else:
        {"compute": compute, "check": check}[arguments.command](arguments.work)


if __name__ == "__main__":
    main()
