"""Many structures at once in TorchSim, watched: `python torchsim_md.py model.tdn starts.extxyz [steps] [meV/atom]`.

Needs `pip install 'tdn[torchsim]'` and a model with uncertainties (`tdn calibrate`). Every frame of the file moves at
300 K on its own; the run ends where the energy of one is more uncertain than the last argument. Writes `md-0.h5`, ...
with trajectories and uncertainties into the current folder.
"""

from __future__ import annotations

import sys

import ase.io
import torch_sim as ts
from ase import Atoms

from tdn.interfaces.torchsim import TDNTorchSimModel, uncertainty_monitor
from tdn.simulation.guards import SimulationStopped


def main(model: str, structures: str, steps: int = 200, limit: float = 5.0) -> None:
    starts: list[Atoms] = ase.io.read(structures, ":")
    reporter = ts.TrajectoryReporter(
        [f"md-{k}.h5" for k in range(len(starts))],
        state_frequency=10,
        prop_calculators={10: {"uncertainty": uncertainty_monitor(limit / 1000)}},
    )
    network = TDNTorchSimModel(model, memory_scales_with="n_atoms")
    try:
        end = ts.integrate(
            starts,
            network,
            integrator=ts.nvt_langevin,
            n_steps=steps,
            timestep=0.0005,  # ps
            temperature=300,
            trajectory_reporter=reporter,
        )
    except SimulationStopped as error:
        print(error)
        return
    finally:
        reporter.close()
    for atoms, uncertainty in zip(end.to_atoms(), network.energy_uncertainties(end), strict=True):
        print(f"{atoms.symbols}: uncertain by {1000 * float(uncertainty) / len(atoms):.2g} meV/atom at the end")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]), *map(float, sys.argv[4:5]))
