"""A molecule in water in OpenMM: tdn describes the molecule, a force field the rest.

    python openmm_md.py model.tdn [steps]

Needs `pip install 'tdn[openmm]'`. The molecule here is the first water of the box, so that OpenMM's own TIP3P files are
enough; parametrise others as usual and give their indices.
"""

from __future__ import annotations

import sys

import openmm
from openmm import app, unit

from tdn import TDNCalculator
from tdn.interfaces.openmm import mixed_system


def main(model: str, steps: int = 200) -> None:
    field = app.ForceField("tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(field, boxSize=openmm.Vec3(2.0, 2.0, 2.0) * unit.nanometer)
    system = field.createSystem(modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.8 * unit.nanometer)
    mixed = mixed_system(TDNCalculator(model), modeller.topology, system, [0, 1, 2])
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond)
    simulation = app.Simulation(modeller.topology, mixed, integrator)
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=20)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 0)
    simulation.reporters.append(
        app.StateDataReporter(sys.stdout, max(1, steps // 10), step=True, potentialEnergy=True, temperature=True)
    )
    simulation.step(steps)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
