"""Drift of the energy at constant energy in ASE, TorchSim, LAMMPS and OpenMM, in float64 and float32.

    python benchmarks/nve.py                                       # a model trained for two minutes on the shipped data
    python benchmarks/nve.py --model run/model.tdn --structure ethanol.xyz --name rmd17_ethanol
    python benchmarks/nve.py --engines ASE:200000 TorchSim:200000 LAMMPS OpenMM          # steps of an engine's own

A small molecule is relaxed and then moved by velocity Verlet, 20 ps in steps of 0.5 fs. The drift is the slope of the
straight line through the energy; its standard error comes from the means of eight parts of the trajectory. Judged is
the shadow energy (`tdn.simulation.shadow`), which velocity Verlet conserves to eighth order in the step: its drift is
that of the total energy in the long run, but not hidden behind the oscillation of the latter, whose slope stands beside
it as `total_energy`. Only the network's precision changes: positions and velocities are in float64.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read
from common import train_on_organics, write_result
from nve_engines import ENGINES, Run, with_velocities

from tdn import load_model
from tdn.datasets import organics_path
from tdn.simulation.analysis import drift_of
from tdn.simulation.relaxation import RelaxSettings, relax

RESULTS = Path(__file__).parent / "results"
LIMITS = {"float64": 0.1, "float32": 1.0}
PARTS = 8
FEWEST_STEPS = 100
# Differences of so many standard errors, each known from eight parts only, are noise.
NOISE = 3.0


def standard_error(times: np.ndarray, energies: np.ndarray, num_atoms: int) -> float:
    """Of the slope, meV/atom/ns, from the means of parts: the larger of two estimates.

    The first is what their scatter about the line gives, if they are independent. Rounding errors are not, they add up
    to a random walk, whose ends are as far apart as the steps between the parts say.
    """
    x = np.array([part.mean() for part in np.array_split(times, PARTS)]) / 1000
    y = np.array([part.mean() for part in np.array_split(energies - energies[0], PARTS)]) * 1000 / num_atoms
    line = np.polyfit(x, y, 1)
    scatter = np.square(y - np.polyval(line, x)).sum() / (PARTS - 2)
    independent = np.sqrt(scatter / np.square(x - x.mean()).sum())
    walk = np.diff(y).std(ddof=1) * np.sqrt(PARTS - 1) / (x[-1] - x[0])
    return float(max(independent, walk))


def starting_geometry(model: Path, structure: str | None) -> Atoms:
    """The given or the first shipped test molecule, at the model's minimum."""
    atoms = read(structure, -1) if structure else read(organics_path("test"), 0)
    if atoms.pbc.any():
        raise SystemExit("the structure must be a molecule, not periodic: positions must never be wrapped into a cell")
    (result,) = relax(load_model(model, dtype=torch.float64), [atoms], RelaxSettings(fmax=1e-3, steps=2000))
    if result.status != "converged":
        raise SystemExit(f"the molecule did not relax: {result.message or result.fmax}")
    return result.atoms


def measure(engine: str, run: Run) -> dict[str, Any]:
    """Drift of one trajectory beside its limit."""
    begin = time.perf_counter()
    found = ENGINES[engine](run)
    seconds = time.perf_counter() - begin
    of_total, of_shadow = (slope(found.times, energies, len(run.atoms)) for energies in (found.total, found.shadow))
    return {
        "engine": engine,
        "dtype": run.dtype,
        "ps": run.steps * run.timestep / 1000,
        **of_shadow,
        "limit": LIMITS[run.dtype],
        "passed": abs(of_shadow["drift_meV_per_atom_ns"]) <= LIMITS[run.dtype],
        "total_energy": of_total,
        "ms_per_step": round(1e3 * seconds / run.steps, 3),
    }


def slope(times: np.ndarray, energies: np.ndarray, num_atoms: int) -> dict[str, float]:
    """Of an energy, with its standard error and what is left about the line."""
    drift, fluctuation = drift_of(times, energies, num_atoms)
    error = standard_error(times, energies, num_atoms)
    return {
        "drift_meV_per_atom_ns": round(drift, 5),
        "standard_error": round(error, 5),
        "fluctuation_meV_per_atom": round(fluctuation, 5),
    }


def compare(row: dict[str, Any], ase: dict[str, Any]) -> dict[str, Any]:
    """How far a drift is from that in ASE, beside the standard error of the difference."""
    difference = row["drift_meV_per_atom_ns"] - ase["drift_meV_per_atom_ns"]
    error = math.hypot(row["standard_error"], ase["standard_error"])
    return {
        "difference_from_ASE": round(difference, 5),
        "standard_error_of_difference": round(error, 5),
        "within_noise_of_ASE": abs(difference) <= NOISE * error,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="trained for two minutes on the shipped molecules if missing")
    parser.add_argument("--structure", help="its last frame; the first shipped test molecule if missing")
    parser.add_argument("--name", default="organics")
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K, after equipartition")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), metavar="NAME[:STEPS]")
    parser.add_argument("--dtypes", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    named = [text.partition(":") for text in arguments.engines]
    if unknown := {name for name, *_ in named} - set(ENGINES):
        parser.error(f"no engine {', '.join(sorted(unknown))}: there are {', '.join(ENGINES)}")
    arguments.engines = {name: int(steps or arguments.steps) for name, _, steps in named}
    if min(arguments.engines.values()) < FEWEST_STEPS:
        parser.error(f"at least {FEWEST_STEPS} steps, for a drift and its standard error")
    return arguments


def command_of(arguments: argparse.Namespace) -> str:
    """What measures it again, with the user's own paths left out."""
    engines = " ".join(f"{name}:{steps}" for name, steps in arguments.engines.items())
    parts = [f"python benchmarks/nve.py --engines {engines}"]
    if arguments.model:
        parts.append(f"--model MODEL --structure STRUCTURE --name {arguments.name}")
    return " ".join(parts) + " --compile" * arguments.compile


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or train_on_organics(Path(folder), "120s").model_path
        atoms = with_velocities(starting_geometry(model, arguments.structure), arguments.temperature, arguments.seed)
        for dtype in arguments.dtypes:
            first: dict[str, Any] | None = None
            for engine, steps in arguments.engines.items():
                run = Run(atoms, model, dtype, arguments.compile, steps, arguments.timestep)
                row = measure(engine, run)
                if engine == "ASE":
                    first = row
                elif first is not None:
                    row |= compare(row, first)
                rows.append(row)
                print(row, flush=True)
    content = {
        "molecule": atoms.get_chemical_formula(),
        "atoms": len(atoms),
        "timestep_fs": arguments.timestep,
        "temperature_K": arguments.temperature,
        "seed": arguments.seed,
        "runs": rows,
    }
    write_result(arguments.json or RESULTS / f"nve_{arguments.name}.json", command_of(arguments), content)


if __name__ == "__main__":
    main()
