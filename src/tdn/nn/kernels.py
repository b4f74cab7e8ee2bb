"""The one seam where faster kernels plug in: the sum over neighbours in rank space.

The operation is trilinear, `agg[n, r, u] = sum_{e -> n} sum_l yb[e, r, l] w[e, l, u] xa[sender(e), r, u]`. A faster
implementation replaces `aggregate` and nothing else: no layer, no parameter and no state dict knows of it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def aggregate(
    node_factors: Tensor, edge_factors: Tensor, weights: Tensor, senders: Tensor, receivers: Tensor
) -> Tensor:
    """Sum the rank-space products of senders and edges into their receivers; plain PyTorch, any device and dtype.

    Args:
        node_factors: `xa [N, R, U]`, node features projected on the first factor.
        edge_factors: `yb [E, R, W]`, harmonics projected on the second factor, one column a radial weight.
        weights: `w [E, W, U]`, radial weights.
        senders: int64 `[E]`.
        receivers: int64 `[E]`, ascending.

    Returns:
        `[N, R, U]`.
    """
    messages = torch.bmm(edge_factors, weights) * node_factors.index_select(0, senders)
    return torch.zeros_like(node_factors).index_add(0, receivers, messages)
