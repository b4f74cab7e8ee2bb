"""Batched relaxation of shipped molecules against ASE, one by one, with the same model on one CPU core.

    python benchmarks/relax.py --model run/model.tdn

Without `--model` it first trains one for two minutes on the shipped molecules. Both sides use L-BFGS to the same fmax;
ASE's side has `TDNCalculator` with its default Verlet skin. Every round relaxes the molecules both ways, in turns.
With `--torchsim` TorchSim's FIRE relaxes them as well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import read
from ase.optimize import LBFGS
from common import train_on_organics, write_result

from tdn import TDNCalculator, load_model
from tdn.datasets import organics_path
from tdn.simulation.relaxation import RelaxSettings, relax

RESULTS = Path(__file__).parent / "results"


def molecules(count: int) -> list[Any]:
    """The first frames of the shipped test and training data that have more than one atom."""
    frames = [atoms for split in ("test", "train") for atoms in read(organics_path(split), ":") if len(atoms) > 1]
    return frames[:count]


def one_by_one(potential: Any, frames: list[Any], settings: RelaxSettings, compile: bool) -> tuple[list[float], int]:
    calculator = TDNCalculator(potential, device="cpu", compile=compile)
    energies, steps = [], 0
    for source in frames:
        atoms = source.copy()
        atoms.calc = calculator
        optimizer = LBFGS(atoms, logfile=None)
        optimizer.run(fmax=settings.fmax, steps=settings.steps)
        energies.append(atoms.get_potential_energy())
        steps += optimizer.nsteps
    return energies, steps


def batched(potential: Any, frames: list[Any], settings: RelaxSettings) -> tuple[list[float], int]:
    results = relax(potential, frames, settings)
    return [result.atoms.get_potential_energy() for result in results], sum(result.steps for result in results)


def with_torchsim(potential: Any, frames: list[Any], settings: RelaxSettings) -> tuple[list[float], int]:
    import torch_sim as ts
    from torch_sim.optimizers import fire

    from tdn.interfaces.torchsim import TDNTorchSimModel

    model = TDNTorchSimModel(potential, device="cpu", memory_scales_with="n_atoms")
    converged = ts.generate_force_convergence_fn(settings.fmax, include_cell_forces=False)
    options: Any = {"optimizer": fire, "convergence_fn": converged, "max_steps": settings.steps}
    state: Any = ts.optimize(frames, model, steps_between_swaps=1, **options)
    return state.energy.tolist(), 0


def timed(function: Callable[[], tuple[list[float], int]]) -> tuple[float, list[float], int]:
    start = time.perf_counter()
    energies, steps = function()
    return time.perf_counter() - start, energies, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="trained for two minutes if missing")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="both sides run compiled code")
    parser.add_argument("--torchsim", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS / "relax.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        potential = load_model(arguments.model or train_on_organics(Path(folder), "120s").model_path)
    frames, settings = molecules(arguments.count), RelaxSettings(fmax=arguments.fmax)
    if arguments.compile:
        potential.compile()
    ways: dict[str, Callable[[], tuple[list[float], int]]] = {
        "batched": lambda: batched(potential, frames, settings),
        "one by one in ASE": lambda: one_by_one(potential, frames, settings, arguments.compile),
    }
    if arguments.torchsim:
        ways["TorchSim FIRE"] = lambda: with_torchsim(potential, frames, settings)
    warm = frames[:20]
    batched(potential, warm, settings)
    one_by_one(potential, warm, settings, arguments.compile)
    found: dict[str, list[tuple[float, list[float], int]]] = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            found.setdefault(name, []).append(timed(way))
    reference = np.array(found["one by one in ASE"][0][1])
    rows = {
        name: {
            "seconds": [round(seconds, 3) for seconds, _, _ in runs],
            "steps": runs[0][2],
            "times_as_long_as_batched": round(
                float(np.median([run[0] / own[0] for run, own in zip(runs, found["batched"], strict=True)])), 2
            ),
            "largest_energy_difference_meV": round(1e3 * float(np.abs(np.array(runs[0][1]) - reference).max()), 6),
        }
        for name, runs in found.items()
    }
    command = (
        f"python benchmarks/relax.py --count {arguments.count} --fmax {arguments.fmax} --rounds {arguments.rounds}"
    )
    command += " --compile" * arguments.compile + " --torchsim" * arguments.torchsim
    write_result(arguments.json, command, {"molecules": len(frames), "fmax": arguments.fmax, "ways": rows, "seed": 0})
    for name, row in rows.items():
        print(name, row)


if __name__ == "__main__":
    main()
