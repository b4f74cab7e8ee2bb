"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum whose every singular value is made one.

PyTorch's own `torch.optim.Muon` takes single matrices and works in bfloat16; here a parameter may be a stack of
matrices, one a degree, and matrices of one shape are worked on together, in the precision of the parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# What an update's entries are of the learning rate, as root mean square: Adam's are about as large (2502.16982, §2.2).
UPDATE_RMS = 0.2
MOMENTUM = 0.95
# Of odd quintics in turn, each the nearest to one where the last has left the singular values (2505.16932, §3): from
# 0.003 on they end between 0.8 and 1.2. `benchmarks/forms.py` has fewer, and the one that Muon was published with.
COEFFICIENTS = (
    (8.3837, -24.7662, 18.3573),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)


class Muon(torch.optim.AdamW):
    """Muon for matrices, AdamW for all other parameters; learning rates of both mean the same.

    Args:
        groups: PyTorch's parameter groups. Where `orthogonal` is true, parameters are stacks of matrices `[..., m, n]`
            whose entries are of order one.
        lr: Learning rate.
        betas: AdamW's.
        amsgrad: AdamW's.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], amsgrad: bool = False
    ) -> None:
        groups = [{"orthogonal": False, **group} for group in groups]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=0.0, amsgrad=amsgrad)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; parameters without a gradient stay."""
        groups = [group for group in self.param_groups if group["orthogonal"]]
        gradients = {p: p.grad for group in groups for p in group["params"] if p.grad is not None}
        # AdamW passes over parameters without a gradient.
        for matrix in gradients:
            matrix.grad = None
        super().step(closure)
        for matrix, gradient in gradients.items():
            matrix.grad = gradient
        for group in groups:
            matrices = [p for p in group["params"] if p.grad is not None]
            self._step_matrices(matrices, group["lr"], group["weight_decay"])

    def _step_matrices(self, matrices: list[Tensor], lr: float, weight_decay: float) -> None:
        same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in matrices:
            same_shape[matrix.shape[-2:]].append(matrix)
        for (m, n), members in same_shape.items():
            updates = [self._nesterov(matrix).view(-1, m, n) for matrix in members]
            # Entries of an orthogonal matrix have a root mean square of 1/sqrt(max(m, n)).
            step = orthogonalize(torch.cat(updates)) * (-lr * UPDATE_RMS * max(m, n) ** 0.5)
            for matrix, own in zip(members, step.split([len(update) for update in updates]), strict=True):
                matrix.mul_(1.0 - lr * weight_decay).add_(own.view_as(matrix))

    def _nesterov(self, matrix: Tensor) -> Tensor:
        """Momentum after this step, and the gradient once more."""
        assert matrix.grad is not None
        if not self.state[matrix]:
            # AdamW looks for the step of every parameter whose state it loads.
            self.state[matrix] |= {"exp_avg": torch.zeros_like(matrix), "step": torch.zeros(())}
        momentum = self.state[matrix]["exp_avg"].lerp_(matrix.grad, 1.0 - MOMENTUM)
        return matrix.grad.lerp(momentum, MOMENTUM)


def orthogonalize(x: Tensor) -> Tensor:
    """Matrices `[B, m, n]` with their singular vectors kept and their singular values near one, by Newton and Schulz.

    A matrix of zeros stays one.
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonalize(x.mT).mT
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=tiny)
    # The largest singular value is at most the root of this norm, and nearer to it than to that of `x` itself.
    gram = x @ x.mT
    bound = gram.norm(dim=(-2, -1), keepdim=True).clamp(min=tiny)
    x, gram = x / bound.sqrt(), gram / bound
    for k, (a, b, c) in enumerate(COEFFICIENTS):
        if k:
            gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
