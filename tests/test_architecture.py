"""The layout: imports go downwards only, the light parts stay light, and nothing executes what it reads."""

from __future__ import annotations

import ast
import copy
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tdn

PACKAGE = Path(tdn.__file__).parent

# Lowest first. A row imports rows below it; parts of one row see each other only in PEERS.
ROWS = (
    {"cp", "data"},
    {"nn"},
    {"models", "plug"},
    {"modelfile"},
    {"training", "evaluation", "report", "calculator", "checks", "interfaces", "simulation"},
    {"bench"},
    {"reproduce"},
    {"cli"},
    {"__main__"},
)
PEERS = ROWS[4]
SHARED = {
    "config", "datasets", "devices", "errors", "files", "graph", "memory", "neighbors", "structure", "units", "version",
}  # fmt: skip
ROW = {part: k for k, row in enumerate(ROWS) for part in row}


def modules() -> dict[str, ast.Module]:
    """Every module of the package, parsed, by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that `tree` imports anywhere, `from a import b` as `a.b`; relative imports are not used."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def without_type_checking(tree: ast.Module) -> ast.Module:
    """`tree` without what stands under `if TYPE_CHECKING:`, which names types and imports nothing when it runs."""

    class Remover(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> Any:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    return Remover().visit(copy.deepcopy(tree))


def part_of(name: str) -> str | None:
    """`nn` for `tdn.nn.linear`, None outside the package and for the package itself (`from tdn import ...`)."""
    parts = name.split(".")
    return parts[1] if parts[0] == "tdn" and len(parts) > 1 else None


def upward_imports(name: str, tree: ast.AST) -> list[str]:
    """What module `name` imports against the rows."""
    own, wrong = part_of(name), []
    for imported in imports(tree):
        part = part_of(imported)
        if imported.startswith("."):
            wrong.append(f"{name} -> {imported} (relative)")
        if part is None or part == own or part in SHARED or part.startswith("__"):
            continue
        allowed = own in ROW and part in ROW and (ROW[part] < ROW[own] or {own, part} <= PEERS)
        if not allowed:
            wrong.append(f"{name} -> {imported}")
    return wrong


# Reads foreign pickles through an allow-list, and is where that is tested.
UNPICKLING = "tdn.data.unpickling"


UNSAFE = {
    *("eval", "exec", "os.system"),
    *("torch.load", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"),
}


def unsafe_calls(tree: ast.AST, module: str = "") -> list[str]:
    """Ways to run code that comes from a file or a string."""
    picklers = {"cloudpickle", "dill", "joblib"} | ({"pickle"} if module != UNPICKLING else set())
    found = [name for name in imports(tree) if name.split(".")[0] in picklers]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "torch.load" and any(ast.unparse(k) == "weights_only=True" for k in node.keywords):
            continue
        if called in {
            "eval",
            "exec",
            "torch.load",
            "pickle.load",
            "pickle.loads",
            "yaml.load",
            "yaml.unsafe_load",
            "os.system",
        }:
            found.append(f"{called} in line {node.lineno}")
        if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
            found.append(f"allow_pickle in line {node.lineno}")
    return found


MODULES = modules()


@pytest.mark.parametrize("name", [name for name in MODULES if name != "tdn"])
def test_module_imports_only_downwards(name: str) -> None:
    assert part_of(name) in ROW.keys() | SHARED, f"{name} has no place in the layout: give it one in ROWS or SHARED"
    assert upward_imports(name, MODULES[name]) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tdn.data.reading", "from tdn.models.tdn import TDN"),
        ("tdn.cp.tables", "def f():\n    import tdn.nn.linear"),
        ("tdn.structure", "from tdn.data.labels import find"),
        ("tdn.models.tdn", "from . import potential"),
    ],
)
def test_upward_import_is_noticed(name: str, source: str) -> None:
    assert len(upward_imports(name, ast.parse(source))) == 1


def test_modules_do_not_import_each_other_in_circles() -> None:
    graph = {}
    for name, tree in MODULES.items():
        imported = imports(without_type_checking(tree))
        needed = (target if target in MODULES else target.rpartition(".")[0] for target in imported)
        graph[name] = {module for module in needed if module in MODULES and module not in {name, "tdn"}}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle


@pytest.mark.parametrize("name", [name for name in MODULES if part_of(name) == "cp"])
def test_mathematics_needs_no_torch(name: str) -> None:
    assert [imported for imported in imports(MODULES[name]) if imported.split(".")[0] == "torch"] == []


@pytest.mark.parametrize("name", MODULES)
def test_nothing_executes_what_it_reads(name: str) -> None:
    assert unsafe_calls(MODULES[name], name) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "eval('1')",
        "torch.load('x')",
        "pickle.loads(x)",
        "np.load('x', allow_pickle=True)",
        "yaml.load(text)",
    ],
)
def test_unsafe_call_is_noticed(source: str) -> None:
    assert len(unsafe_calls(ast.parse(source))) == 1


def loaded_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('LOADED', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(result.stdout.rpartition("LOADED ")[2].split())


HEAVY = {"torch", "ase", "matplotlib", "scipy", "pydantic"}


def test_import_tdn_is_light() -> None:
    assert loaded_after("import tdn") & HEAVY == set()


def test_help_is_light() -> None:
    run = "sys.argv = ['tdn', '--help']\nfrom tdn.cli.main import main\ntry: main()\nexcept SystemExit: pass"
    loaded = loaded_after(run)
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_public_names_load() -> None:
    for name in tdn.__all__:
        assert getattr(tdn, name) is not None
