"""The wheel holds what the package needs at run time, and its metadata leave other packages their versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built from a copy so that nothing is written into it."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=copy, check=True, timeout=300)
    (path,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_has_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    """Modules, factor tables, data sets, templates: all that lies under src/tdn."""
    source = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "tdn").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source - set(wheel.namelist()) == set()
    assert any(name.startswith("tdn/cp/factors/natural-") for name in source)
    assert "tdn/datasets/organics/train.extxyz" in source


def test_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0].partition("-")[0] for name in wheel.namelist()} == {"tdn"}


def requirements(wheel: zipfile.ZipFile) -> list[str]:
    """`Requires-Dist` of the wheel."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist") or []


def test_metadata_sets_no_upper_limits(wheel: zipfile.ZipFile) -> None:
    assert [
        need for need in requirements(wheel) if any(sign in need.partition(";")[0] for sign in ("<", "==", "~="))
    ] == []


def test_core_does_not_bring_frameworks(wheel: zipfile.ZipFile) -> None:
    core = {need.partition(">")[0].strip() for need in requirements(wheel) if "extra ==" not in need}
    assert {"torch", "numpy", "ase"} <= core
    assert core & {"e3nn", "torch-geometric", "lightning", "wandb"} == set()


def test_constraints_pin_every_requirement(wheel: zipfile.ZipFile) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    needed = {need.partition(">")[0].partition("[")[0].partition(";")[0].strip() for need in requirements(wheel)}
    assert needed - pinned - {"tdn"} == set()
    assert "torch==2.13.0" in lines
