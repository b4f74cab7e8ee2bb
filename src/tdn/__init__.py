"""Tensor Decomposition Networks: fast, exactly equivariant machine-learning interatomic potentials."""

from __future__ import annotations

import importlib
from typing import Any

from tdn.version import __version__

# Public names and where they live. They are imported on first use, so that `import tdn` and `tdn --help` are instant.
_PUBLIC = {
    "CPTensorProduct": "tdn.plug.tensor_product",
    "Potential": "tdn.models.potential",
    "RunConfig": "tdn.training.config",
    "Structure": "tdn.structure",
    "TDN": "tdn.models.tdn",
    "TDNCalculator": "tdn.calculator",
    "TDNConfig": "tdn.models.tdn",
    "evaluate": "tdn.evaluation.evaluate",
    "load_config": "tdn.training.config",
    "load_model": "tdn.modelfile",
    "save_model": "tdn.modelfile",
    "train": "tdn.training.run",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tdn' has no attribute {name!r}; it has {', '.join(sorted(_PUBLIC))}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
