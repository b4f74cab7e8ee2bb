"""Drift of the total energy at constant energy, in ASE and in TorchSim, in float64 and float32.

    python benchmarks/nve.py                                       # a model trained for two minutes on the shipped data
    python benchmarks/nve.py --model run/model.tdn --structure ethanol.xyz --name rmd17_ethanol

A small molecule is relaxed and then moved by velocity Verlet, 20 ps in steps of 0.5 fs. The drift is the slope of the
straight line through the total energy; its standard error comes from the means of eight parts of the trajectory. Only
the network's precision changes: positions and velocities are in float64.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from common import train_on_organics, write_result

from tdn import TDNCalculator, load_model
from tdn.datasets import organics_path
from tdn.evaluation.dynamics import run_nve
from tdn.simulation.analysis import drift_of
from tdn.simulation.relaxation import RelaxSettings, relax

RESULTS = Path(__file__).parent / "results"
LIMITS = {"float64": 0.1, "float32": 1.0}
PARTS = 8


def in_ase(model: Path, atoms: Atoms, dtype: str, arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    calculator = TDNCalculator(model, device="cpu", dtype=dtype, compile=arguments.compile)
    options = {"temperature": arguments.temperature, "timestep_fs": arguments.timestep, "seed": arguments.seed}
    run = run_nve(atoms, calculator, steps=arguments.steps, interval=arguments.interval, **options)
    return run.times, run.potential_energies + run.kinetic_energies


def in_torchsim(model: Path, atoms: Atoms, dtype: str, arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    import torch_sim as ts

    from tdn.interfaces.torchsim import TDNTorchSimModel

    start = atoms.copy()
    MaxwellBoltzmannDistribution(
        start, temperature_K=2 * arguments.temperature, rng=np.random.default_rng(arguments.seed)
    )
    Stationary(start)
    ZeroRotation(start)
    precision = getattr(torch, dtype)
    own = TDNTorchSimModel(model, device="cpu", network_dtype=precision, compile=arguments.compile)
    state: Any = ts.initialize_state([start], torch.device("cpu"), torch.float64)
    step = torch.tensor(arguments.timestep * units.fs, dtype=torch.float64)
    init, update = ts.nve(own, dt=step, kT=torch.tensor(0.0, dtype=torch.float64))
    state = init(state)
    state.momenta = torch.from_numpy(start.get_momenta())
    masses = torch.from_numpy(start.get_masses())[:, None]
    energies = [float(state.energy) + float((state.momenta**2 / (2 * masses)).sum())]
    for k in range(1, arguments.steps + 1):
        state = update(state)
        if k % arguments.interval == 0:
            energies.append(float(state.energy) + float((state.momenta**2 / (2 * masses)).sum()))
    times = np.arange(len(energies)) * arguments.interval * arguments.timestep / 1000
    return times, np.array(energies)


def standard_error(times: np.ndarray, energies: np.ndarray, num_atoms: int) -> float:
    """Of the slope, meV/atom/ns, from the scatter of the means of parts about the line."""
    x = np.array([part.mean() for part in np.array_split(times, PARTS)]) / 1000
    y = np.array([part.mean() for part in np.array_split(energies - energies[0], PARTS)]) * 1000 / num_atoms
    line = np.polyfit(x, y, 1)
    scatter = np.square(y - np.polyval(line, x)).sum() / (PARTS - 2)
    return float(np.sqrt(scatter / np.square(x - x.mean()).sum()))


def starting_geometry(model: Path, structure: str | None) -> Atoms:
    """The given or the first shipped test molecule, at the model's minimum."""
    atoms = read(structure, -1) if structure else read(organics_path("test"), 0)
    (result,) = relax(load_model(model, dtype=torch.float64), [atoms], RelaxSettings(fmax=1e-3, steps=2000))
    if result.status != "converged":
        raise SystemExit(f"the molecule did not relax: {result.message or result.fmax}")
    return result.atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="trained for two minutes on the shipped molecules if missing")
    parser.add_argument("--structure", help="the first shipped test molecule if missing")
    parser.add_argument("--name", default="organics")
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K, after equipartition")
    parser.add_argument("--interval", type=int, default=10)
    parser.add_argument("--engines", nargs="+", default=["ASE", "TorchSim"])
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    engines = {"ASE": in_ase, "TorchSim": in_torchsim}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or train_on_organics(Path(folder), "120s").model_path
        atoms = starting_geometry(model, arguments.structure)
        for dtype in arguments.dtypes:
            for engine in arguments.engines:
                begin = time.perf_counter()
                times, energies = engines[engine](model, atoms, dtype, arguments)
                seconds = time.perf_counter() - begin
                drift, fluctuation = drift_of(times, energies, len(atoms))
                rows.append(
                    {
                        "engine": engine,
                        "dtype": dtype,
                        "drift_meV_per_atom_ns": round(drift, 5),
                        "standard_error": round(standard_error(times, energies, len(atoms)), 5),
                        "limit": LIMITS[dtype],
                        "fluctuation_meV_per_atom": round(fluctuation, 5),
                        "ms_per_step": round(1e3 * seconds / arguments.steps, 3),
                    }
                )
                print(rows[-1], flush=True)
    command = f"python benchmarks/nve.py --steps {arguments.steps}"
    if arguments.model:
        command += f" --model MODEL --structure STRUCTURE --name {arguments.name}"
    content = {
        "molecule": atoms.get_chemical_formula(),
        "atoms": len(atoms),
        "ps": arguments.steps * arguments.timestep / 1000,
        "timestep_fs": arguments.timestep,
        "seed": arguments.seed,
        "runs": rows,
    }
    write_result(
        arguments.json or RESULTS / f"nve_{arguments.name}.json", command + " --compile" * arguments.compile, content
    )


if __name__ == "__main__":
    main()
