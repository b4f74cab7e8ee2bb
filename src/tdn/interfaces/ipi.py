"""i-PI: a potential as a driver that i-PI runs in its own process, all beads of a ring polymer in one batch.

i-PI loads this file by its path, `driver_path()`: `<ffdirect><pes>custom</pes><pes_path>...</pes_path>`. See
`docs/howto/ipi.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ase.io
import numpy as np
import torch
from numpy.typing import NDArray

from tdn.devices import choose_device
from tdn.errors import ConfigError, DataError
from tdn.interfaces.engine import EngineCore, engine_arguments
from tdn.modelfile import load_model
from tdn.structure import Structure

try:
    from ipi.pes.dummy import Dummy_driver
    from ipi.utils.units import unit_to_internal, unit_to_user
except ImportError as error:
    raise ConfigError(f"i-PI is not installed ({error}): pip install 'tdn[ipi]'.") from error

Array = NDArray[np.float64]
# Energy, forces `[n, 3]`, virial `[3, 3]` and extras, in atomic units.
Result = tuple[float, Array, Array, str]

# i-PI looks for these names.
__DRIVER_NAME__ = "tdn"
__DRIVER_CLASS__ = "TDNDriver"


class TDNDriver(Dummy_driver):
    """Driver of i-PI; its arguments are the `<parameters>` of the force field.

    Args:
        model: Model file.
        template: File that ASE reads; elements and periodic directions are those of its first frame.
        device: As of `TDNCalculator`.
        verbose: As of every driver.

    Raises:
        DataError: If the model does not know an element of the template.
    """

    def __init__(self, model: str, template: str, device: str = "auto", verbose: bool = False, **options: Any) -> None:
        self.core = EngineCore(load_model(model, choose_device(device)))
        self.template = Structure.from_ase(cast(ase.Atoms, ase.io.read(template)))
        self.core.potential.check_elements(self.template.numbers)
        super().__init__(verbose, **options)

    def compute(self, cell: Any, pos: Any) -> Any:
        """One structure, or lists of several, in atomic units; cell vectors are columns."""
        if isinstance(cell, list):
            return self._compute_all(cell, pos)
        return self._compute_all([cell], [pos])[0]

    def compute_structure(self, cell: Array, pos: Array) -> Result:
        """One structure."""
        return self._compute_all([cell], [pos])[0]

    def _compute_all(self, cells: Sequence[Array], positions: Sequence[Array]) -> list[Result]:
        structures = [self._structure(cell, pos) for cell, pos in zip(cells, positions, strict=True)]
        potential = self.core.potential
        parts = [engine_arguments(structure, potential.r_max) for structure in structures]
        size = len(self.template)
        # Side by side: the atoms of the k-th structure begin at k times their number.
        shifted = [(p, z, s + k * size, r + k * size, i) for k, (p, z, s, r, i) in enumerate(parts)]
        arguments = (torch.cat(column).to(potential.device) for column in zip(*shifted, strict=True))
        energies, forces, virials = (value.detach().cpu().numpy() for value in self.core(*arguments))
        if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
            raise DataError("The potential gives no finite energies or forces: the structure has exploded.")
        electronvolt = unit_to_internal("energy", "electronvolt", 1.0)
        force = unit_to_internal("force", "ev/ang", 1.0)
        return [
            (electronvolt * float(energies[p].sum()), force * forces[p], electronvolt * virials[p].sum(axis=0), "")
            for p in (slice(k * size, (k + 1) * size) for k in range(len(structures)))
        ]

    def _structure(self, cell: Array, pos: Array) -> Structure:
        angstrom = unit_to_user("length", "angstrom", 1.0)
        return replace(self.template, cell=angstrom * np.array(cell).T, positions=angstrom * np.reshape(pos, (-1, 3)))


def driver_path() -> str:
    """What `<pes_path>` takes."""
    return str(Path(__file__).resolve())
