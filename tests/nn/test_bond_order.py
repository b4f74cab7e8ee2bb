"""Bond-orientational order parameters: values of crystals from the literature, and the addition theorem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from scipy.spatial.transform import Rotation
from scipy.special import eval_legendre

from tdn.graph import AtomGraph
from tdn.nn.bond_order import bond_order
from tdn.structure import Structure


def of_crystal(name: str, r_max: float, **cell: object) -> torch.Tensor:
    """`q_0 .. q_9` of the first atom."""
    graph = AtomGraph.from_structure(Structure.from_ase(bulk(name, **cell)), r_max)
    return bond_order(torch.nn.functional.normalize(graph.edge_vectors(), dim=-1), graph.receivers, graph.num_atoms, 9)[
        0
    ]


# Steinhardt et al. 1983, Table I and Mickel et al. 2013 (doi:10.1063/1.4774084): 12, 12, 14 and 6 neighbours.
@pytest.mark.parametrize(
    ("crystal", "q4", "q6"),
    [
        (("Cu", 3.0), 0.19094, 0.57452),
        (("Mg", 3.3), 0.09722, 0.48476),
        (("Fe", 3.0), 0.03637, 0.51069),
        (("Po", 3.4), 0.76376, 0.35355),
    ],
)
def test_values_of_crystals(crystal: tuple[str, float], q4: float, q6: float):
    shape = {"Mg": {"crystalstructure": "hcp", "a": 3.2, "c": 3.2 * (8 / 3) ** 0.5}}.get(crystal[0], {})
    values = of_crystal(*crystal, **shape)
    assert values[0].item() == pytest.approx(1.0)
    assert values[4].item() == pytest.approx(q4, abs=1e-5)
    assert values[6].item() == pytest.approx(q6, abs=1e-5)


def test_squares_are_mean_legendre_polynomials_of_the_angles():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(7, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    values = bond_order(torch.from_numpy(directions), torch.tensor([0] * 5 + [2] * 2), 3, 9)
    for atom, own in ((0, directions[:5]), (2, directions[5:])):
        for l in range(10):
            expected = eval_legendre(l, own @ own.T).mean()
            assert values[atom, l].item() ** 2 == pytest.approx(max(expected, 1e-6), abs=1e-12)
    assert values[1].tolist() == pytest.approx([1e-3] * 10)


def test_rotations_change_nothing_and_derivatives_are_finite():
    directions = torch.nn.functional.normalize(torch.randn(6, 3, dtype=torch.float64), dim=-1).requires_grad_()
    receivers = torch.zeros(6, dtype=torch.int64)
    values = bond_order(directions, receivers, 2, 9)
    turned = directions @ torch.from_numpy(Rotation.random(random_state=0).as_matrix())
    torch.testing.assert_close(bond_order(turned, receivers, 2, 9), values, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(values.sum(), directions)
    assert gradient.isfinite().all()
