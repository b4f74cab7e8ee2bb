"""The generator of PubChemQCR shards in `scripts/`, for tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def generator() -> ModuleType:
    """The script as a module."""
    path = Path(__file__).parents[1] / "scripts" / "make_pubchemqcr.py"
    source = importlib.util.spec_from_file_location("make_pubchemqcr", path)
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    return module
