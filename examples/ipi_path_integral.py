"""Path-integral molecular dynamics of a molecule with i-PI: what quantum nuclei add to its kinetic energy.

    python ipi_path_integral.py model.tdn molecule.xyz [steps] [beads]

Needs `pip install 'tdn[ipi]'`. Writes `pimd.out` and `pimd.pos_*.xyz` into the current folder.
"""

from __future__ import annotations

import sys
from typing import cast

import ase.io
from ase import Atoms
from ase.units import fs, kB
from ipi.scripting import InteractiveSimulation, motion_nvt_xml, simulation_xml

from tdn.interfaces.ipi import driver_path

TEMPERATURE = 300.0
OUTPUT = """
<output prefix='pimd'>
  <properties stride='1' filename='out'>
    [ step, time{femtosecond}, conserved{electronvolt}, potential{electronvolt}, kinetic_cv{electronvolt} ]
  </properties>
  <trajectory filename='pos' stride='10' format='ase'> positions </trajectory>
</output>
"""


def main(model: str, structure: str, steps: int = 200, beads: int = 16) -> None:
    atoms = cast(Atoms, ase.io.read(structure))
    if atoms.cell.rank != 3:  # i-PI wants a box, which the potential does not see
        atoms.center(vacuum=10.0)
    ase.io.write("template.xyz", atoms, format="extxyz")
    # All beads in one batch: one evaluation of the network a step.
    forcefield = f"""
    <ffdirect name='tdn'>
      <pes>custom</pes> <pes_path>{driver_path()}</pes_path> <batch_size>{beads}</batch_size>
      <parameters> {{ model: {model}, template: template.xyz }} </parameters>
    </ffdirect>
    """
    motion = motion_nvt_xml(timestep=0.5 * fs, path_integrals=True)
    xml = simulation_xml([atoms] * beads, forcefield, motion, temperature=TEMPERATURE, output=OUTPUT)
    simulation = InteractiveSimulation(xml)
    kinetic = []
    for _ in range(steps):
        simulation.run(1)
        kinetic.append(simulation.properties("kinetic_cv"))
    settled = kinetic[len(kinetic) // 2 :]
    classical = 1.5 * len(atoms) * kB * TEMPERATURE
    print(f"kinetic energy {sum(settled) / len(settled):.3f} eV with {beads} beads; classical {classical:.3f} eV")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5]))
