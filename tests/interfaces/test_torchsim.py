"""The TorchSim model: TorchSim's own contract, ASE's numbers, and every kind of system side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet

from tdn.calculator import TDNCalculator
from tdn.errors import DataError
from tdn.modelfile import save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig

ts = pytest.importorskip("torch_sim", reason="TorchSim is not installed (pip install 'tdn[torchsim]')")

CPU = torch.device("cpu")


def make_potential(elements: tuple[int, ...] = (1, 6, 8)) -> Potential:
    torch.manual_seed(0)
    config = TDNConfig(num_channels=8, num_layers=2, r_max=4.0, radial_hidden=(16,))
    return Potential(config, {z: -10.0 * z for z in elements}, scale=1.5).double().eval()


def make_model(potential: Potential | None = None, **options: object) -> object:
    from tdn.interfaces.torchsim import TDNTorchSimModel

    return TDNTorchSimModel(potential or make_potential(), device="cpu", **options)  # type: ignore[arg-type]


def crystals() -> list[Atoms]:
    first, second = bulk("C", cubic=True), bulk("C")
    for k, atoms in enumerate((first, second)):
        atoms.rattle(0.1, seed=k)
    second.set_cell(second.cell.array @ np.array([[1, 0.1, 0], [0, 1, 0.05], [0, 0, 0.95]]), scale_atoms=True)
    return [first, second]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchsims_own_validation_passes(dtype: torch.dtype) -> None:
    from torch_sim.models.interface import validate_model_outputs

    model = make_model(make_potential((14, 26)), dtype=dtype)
    validate_model_outputs(model, CPU, dtype)  # type: ignore[arg-type]


def test_batched_results_are_those_of_ase(tmp_path: object) -> None:
    calculator = TDNCalculator(make_potential(), device="cpu")
    state = ts.initialize_state(crystals(), CPU, torch.float64)
    result = make_model()(state)  # type: ignore[operator]
    first = 0
    for k, atoms in enumerate(crystals()):
        atoms.calc = calculator
        assert float(result["energy"][k]) == pytest.approx(atoms.get_potential_energy(), rel=1e-13)
        forces = result["forces"][first : first + len(atoms)]
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-11)
        np.testing.assert_allclose(result["stress"][k], atoms.get_stress(voigt=False), atol=1e-13)
        first += len(atoms)


def test_dynamics_are_those_of_ase() -> None:
    water = molecule("H2O")
    MaxwellBoltzmannDistribution(water, temperature_K=300, rng=np.random.default_rng(0))
    water.calc = TDNCalculator(make_potential(), device="cpu")
    model = make_model(skin=0.3)
    state = ts.initialize_state([water, water], CPU, torch.float64)
    init, update = ts.nve(model, dt=torch.tensor(0.2 * units.fs, dtype=torch.float64), kT=torch.tensor(0.025))
    state = init(state)
    state.momenta = torch.from_numpy(np.concatenate([water.get_momenta()] * 2))
    VelocityVerlet(water, timestep=0.2 * units.fs).run(100)
    for _ in range(100):
        state = update(state)
    np.testing.assert_allclose(state.positions[:3], water.positions, atol=1e-10)
    np.testing.assert_allclose(state.momenta[3:], water.get_momenta(), atol=1e-10)
    assert model.neighbors.rebuilds < 100  # type: ignore[attr-defined]


def test_molecules_relax_in_batches() -> None:
    from torch_sim.optimizers import fire

    starts = [molecule("H2O"), molecule("CH4")]
    model = make_model(memory_scales_with="n_atoms")
    converged = ts.generate_force_convergence_fn(1e9, include_cell_forces=False)
    state = ts.optimize(starts, model, optimizer=fire, convergence_fn=converged, max_steps=10)
    assert state.n_systems == 2
    assert torch.isnan(model(state)["stress"]).all()  # type: ignore[operator]


def test_bad_systems_are_refused() -> None:
    model = make_model()
    with pytest.raises(DataError, match="Si"):
        model(ts.initialize_state([bulk("Si")], CPU, torch.float64))  # type: ignore[operator]
    doubled = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.01]])
    with pytest.raises(DataError, match="apart"):
        model(ts.initialize_state([molecule("H2O"), doubled], CPU, torch.float64))  # type: ignore[operator]


def test_model_file_and_states_as_dictionaries(tmp_path: object) -> None:
    from tdn.interfaces.torchsim import TDNTorchSimModel

    path = f"{tmp_path}/model.tdn"
    save_model(path, make_potential().float())
    model = TDNTorchSimModel(path, device="cpu")
    assert model.dtype == torch.float64
    assert model.potential.dtype == torch.float32
    state = ts.initialize_state(crystals(), CPU, torch.float64)
    content = {name: getattr(state, name) for name in ("positions", "cell", "pbc", "atomic_numbers", "system_idx")}
    assert torch.equal(model(content)["energy"], model(state)["energy"])
