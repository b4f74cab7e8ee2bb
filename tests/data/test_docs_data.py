"""The how-to on data says what the code does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import tdn.data.preflight
from tdn.data.labels import SEARCH_ORDER

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "howto" / "data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("quantity", SEARCH_ORDER)
def test_search_order_is_documented(quantity: str) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| {quantity}"))
    assert re.findall(r"`(\w+)`", row) == list(SEARCH_ORDER[quantity])


def test_every_check_is_documented() -> None:
    source = Path(tdn.data.preflight.__file__).read_text(encoding="utf-8")
    names = set(re.findall(r'(?:_warn\(\s*|Finding\("\w+", )"(\w+)"', source))
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" not in TEXT} == set()


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "src" / "tdn" / "datasets" / "organics" / "train.extxyz", tmp_path)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1], scope)
    assert len(scope["split"].train) + len(scope["split"].valid) == len(scope["frames"])
    assert scope["graph"].num_graphs == len(scope["indices"])
