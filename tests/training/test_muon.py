"""Muon: orthogonal updates of matrices, AdamW for the rest."""

from __future__ import annotations

import pytest
import torch

from tdn.models.architectures import build_potential
from tdn.models.tdn import TDNConfig
from tdn.training.config import TrainingConfig
from tdn.training.muon import MOMENTUM, UPDATE_RMS, Muon, orthogonalize
from tdn.training.optimisation import make_optimizer


def muon(matrices: list[torch.Tensor], lr: float) -> Muon:
    return Muon([{"params": matrices, "orthogonal": True}], lr, (0.9, 0.95))


@pytest.mark.parametrize("shape", [(1, 8, 64), (3, 32, 32), (2, 48, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_become_about_one_and_vectors_stay(shape: tuple[int, ...], dtype: torch.dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    u, values, v = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ orthogonalize(x) @ v.mT
    found = inside.diagonal(dim1=-2, dim2=-1)
    assert (inside - torch.diag_embed(found)).abs().max() < 1e-4
    large = values > 0.003 * values.pow(4).sum(-1, keepdim=True).pow(0.25)
    assert found[large].min() > 0.8
    assert found.max() < 1.2


def test_the_size_of_a_matrix_does_not_matter():
    x = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalize(1e-15 * x), orthogonalize(x), atol=1e-4, rtol=0)


def test_zeros_stay_zeros():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_a_stack_is_stepped_as_its_matrices_alone():
    generator = torch.Generator().manual_seed(1)
    stack, gradient = (torch.randn(4, 6, 9, generator=generator) for _ in range(2))
    together = stack.clone().requires_grad_()
    alone = [matrix.clone().requires_grad_() for matrix in stack]
    optimizers = muon([together], 0.1), muon(alone, 0.1)
    for k in range(3):
        together.grad = gradient * (k + 1)
        for matrix, own in zip(alone, gradient, strict=True):
            matrix.grad = own * (k + 1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(together, torch.stack(alone))
    assert not torch.equal(together, stack)


def test_first_step_follows_the_gradient_and_has_the_stated_size():
    gradient = torch.randn(16, 40, generator=torch.Generator().manual_seed(2))
    matrix = torch.zeros(16, 40, requires_grad=True)
    matrix.grad = gradient.clone()
    muon([matrix], 0.5).step()
    assert (matrix * gradient).sum() < 0
    assert matrix.square().mean().sqrt().item() == pytest.approx(0.5 * UPDATE_RMS, rel=0.2)
    assert torch.equal(matrix.grad, gradient)


def test_others_are_stepped_by_adamw_and_only_matrices_decay():
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(5, generator=generator)
    mine, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    matrix, frozen = (torch.randn(3, 3, generator=generator, requires_grad=True) for _ in range(2))
    before, untouched = matrix.detach().clone(), frozen.detach().clone()
    groups = [{"params": [matrix, frozen], "orthogonal": True, "weight_decay": 0.5}, {"params": [mine]}]
    optimizer = Muon(groups, 0.1, (0.9, 0.95))
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(4):
        mine.grad = theirs.grad = torch.randn(5, generator=generator)
        matrix.grad = torch.zeros(3, 3)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    torch.testing.assert_close(matrix.detach(), before * 0.95**4)
    assert torch.equal(frozen, untouched)


def test_momentum_is_that_of_nesterov():
    """Two gradients at right angles: the second step is of their mixture, in the stated proportion."""
    matrix = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = muon([matrix], 1.0)
    first, second = torch.diag(torch.tensor([1.0, 0.0])).double(), torch.diag(torch.tensor([0.0, 1.0])).double()
    momentum = torch.zeros_like(first)
    for gradient in (first, second):
        before = matrix.detach().clone()
        matrix.grad = gradient
        optimizer.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        mixture = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        expected = -UPDATE_RMS * 2**0.5 * orthogonalize(mixture[None])[0]
        torch.testing.assert_close(matrix.detach() - before, expected)


def test_which_parameters_are_matrices():
    potential = build_potential(TDNConfig(num_channels=4), {1: 0.0, 6: 0.0}, 1.0, {})
    matrices, others = make_optimizer(TrainingConfig(), potential).param_groups
    names = {id(p): name for name, p in potential.named_parameters()}
    chosen = {names[id(p)] for p in matrices["params"]}
    assert {name for name in names.values() if "linear" in name and name.endswith("weight")} <= chosen
    assert any("radial" in name for name in chosen)
    assert any("gate" in name for name in chosen)
    assert not any("embedding" in name or "products" in name or "shift" in name for name in chosen)
    assert all(min(p.shape[-2:]) > 1 for p in matrices["params"])
    assert len(others["params"]) + len(matrices["params"]) == len(names)
