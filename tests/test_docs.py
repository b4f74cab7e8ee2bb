"""The documentation does what it says: its Python runs, its commands and options exist, its configuration is valid."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from typer.main import get_command

from tdn.cli.main import COMMANDS
from tdn.modelfile import save_model
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Pages whose Python runs from top to bottom with nothing but a model in run/model.tdn.
RUNNABLE = ["README.md", "docs/index.md", "docs/quickstart.md", "docs/concepts/network.md"]


def blocks(page: Path, language: str) -> list[str]:
    """Contents of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder_with_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained `run/model.tdn` that knows H, C and O."""
    folder = tmp_path_factory.mktemp("docs")
    torch.manual_seed(0)
    # Repulsive, since fresh weights may pull atoms into each other.
    potential = Potential(TDNConfig(num_channels=4, radial_hidden=(8,), zbl=True), {1: -13.6, 6: -1029.8, 8: -2042.5})
    (folder / "run").mkdir()
    save_model(folder / "run" / "model.tdn", potential)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_python_of_page_runs(folder_with_model: Path, name: str) -> None:
    code = "\n".join(blocks(ROOT / name, "python"))
    assert code
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=folder_with_model, env=environment, check=True, timeout=300)


def commands(page: Path) -> Iterator[list[str]]:
    """Words of every line of a shell or console block that runs `tdn`."""
    for block in blocks(page, "(?:bash|console|sh)"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if "tdn " in line else []
            if words and words[0] == "tdn":
                yield words[1:]


DOCUMENTED = [(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    ("page", "words"), DOCUMENTED, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_documented_command_exists(page: str, words: list[str]) -> None:
    if words[0].startswith("-"):
        assert words in (["--version"], ["--help"])
        return
    assert words[0] in COMMANDS
    command = get_command(importlib.import_module(COMMANDS[words[0]][0]).app)
    rest = words[1:]
    if getattr(command, "commands", None):
        assert rest[0] in command.commands
        command, rest = command.commands[rest[0]], rest[1:]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    assert [word for word in rest if word.startswith("-") and word != "-" and word.partition("=")[0] not in known] == []


def test_documented_configuration_is_valid() -> None:
    from tdn.training.config import RunConfig

    (text,) = blocks(ROOT / "docs" / "quickstart.md", "yaml")
    config = RunConfig.parse(yaml.safe_load(text), "quickstart")
    assert config.training.max_time == 900.0


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(named) <= targets, f"{page.name} names targets that the Makefile lacks"


def test_tables_are_measured() -> None:
    """Every row is what its file says now; results that are not listed yet are no error."""
    source = importlib.util.spec_from_file_location("readme_tables", ROOT / "scripts" / "readme_tables.py")
    assert source is not None
    assert source.loader is not None
    script = importlib.util.module_from_spec(source)
    source.loader.exec_module(script)
    text = "".join(page.read_text(encoding="utf-8") for page in script.pages())
    for name, table in script.TABLES.items():
        (found,) = re.findall(rf"<!-- {name}:begin -->\n(.*?)\n<!-- {name}:end -->", text, re.DOTALL)
        assert set(found.splitlines()) <= set(table().splitlines()), "run python scripts/readme_tables.py"


def test_tests_that_hold_conventions_exist() -> None:
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert named
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {test}"
