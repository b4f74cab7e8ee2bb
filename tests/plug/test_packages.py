"""MACE, NequIP and SevenNet, where they are installed: replaced layers change nothing, decomposed models train.

They need environments of their own (MACE pins e3nn 0.4.4), so a run has one or two of them at most; see
docs/howto/plug.md.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor, nn

from tdn.plug import CPTensorProduct, decomposed, replace_

Energy = Callable[[nn.Module, Atoms], tuple[Tensor, Tensor]]
warnings.filterwarnings("ignore")


def mace(irreps: str) -> tuple[Callable[[], nn.Module], Energy]:
    """Constructor of a small MACE, and its energy and forces."""
    modules = pytest.importorskip("mace.modules", reason="mace-torch is not installed")
    from e3nn import o3
    from mace import data, tools
    from mace.tools.torch_geometric.dataloader import DataLoader

    table = tools.AtomicNumberTable([1, 6, 8])

    def build() -> nn.Module:
        torch.manual_seed(0)
        return modules.ScaleShiftMACE(
            r_max=4.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=2, num_interactions=2, num_elements=3,
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            hidden_irreps=o3.Irreps(irreps), MLP_irreps=o3.Irreps("16x0e"), atomic_energies=np.zeros(3),
            avg_num_neighbors=8.0, atomic_numbers=[1, 6, 8], correlation=2, gate=torch.nn.functional.silu,
            atomic_inter_scale=1.0, atomic_inter_shift=0.0,
        )  # fmt: skip

    def energy(model: nn.Module, atoms: Atoms) -> tuple[Tensor, Tensor]:
        graph = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=4.0)
        result = model(next(iter(DataLoader([graph], batch_size=1))).to_dict(), training=True)
        return result["energy"], result["forces"]

    return build, energy


def nequip(parity: bool) -> tuple[Callable[[], nn.Module], Energy]:
    """Constructor of a small NequIP, and its energy and forces."""
    models = pytest.importorskip("nequip.model", reason="nequip is not installed")
    from nequip.data import compute_neighborlist_, from_ase
    from nequip.utils.global_state import set_global_state

    set_global_state()

    def build() -> nn.Module:
        return models.NequIPGNNModel(
            seed=0, model_dtype="float64", type_names=["H", "C", "O"], r_max=4.0, num_layers=3, l_max=2, parity=parity,
            num_features=8, radial_mlp_width=16, avg_num_neighbors=8.0, compile_mode="eager",
        )  # fmt: skip

    def energy(model: nn.Module, atoms: Atoms) -> tuple[Tensor, Tensor]:
        frame = compute_neighborlist_(from_ase(atoms), r_max=4.0)
        frame["atom_types"] = torch.tensor([[1, 6, 8].index(z) for z in atoms.numbers])
        result = model({k: v.double() if v.is_floating_point() else v for k, v in frame.items()})
        return result["total_energy"], result["forces"]

    return build, energy


def sevennet(parity: bool) -> tuple[Callable[[], nn.Module], Energy]:
    """Constructor of a small SevenNet, and its energy and forces."""
    pytest.importorskip("sevenn", reason="sevenn is not installed")
    from sevenn import _const, _keys
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.model_build import build_E3_equivariant_model
    from sevenn.train.dataload import unlabeled_atoms_to_graph
    from sevenn.util import chemical_species_preprocess

    def build() -> nn.Module:
        torch.manual_seed(0)
        config: dict[str, Any] = copy.deepcopy(_const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG)
        config |= {_keys.NODE_FEATURE_MULTIPLICITY: 8, _keys.LMAX: 2, _keys.NUM_CONVOLUTION: 3, _keys.CUTOFF: 4.0}
        config |= {_keys.IS_PARITY: parity, "shift": 0.0, "scale": 1.0, "conv_denominator": 8.0}
        config |= chemical_species_preprocess(["H", "C", "O"])
        return build_E3_equivariant_model(config)

    def energy(model: nn.Module, atoms: Atoms) -> tuple[Tensor, Tensor]:
        bare = Atoms(atoms.numbers, atoms.positions)
        frame = AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(bare, 4.0)).to_dict()
        frame |= {"batch": torch.zeros(len(atoms), dtype=torch.long), "num_atoms": torch.tensor([len(atoms)])}
        dtype = next(model.parameters()).dtype
        result = model(
            {k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in frame.items()}
        )
        return result["inferred_total_energy"], result["inferred_force"]

    return build, energy


CASES = {
    "mace-scalars": (mace, "8x0e"), "mace-vectors": (mace, "8x0e+8x1o"),
    "nequip-parity": (nequip, True), "nequip": (nequip, False),
    "sevennet-parity": (sevennet, True), "sevennet": (sevennet, False),
}  # fmt: skip


@pytest.fixture(params=CASES)
def package(request: pytest.FixtureRequest) -> Iterator[tuple[Callable[[], nn.Module], Energy, float]]:
    """Constructor, energy and forces, and what rounding may change."""
    function, argument = CASES[request.param]
    single = function is sevennet  # builds in float32 whatever the default
    torch.set_default_dtype(torch.float32 if single else torch.float64)
    yield *function(argument), (1e-4 if single else 1e-10)
    torch.set_default_dtype(torch.float32)


def ethanol() -> tuple[Atoms, Atoms]:
    """A molecule, and its rotated mirror image."""
    atoms = molecule("CH3CH2OH")
    image = atoms.copy()
    image.rotate(33, (1, 2, 3))
    image.positions *= [1, 1, -1]
    return atoms, image


def test_replaced_layers_compute_the_same(package: tuple[Callable[[], nn.Module], Energy, float]) -> None:
    build, energy, tolerance = package
    atoms, _ = ethanol()
    model = build()
    before = energy(model, atoms)
    assert len(replace_(model)) > 3
    after = energy(model, atoms)
    assert before[1].abs().max() > 1e-8
    for ours, theirs in zip(after, before, strict=True):
        assert torch.allclose(ours, theirs, atol=tolerance * float(theirs.abs().max()))


@pytest.mark.parametrize("share_paths", [False, True])
def test_decomposed_model_is_invariant_and_trains(
    package: tuple[Callable[[], nn.Module], Energy, float], share_paths: bool
) -> None:
    build, energy, tolerance = package
    atoms, image = ethanol()
    plain = build()
    with decomposed(share_paths=share_paths):
        model = build()
    layers = [layer for layer in model.modules() if isinstance(layer, CPTensorProduct)]
    assert any(layer.low_rank for layer in layers) == share_paths
    numbers = [sum(p.numel() for p in m.parameters()) for m in (model, plain)]
    assert (numbers[0] < numbers[1]) == share_paths
    first, second = (energy(model, frame)[0].detach() for frame in (atoms, image))
    assert torch.allclose(first, second, atol=tolerance * float(first.abs().max()))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(15):
        value, forces = energy(model, atoms)
        loss = (value - 1.0).square().sum() + (forces - 0.1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
