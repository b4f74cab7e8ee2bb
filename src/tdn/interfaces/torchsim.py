"""`TDNTorchSimModel`: a potential in TorchSim, which relaxes and moves many structures at once.

Written for torch-sim-atomistic 0.3 and checked with it; later versions pass `pbc` as a tensor and know more ways to
count memory, both of which are taken as they come.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from tdn.devices import choose_device
from tdn.errors import ConfigError
from tdn.graph import AtomGraph
from tdn.modelfile import load_model
from tdn.models.potential import Potential
from tdn.models.uncertainty import LastLayer, energy_uncertainty
from tdn.simulation.guards import check_uncertainty
from tdn.simulation.verlet import VerletBatch
from tdn.structure import Structure

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
    from torch_sim.typing import MemoryScaling
except ImportError as error:
    raise ConfigError(f"TorchSim is not installed ({error}): pip install 'tdn[torchsim]'.") from error


class TDNTorchSimModel(ModelInterface):
    """Energies, forces and stress for TorchSim's integrators and optimisers.

    States are in float64 by default, whatever the precision of the network: positions lose no digits, and a network in
    float32 costs no more for it.

    Args:
        model: Model file or potential; a potential is used as it is, and moved to `device`.
        device: `auto` (CUDA where there is one, else the CPU) or any PyTorch device.
        dtype: Precision of states and results: what TorchSim calls the model's dtype.
        network_dtype: Precision of the network; None keeps that of a potential, or of a model file.
        skin: How much further than the cutoff the neighbour lists reach, Å.
        compile: Run compiled code; the first call takes a minute or two.
        memory_scales_with: How TorchSim's autobatchers estimate memory; by default edges where TorchSim counts them,
            else atoms times density. Molecules without a cell have no density: use `n_atoms`.

    Raises:
        ConfigError: If the device does not work.
        ModelFileError: If the file is missing, damaged or not a model.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Potential,
        device: torch.device | str = "auto",
        dtype: torch.dtype = torch.float64,
        network_dtype: torch.dtype | None = None,
        skin: float = 0.5,
        compile: bool = False,
        memory_scales_with: Any = None,
    ) -> None:
        super().__init__()
        self._device = choose_device(device)
        self._dtype = dtype
        self._compute_forces = True
        self._compute_stress = True
        preferred = "n_edges" if "n_edges" in get_args(MemoryScaling) else "n_atoms_x_density"
        self._memory_scales_with = memory_scales_with or preferred
        potential = model if isinstance(model, Potential) else load_model(model)
        self.potential = potential.to(device=self._device, dtype=network_dtype or potential.dtype).eval()
        if compile:
            self.potential.compile()
        self.neighbors = VerletBatch(self.potential.r_max, skin)

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Results for all systems of a state.

        Args:
            state: `SimState`, or a dictionary of its tensors.

        Returns:
            `energy` in eV `[n_systems]`, `forces` in eV/Å `[n_atoms, 3]` and `stress` in eV/Å³ `[n_systems, 3, 3]`,
            tension positive, NaN for systems that are not periodic in all directions.

        Raises:
            DataError: For unknown elements, NaN, or atoms on top of each other.
        """
        if not isinstance(state, SimState):
            # Masses are part of every state and of no potential.
            state = SimState(**{"masses": torch.ones_like(state["positions"][:, 0]), **state})
        self.potential.check_elements(state.atomic_numbers)
        graph = self.neighbors.graph(_structures(state)).to(self._device)
        prediction = self.potential(graph)
        return {
            "energy": prediction.energy.detach().to(self._dtype),
            "forces": prediction.forces.detach().to(self._dtype),
            "stress": prediction.stress.detach().to(self._dtype),
        }

    def energy_uncertainties(self, state: Any) -> Tensor:
        """Standard deviation to be expected of the energy of every system, eV `[n_systems]`.

        Raises:
            ConfigError: If the model has no uncertainties.
        """
        posterior = self.potential.uncertainty
        if posterior is None:
            raise ConfigError("This model has no uncertainties: fit them with `tdn calibrate`.")
        layer = LastLayer(self.potential)
        graphs = (AtomGraph.from_structure(own, self.potential.r_max) for own in _structures(state).values())
        found = [energy_uncertainty(layer, posterior, graph.to(self._device)) for graph in graphs]
        return torch.tensor(found, dtype=self._dtype, device=self._device)


def uncertainty_monitor(max_uncertainty: float = math.inf) -> Callable[[Any, Any], Tensor]:
    """A property calculator for TorchSim's `TrajectoryReporter`: the uncertainty of each system's energy, eV/atom.

    The reporter writes it beside the trajectory. `ts.integrate` ends with `tdn.simulation.guards.SimulationStopped`
    where it passes `max_uncertainty`; what was written until then stays.

    Args:
        max_uncertainty: eV/atom.
    """

    def monitor(state: Any, model: Any) -> Tensor:
        atoms = torch.bincount(state.system_idx)
        found = model.energy_uncertainties(state) / atoms
        check_uncertainty(float(found.max()), max_uncertainty)
        return found

    return monitor


def _structures(state: SimState) -> dict[Any, Structure]:
    """The systems of a state by their index; neighbour lists are made on the CPU."""
    counts = torch.bincount(state.system_idx).tolist()
    positions = state.positions.detach().cpu().double().numpy()
    numbers = state.atomic_numbers.cpu().numpy().astype(np.int64)
    cells = state.row_vector_cell.detach().cpu().double().numpy()
    pbc = np.broadcast_to(torch.as_tensor(state.pbc).cpu().numpy(), 3).astype(np.bool_)
    ends = np.cumsum(counts)[:-1]
    parts = zip(np.split(numbers, ends), np.split(positions, ends), cells, strict=True)
    return {k: Structure(own, places, np.ascontiguousarray(cell), pbc) for k, (own, places, cell) in enumerate(parts)}
