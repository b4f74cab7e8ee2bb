"""Which device `auto` means, and whether a named one can be used: one answer for commands, training and calculators."""

from __future__ import annotations

import torch

from tdn.errors import ConfigError


def choose_device(name: str | torch.device, local_rank: int | None = None) -> torch.device:
    """A device that works; `auto` is CUDA where there is one, else the CPU.

    Args:
        name: `auto`, or any PyTorch device.
        local_rank: Of this process among those of its node, each of which takes its own GPU; None for a single process.

    Raises:
        ConfigError: If the device does not exist on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"Device {name} is not usable here ({str(error).splitlines()[0]}); try cpu.") from error
    return device
