"""D3(BJ) dispersion (Grimme et al., doi:10.1002/jcc.21759) through the `dftd3` library of its authors."""

from __future__ import annotations

from typing import Any

from tdn.errors import ConfigError, DataError
from tdn.evaluation.metrics import FramePrediction
from tdn.structure import Structure


def d3_calculator(method: str) -> Any:
    """ASE calculator of D3 with Becke-Johnson damping.

    Args:
        method: Density functional whose damping parameters to take, such as `PBE`: the one that the labels come from.

    Raises:
        ConfigError: If the library is missing or has no parameters for `method`.
    """
    try:
        from dftd3.ase import DFTD3  # pyright: ignore[reportMissingImports]
        from dftd3.interface import RationalDampingParam  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("Dispersion needs the library dftd3: pip install 'tdn[dispersion]'.") from error
    try:
        RationalDampingParam(method=method)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"D3(BJ) has no parameters for {method!r}: name a functional such as PBE or B3LYP."
        ) from error
    return DFTD3(method=method, damping="d3bj")


def with_dispersion(calculator: Any, structure: Structure, prediction: FramePrediction) -> FramePrediction:
    """What a potential predicts of `structure`, plus what `calculator` of `d3_calculator` adds.

    Raises:
        DataError: If the library has no answer.
    """
    from ase.calculators.calculator import all_changes
    from ase.stress import voigt_6_to_full_3x3_stress

    try:
        calculator.calculate(structure.to_ase(), ["energy", "forces", "stress"], list(all_changes))
    except RuntimeError as error:
        raise DataError(f"D3(BJ) has no correction for {structure.formula}: {error}") from error
    found = calculator.results
    stress = prediction.stress
    if stress is not None:
        stress = stress + voigt_6_to_full_3x3_stress(found["stress"])
    return FramePrediction(prediction.energy + float(found["energy"]), prediction.forces + found["forces"], stress)
