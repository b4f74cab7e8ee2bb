"""Kernels are compiled once; without a compiler everything works all the same."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tdn.nn.kernels import EdgeIndex, build, convolve, cpu, reference

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.load_library.cache_clear()
    yield
    build.load_library.cache_clear()


def source(folder: Path, text: str = 'extern "C" int answer() { return ANSWER; }') -> Path:
    path = folder / "source.cpp"
    path.write_text(text, encoding="utf-8")
    return path


@needs_compiler
def test_a_library_is_compiled_once_for_each_set_of_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.load_library(source(tmp_path), "-DANSWER=42")
    assert isinstance(first, ctypes.CDLL)
    assert first.answer() == 42
    other = build.load_library(source(tmp_path), "-DANSWER=43")
    assert isinstance(other, ctypes.CDLL)
    assert other.answer() == 43
    assert len(list(build.cache_folder().iterdir())) == 2

    build.load_library.cache_clear()  # as in another process
    monkeypatch.setattr(build, "_compile", lambda command: pytest.fail("compiled again"))
    again = build.load_library(source(tmp_path), "-DANSWER=42")
    assert isinstance(again, ctypes.CDLL)
    assert again.answer() == 42


@needs_compiler
def test_a_source_that_does_not_compile_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="could not compile source.cpp"):
        assert build.load_library(source(tmp_path, "no C++")) is None
    assert list(build.cache_folder().iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="plain PyTorch"):
        assert build.load_library(source(tmp_path), "-DANSWER=42") is None


def test_without_a_compiler_plain_pytorch_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    edges = EdgeIndex.build(torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1]), 2)
    y, basis, table, x = torch.randn(3, 2, 3), torch.randn(3, 1), torch.randn(3, 3, 5), torch.randn(2, 2, 5)
    build.load_library.cache_clear()
    with pytest.warns(UserWarning, match=r"No C\+\+ compiler"):
        result = convolve(y, basis, table, x, None, edges)
    expected = reference.aggregate(y[:, :, None], basis[:, None], table, x, None, list(edges))
    torch.testing.assert_close(result, expected)


def test_other_precisions_run_in_plain_pytorch() -> None:
    assert cpu.library(torch.bfloat16) is None
