"""Constants of a layer that keep their float64 digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Constants(nn.Module):
    """A module with fixed arrays as buffers, made anew from float64 after every change of dtype or device.

    They are not in the state dict.

    Args:
        values: float64 arrays by name.
    """

    def __init__(self, values: Mapping[str, NDArray]) -> None:
        super().__init__()
        self.set_constants(values)

    def set_constants(self, values: Mapping[str, NDArray]) -> None:
        """Hold `values` from now on, in the precision and on the device of those that they replace."""
        self._float64 = dict(values)
        for name, value in self._float64.items():
            old = getattr(self, name, None)
            dtype, device = (torch.get_default_dtype(), None) if old is None else (old.dtype, old.device)
            self.register_buffer(name, torch.tensor(value, dtype=dtype, device=device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        for name, value in self._float64.items():
            buffer = getattr(self, name)
            setattr(self, name, torch.tensor(value, dtype=buffer.dtype, device=buffer.device))
        return self
