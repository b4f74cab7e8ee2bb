"""OpenMM through `openmm.PythonForce`: a whole system, or chosen atoms of one that a force field describes.

Units change here and only here: OpenMM's are nm and kJ/mol.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tdn.errors import ConfigError
from tdn.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV

if TYPE_CHECKING:
    import openmm

    from tdn.calculator import TDNCalculator


class PotentialFunction:
    """What `PythonForce` calls: a `State` to energy (kJ/mol) and forces (kJ/mol/nm).

    Args:
        calculator: Energies and forces.
        numbers: Atomic numbers of the particles that the force acts on.
        periodic: Take the box from the state.
    """

    def __init__(self, calculator: TDNCalculator, numbers: NDArray[np.int64], periodic: bool) -> None:
        from ase import Atoms

        calculator.potentials[0].check_elements(numbers)
        self.calculator = calculator
        self.atoms = Atoms(numbers=numbers, pbc=periodic)

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Energy and forces of the particles in `state`.

        Raises:
            DataError: For atoms on top of each other or positions that are not finite; OpenMM hands it on.
        """
        from openmm import unit

        self.atoms.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        if self.atoms.pbc.any():
            self.atoms.set_cell(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
        self.calculator.calculate(self.atoms, ("energy", "forces"))
        results = self.calculator.results
        return results["energy"] * KJ_PER_MOL_PER_EV, results["forces"] * (KJ_PER_MOL_PER_EV * ANGSTROM_PER_NM)


def potential_force(
    calculator: TDNCalculator, topology: Any, particles: Sequence[int] | None = None, periodic: bool = False
) -> openmm.PythonForce:
    """A potential as a force to add to a `System`.

    Args:
        calculator: Energies and forces.
        topology: `openmm.app.Topology`, for the elements.
        particles: Indices of the atoms it acts on, as if there were no others; all if None.
        periodic: Whether the system is periodic.

    Raises:
        ConfigError: If OpenMM is missing, an index is out of range or twice there, or an atom has no element.
        DataError: If the potential does not know an element.
    """
    openmm = _openmm()
    elements = [atom.element for atom in topology.atoms()]
    chosen = list(range(len(elements))) if particles is None else [int(index) for index in particles]
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= len(elements):
        raise ConfigError(f"Particles must be distinct indices 0..{len(elements) - 1}, at least one; got {chosen}.")
    if None in (elements[index] for index in chosen):
        raise ConfigError("An atom of the potential has no element in the topology: leave out virtual sites.")
    numbers = np.array([elements[index].atomic_number for index in chosen])
    force = openmm.PythonForce(PotentialFunction(calculator, numbers, periodic))
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setParticles(chosen if particles is not None else [])
    force.setName("tdn")
    return force


def whole_system(calculator: TDNCalculator, topology: Any) -> openmm.System:
    """A system whose only force is the potential; periodic if the topology has a box."""
    openmm = _openmm()
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    box = topology.getPeriodicBoxVectors()
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    system.addForce(potential_force(calculator, topology, periodic=box is not None))
    return system


def mixed_system(
    calculator: TDNCalculator, topology: Any, system: openmm.System, particles: Sequence[int]
) -> openmm.System:
    """A force field's system in which the potential describes some atoms: mechanical embedding.

    The force field's terms among these atoms alone are switched off, and constraints between them removed; all others,
    such as charges and Lennard-Jones terms between them and the rest, stay. The atoms should be whole molecules: bonds
    across the border keep the force field's terms.

    Args:
        calculator: Energies and forces of the chosen atoms.
        topology: `openmm.app.Topology` of the system.
        system: From a force field, such as `ForceField.createSystem(topology)`; it is copied, not changed.
        particles: Indices of the atoms that the potential describes.

    Raises:
        ConfigError: If a force has terms among these atoms that this function cannot switch off, or as in
            `potential_force`.
    """
    import copy

    force = potential_force(calculator, topology, particles, system.usesPeriodicBoundaryConditions())
    mixed, chosen = copy.deepcopy(system), {int(index) for index in particles}
    for term in mixed.getForces():
        _switch_off(term, chosen)
    for index in reversed(range(mixed.getNumConstraints())):
        if set(mixed.getConstraintParameters(index)[:2]) <= chosen:
            mixed.removeConstraint(index)
    mixed.addForce(force)
    return mixed


def _switch_off(force: Any, chosen: set[int]) -> None:
    """Take the interactions among `chosen` alone out of one force."""
    handlers: dict[str, Callable[[Any, set[int]], None]] = {
        "HarmonicBondForce": lambda f, c: _zero(f, c, "Bond", 2, 1),
        "HarmonicAngleForce": lambda f, c: _zero(f, c, "Angle", 3, 1),
        "PeriodicTorsionForce": lambda f, c: _zero(f, c, "Torsion", 4, 1),
        "RBTorsionForce": lambda f, c: _zero(f, c, "Torsion", 4, 6),
        "CMAPTorsionForce": _zero_maps,
        "NonbondedForce": _except_pairs,
        "CustomNonbondedForce": _exclude_pairs,
    }
    # These have no terms among particles.
    harmless = ("CMMotionRemover", "Barostat", "Thermostat", "ExternalForce")
    name = type(force).__name__
    if name in handlers:
        handlers[name](force, chosen)
    elif not name.endswith(harmless):
        raise ConfigError(
            f"Cannot tell which terms of {name} lie within the atoms of the potential. Remove them from the system "
            f"yourself; handled are {', '.join(handlers)}."
        )


def _zero(force: Any, chosen: set[int], kind: str, num_particles: int, num_strengths: int) -> None:
    """Zero the last `num_strengths` parameters, the force constants, of the terms within `chosen`."""
    for index in range(getattr(force, f"getNum{kind}s")()):
        parameters = list(getattr(force, f"get{kind}Parameters")(index))
        if set(parameters[:num_particles]) <= chosen:
            parameters[-num_strengths:] = [0.0] * num_strengths
            getattr(force, f"set{kind}Parameters")(index, *parameters)


def _zero_maps(force: Any, chosen: set[int]) -> None:
    flat = None
    for index in range(force.getNumTorsions()):
        map_index, *particles = force.getTorsionParameters(index)
        if set(particles) <= chosen:
            if flat is None:
                size, _ = force.getMapParameters(map_index)
                flat = force.addMap(size, [0.0] * size**2)
            force.setTorsionParameters(index, flat, *particles)


def _pairs(chosen: Iterable[int]) -> Iterable[tuple[int, int]]:
    return itertools.combinations(sorted(chosen), 2)


def _except_pairs(force: Any, chosen: set[int]) -> None:
    for first, second in _pairs(chosen):
        force.addException(first, second, 0.0, 1.0, 0.0, True)


def _exclude_pairs(force: Any, chosen: set[int]) -> None:
    known = {frozenset(force.getExclusionParticles(index)) for index in range(force.getNumExclusions())}
    for pair in _pairs(chosen):
        if frozenset(pair) not in known:
            force.addExclusion(*pair)


def _openmm() -> Any:
    try:
        import openmm
    except ImportError as error:
        raise ConfigError("OpenMM is not installed: pip install 'tdn[openmm]'.") from error
    if "PythonForce" not in vars(openmm):
        raise ConfigError(f"OpenMM {openmm.__version__} has no PythonForce: upgrade it; 8.6 is tested.")
    return openmm
