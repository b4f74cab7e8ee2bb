"""Elastic constants of crystals, from the stress of strained copies whose atoms are relaxed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_strain
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tdn.errors import DataError
from tdn.models.potential import Potential
from tdn.report.figures import INK, new_figure
from tdn.simulation.relaxation import RelaxSettings, relax
from tdn.units import GPA_PER_EV_PER_ANGSTROM3

VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


@dataclass(frozen=True)
class Elasticity:
    """Elastic constants.

    Attributes:
        constants: `C_ij` in GPa, symmetric, Voigt order xx yy zz yz xz xy, `[6, 6]`.
        asymmetry: Largest `|C_ij - C_ji|` before they were made symmetric, GPa: how far to trust the digits.
    """

    constants: NDArray[np.float64]
    asymmetry: float

    @property
    def bulk_modulus(self) -> float:
        """Mean of Voigt's and Reuss' bound, GPa (Hill, doi:10.1088/0370-1298/65/5/307)."""
        c, s = self.constants, np.linalg.inv(self.constants)
        return float(0.5 * (c[:3, :3].sum() / 9 + 1 / s[:3, :3].sum()))

    @property
    def shear_modulus(self) -> float:
        """Mean of Voigt's and Reuss' bound, GPa."""
        c, s = self.constants, np.linalg.inv(self.constants)

        def parts(m: NDArray[Any]) -> tuple[float, float, float]:
            return np.trace(m[:3, :3]), m[0, 1] + m[0, 2] + m[1, 2], np.trace(m[3:, 3:])

        (a, b, d), (e, f, g) = parts(c), parts(s)
        return float(0.5 * ((a - b + 3 * d) / 15 + 15 / (4 * e - 4 * f + 3 * g)))

    @property
    def stable(self) -> bool:
        """Whether every small strain costs energy (Born's criterion)."""
        return bool(np.linalg.eigvalsh(self.constants).min() > 0)

    def to_dict(self) -> dict[str, object]:
        """As JSON values; moduli only of stable crystals."""
        moduli: dict[str, object] = {}
        if self.stable:
            k, g = self.bulk_modulus, self.shear_modulus
            moduli = {
                "bulk_modulus_GPa": k, "shear_modulus_GPa": g, "youngs_modulus_GPa": 9 * k * g / (3 * k + g),
                "poisson_ratio": (3 * k - 2 * g) / (6 * k + 2 * g),
            }  # fmt: skip
        return {
            "constants_GPa": self.constants.tolist(), "order": list(VOIGT), "asymmetry_GPa": self.asymmetry,
            "stable": self.stable, **moduli,
        }  # fmt: skip


def elastic_constants(
    potential: Potential, atoms: Atoms, *, strain: float = 0.005, fmax: float = 1e-3, steps: int = 500
) -> Elasticity:
    """Elastic constants of a relaxed crystal.

    Twelve copies are strained by `±strain` along each Voigt component, their atoms relaxed in one batch, and `C_ij` are
    central differences of the stress.

    Args:
        potential: The model; use float64.
        atoms: The crystal, relaxed with its cell.
        strain: Size of the strains; shears are engineering strains.
        fmax: To which the atoms of strained copies relax, eV/Å.
        steps: Most steps of that.

    Raises:
        DataError: If the crystal is not periodic in all directions, or a strained copy cannot be relaxed.
    """
    if not atoms.pbc.all():
        raise DataError(f"Elastic constants need a crystal periodic in all directions, got pbc={atoms.pbc.tolist()}.")
    strained = [_strained(atoms, k, sign * strain) for k in range(6) for sign in (1, -1)]
    results = relax(potential, strained, RelaxSettings(fmax, steps))
    for result in results:
        if result.status != "converged":
            raise DataError(f"A strained copy did not relax ({result.status} {result.message}): raise --steps or fmax.")
    stress = np.array([result.atoms.get_stress() for result in results]) * GPA_PER_EV_PER_ANGSTROM3
    slopes = (stress[0::2] - stress[1::2]) / (2 * strain)
    return Elasticity(0.5 * (slopes + slopes.T), float(np.abs(slopes - slopes.T).max()))


def _strained(atoms: Atoms, component: int, size: float) -> Atoms:
    strain = np.zeros(6)
    strain[component] = size
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ voigt_6_to_full_3x3_strain(strain), scale_atoms=True)
    return copy


def matrix_figure(result: Elasticity) -> Figure:
    """The 6 by 6 matrix as a picture with its numbers, GPa."""
    figure, axes = new_figure(3.4, 3.6)
    limit = float(np.abs(result.constants).max())
    axes.imshow(result.constants, cmap="RdBu", vmin=-1.6 * limit, vmax=1.6 * limit)
    for i, row in enumerate(result.constants):
        for j, value in enumerate(row):
            axes.text(j, i, f"{round(value) + 0}", ha="center", va="center", color=INK, fontsize=8)
    axes.set_xticks(range(6), VOIGT)
    axes.set_yticks(range(6), VOIGT)
    axes.grid(visible=False)
    axes.set_title("elastic constants (GPa)", fontsize=9.5)
    return figure
