"""Shared fixtures: third-party data where present, a deterministic torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with third-party data sets, named by TDN_DATA or found beside the checkout; skips where there is none."""
    folder = Path(os.environ.get("TDN_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"third-party data not found at {folder}; set TDN_DATA to run this test")
    return folder
