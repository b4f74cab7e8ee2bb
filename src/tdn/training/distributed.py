"""Several processes, started by `torchrun`: who am I, and sums over all of us."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tdn.devices import choose_device


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: This one; 0 writes and prints.
        world_size: How many there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over all processes, in place; the same bits everywhere."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Sum the gradients in place, and return the sum of the losses `[]`, with one message.

        Exact if every process divides its loss by the label counts of all.
        """
        if self.world_size == 1:
            return loss.detach()
        # A parameter may be out of use on one process and in use on another: all send all.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), loss.detach().to(gradients[0].dtype).reshape(1)])
        dist.all_reduce(flat)
        pieces = flat[:-1].split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
        return flat[-1]

    def broadcast(self, parameters: Sequence[Tensor]) -> None:
        """Give all processes the first one's values."""
        if self.world_size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.data, src=0)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world_size > 1:
            dist.barrier()


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that `torchrun` started, if it did, and choose this one's device.

    Args:
        device: `auto` or a name; each process of a node takes its own GPU.

    Raises:
        ConfigError: If the device does not exist.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")) if world_size > 1 else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size()), chosen
        return
    if world_size == 1:
        yield Processes(), chosen
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), chosen
    finally:
        dist.destroy_process_group()
