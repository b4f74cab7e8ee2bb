"""`Guard`: stops a simulation whose structure explodes or leaves what its model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from tdn.data.dataset import pair_name
from tdn.errors import TDNError
from tdn.neighbors import neighbor_list
from tdn.structure import Structure
from tdn.units import MEV_PER_EV

# Distances below this share of the shortest one in training count as outside: bonds vibrate a little further.
CLOSEST_SHARE = 0.85


class SimulationStopped(TDNError):
    """The structure has exploded or left the model's domain; the last state saved before that stays."""


@dataclass(frozen=True)
class Guard:
    """Limits of a simulation.

    In ASE: `dynamics.attach(Guard(max_uncertainty=0.005).check, interval=10, atoms=atoms)`.

    Attributes:
        max_temperature: K.
        max_force: eV/Å.
        shortest: Shortest distance of each pair of elements in the training data, Å, keys such as `C-H`; pairs that
            are missing have no limit.
        max_uncertainty: Of the energy, eV/atom; needs a calculator that knows it.
    """

    max_temperature: float = np.inf
    max_force: float = 100.0
    shortest: Mapping[str, float] = field(default_factory=dict)
    max_uncertainty: float = np.inf

    def check(self, atoms: Atoms) -> None:
        """Look at the present geometry, velocities and forces.

        Raises:
            SimulationStopped: Saying which limit was passed, where, and what to do.
        """
        forces, temperature = atoms.get_forces(), atoms.get_temperature()
        if not (np.isfinite(atoms.positions).all() and np.isfinite(forces).all() and np.isfinite(temperature)):
            raise SimulationStopped("Positions, velocities or forces are NaN or infinite. Try a smaller time step.")
        if temperature > self.max_temperature:
            raise SimulationStopped(
                f"The temperature is {temperature:.0f} K (limit {self.max_temperature:.0f} K): the structure has "
                "exploded. Try a smaller time step, or relax the structure first."
            )
        sizes = np.linalg.norm(forces, axis=1)
        worst = int(sizes.argmax())
        if sizes[worst] > self.max_force:
            raise SimulationStopped(
                f"The force on atom {worst} ({atoms.symbols[worst]}) is {sizes[worst]:.0f} eV/Å (limit "
                f"{self.max_force:.0f} eV/Å). Try a smaller time step, or train on such structures."
            )
        if self.shortest:
            self._check_distances(Structure.from_ase(atoms))
        if np.isfinite(self.max_uncertainty):
            self._check_uncertainty(atoms)

    def _check_uncertainty(self, atoms: Atoms) -> None:
        found: Any = cast(Calculator, atoms.calc).get_property("energy_uncertainty", atoms)
        check_uncertainty(found / len(atoms), self.max_uncertainty)

    def _check_distances(self, structure: Structure) -> None:
        senders, receivers, shifts = neighbor_list(structure, CLOSEST_SHARE * max(self.shortest.values()))
        vectors = structure.positions[senders] + shifts @ structure.cell - structure.positions[receivers]
        for i, j, distance in zip(senders, receivers, np.linalg.norm(vectors, axis=1), strict=True):
            pair = pair_name(int(structure.numbers[i]), int(structure.numbers[j]))
            known = self.shortest.get(pair, 0.0)
            if distance < CLOSEST_SHARE * known:
                raise SimulationStopped(
                    f"Atoms {i} and {j} ({pair}) are {distance:.2f} Å apart; the closest in the training data were "
                    f"{known:.2f} Å, so that the model has left what it knows. Train on such structures, or pass "
                    "--extrapolate to go on at your own risk."
                )


def check_uncertainty(found: float, limit: float) -> None:
    """Stop where the energy is more uncertain than `limit`, both in eV/atom; NaN is.

    Raises:
        SimulationStopped: Saying so.
    """
    if not found <= limit:
        raise SimulationStopped(
            f"The energy is uncertain by {MEV_PER_EV * found:.2g} meV/atom (limit {MEV_PER_EV * limit:.2g} meV/atom), "
            "so that the model has left what it knows. Train on such structures."
        )
