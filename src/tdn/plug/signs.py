"""Signs of couplings: e3nn before 0.5 has the opposite sign for some paths of odd `l1 + l2 + l3`."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np

from tdn.cp.couplings import Path, wigner_3j
from tdn.errors import ConfigError

Signs = Literal["current", "installed"]


def coupling_sign(path: Path, signs: Signs) -> float:
    """1, or -1 where the e3nn of this environment has the other sign.

    Args:
        path: Degrees of inputs and output.
        signs: "current" for the signs of e3nn 0.5 and later, "installed" for those of the e3nn installed here.

    Raises:
        ConfigError: If "installed" was asked for without an e3nn, or for an unknown choice.
    """
    if signs not in ("current", "installed"):
        raise ConfigError(f"signs must be 'current' or 'installed', got {signs!r}")
    return 1.0 if signs == "current" or sum(path) % 2 == 0 else _installed(path)


@cache
def _installed(path: Path) -> float:
    try:
        from e3nn.o3 import wigner_3j as installed
    except ImportError as error:
        raise ConfigError("signs='installed' needs e3nn: install it, or use signs='current'") from error
    return float(np.sign(np.vdot(installed(*path).double().numpy(), wigner_3j(*path))))
