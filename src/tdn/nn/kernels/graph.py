"""`EdgeIndex`: the edges of a graph, grouped by either end."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tdn.nn.kernels import reference


@torch.library.custom_op("tdn::group_by", mutates_args=())
def group_by(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Group the positions of `index [E]` by its values, which are below `size`.

    Returns:
        `order [E]`: positions, by value and within a value ascending; `offsets [size + 1]`: where each value's
        positions begin in `order`.
    """
    return reference.group_by(index, size)


@group_by.register_fake
def _(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(index), index.new_empty(size + 1)


class EdgeIndex(NamedTuple):
    """Both ends of every edge, and the edges grouped by both ends, so that sums over either need no atomic addition.

    Attributes:
        senders: int64 `[E]`.
        receivers: int64 `[E]`.
        by_receiver: Edges ordered by receiver, int64 `[E]`.
        receiver_offsets: Where a receiver's edges begin in `by_receiver`, int64 `[N + 1]`.
        by_sender: Edges ordered by sender, int64 `[E]`.
        sender_offsets: Where a sender's edges begin in `by_sender`, int64 `[N + 1]`.
    """

    senders: Tensor
    receivers: Tensor
    by_receiver: Tensor
    receiver_offsets: Tensor
    by_sender: Tensor
    sender_offsets: Tensor

    @classmethod
    def build(cls, senders: Tensor, receivers: Tensor, num_nodes: int) -> EdgeIndex:
        """Group the edges from `senders [E]` to `receivers [E]` of a graph of `num_nodes` nodes."""
        return cls(senders, receivers, *group_by(receivers, num_nodes), *group_by(senders, num_nodes))

    @property
    def transposed(self) -> EdgeIndex:
        """The graph with every edge turned round."""
        return EdgeIndex(
            self.receivers, self.senders, self.by_sender, self.sender_offsets, self.by_receiver, self.receiver_offsets
        )
