"""Freed memory stays with the process, so that the next step need not have its pages cleared."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Page faults of a large allocation after equal ones were released: the first of them may not fit where the next does.
FAULTS = """
import resource
import torch
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig

Potential(TDNConfig(num_channels=2), {1: 0.0}).compile()
for _ in range(3):
    torch.ones(50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
@pytest.mark.parametrize(("setting", "kept"), [("1", True), ("0", False)])
def test_compiled_potentials_keep_freed_memory_unless_told_not_to(setting: str, kept: bool):
    environment = {**os.environ, "TDN_KEEP_MEMORY": setting, "THP_MEM_ALLOC_ENABLE": "0"}
    run = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    faults = int(run.stdout)
    pages = 4 * 50_000_000 / os.sysconf("SC_PAGE_SIZE")
    assert faults < 0.01 * pages if kept else faults > 0.5 * pages
