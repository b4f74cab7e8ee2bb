"""Compiles a C++ source of the package with the system's compiler, once, and loads it.

Libraries stand in the user's cache folder (`$XDG_CACHE_HOME/tdn`, or `~/.cache/tdn`), named by a digest of source,
compiler, options and processor, so that a change of any makes a new one. They are written in one step: processes that
start at the same time each compile, and the last one's result stays.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import warnings
from pathlib import Path

from tdn.files import atomic_write

# Multiply-adds may be fused, but no sum is reordered, so no -ffast-math.
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
           "-fPIC", "-shared", "-Wno-psabi")  # fmt: skip


def find_compiler() -> str | None:
    """The C++ compiler: `$CXX`, else the first of g++, clang++ and c++ on the path."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def cache_folder() -> Path:
    """Where compiled libraries stand."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tdn"


@functools.cache
def load_library(source: Path, *defines: str) -> ctypes.CDLL | None:
    """The library of `source`, compiled now if need be; None, with a warning, where that is not possible.

    Args:
        source: C++ source.
        defines: Options such as `-DNAME=value`.
    """
    compiler = find_compiler()
    if compiler is None:
        warnings.warn("No C++ compiler (g++ or clang++): convolutions run in plain PyTorch, slower.", stacklevel=2)
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler, source, defines)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip()[-300:]
        warnings.warn(
            f"{compiler} could not compile {source.name} ({detail}): convolutions run in plain PyTorch, slower.",
            stacklevel=2,
        )
        return None


def _compiled(compiler: str, source: Path, defines: tuple[str, ...]) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = "\0".join((source.read_text(encoding="utf-8"), version, *OPTIONS, *defines, _processor()))
    path = cache_folder() / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not path.is_file():
        with atomic_write(path) as temporary:
            _compile([compiler, *OPTIONS, *defines, str(source), "-o", str(temporary)])
    return path


def _compile(command: list[str]) -> None:
    """With OpenMP if the compiler has it."""
    try:
        subprocess.run([*command, "-fopenmp"], capture_output=True, text=True, check=True, timeout=300)
    except subprocess.CalledProcessError:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
