"""The Triton programs against the plain reference: in Triton's interpreter on CPUs, on the device where there is one.

The interpreter is chosen by an environment variable when Triton is first imported. So as not to choose it for other
tests of the same process, this file runs itself again in a process of its own.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tdn.nn.kernels import gpu, reference
from tdn.nn.kernels.convolution import convolve
from tdn.nn.kernels.graph import EdgeIndex

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not gpu.available():
    pytest.skip("Triton is not installed: pip install 'tdn[triton]'", allow_module_level=True)
direct = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="runs in test_programs_in_the_interpreter"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}

# (nodes, senders, receivers): degrees differ, some nodes have no edges, edges are not sorted.
GRAPHS = {
    "ragged": (5, [1, 2, 3, 4, 0, 1, 1], [0, 0, 0, 0, 3, 1, 4]),
    "isolated": (4, [2, 2], [1, 1]),
    "no edges": (3, [], []),
}


def graph(name: str) -> tuple[int, EdgeIndex]:
    nodes, senders, receivers = GRAPHS[name]
    ends = torch.tensor([senders, receivers], dtype=torch.int64, device=DEVICE)
    return nodes, EdgeIndex.build(ends[0], ends[1], nodes)


def arguments(
    name: str, dtype: torch.dtype, ranks: int, channels: int, pairs: int, terms: int | None
) -> tuple[dict[str, Any], EdgeIndex, int]:
    """Random arguments of the three operators; without `terms` every edge has its own row of the table."""
    random = torch.Generator().manual_seed(0)
    nodes, edges = graph(name)
    count, degrees, rows = len(edges.senders), 3, 9 if terms else len(edges.senders)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype).to(DEVICE)

    knot = torch.randint(0, rows - (terms or 1) + 1, (count,), generator=random).to(DEVICE) if terms else None
    tensors = {
        "g": values(nodes, ranks, channels), "y": values(count, ranks, pairs, degrees),
        "basis": values(count, pairs, terms or 1), "table": values(rows, degrees, channels),
        "x": values(nodes, ranks, channels), "knot": knot,
    }  # fmt: skip
    return tensors, edges, rows


def all_operators(kernels: Any, tensors: dict[str, Any], edges: EdgeIndex, rows: int) -> list[Tensor]:
    without_g, without_table = ({k: v for k, v in tensors.items() if k != name} for name in ("g", "table"))
    return [
        kernels.aggregate(**without_g, edges=edges),
        *kernels.edge_gradients(**tensors, edges=edges),
        kernels.table_gradient(**without_table, edges=edges, rows=rows),
    ]


def compare(tensors: dict[str, Any], edges: EdgeIndex, rows: int, dtype: torch.dtype) -> None:
    """All three operators against the reference in float64."""
    exact = {k: t.double() if t is not None and t.is_floating_point() else t for k, t in tensors.items()}
    found, expected = all_operators(gpu, tensors, edges, rows), all_operators(reference, exact, edges, rows)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        assert a.shape == b.shape
        scale = max(b.abs().max().item(), 1.0) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the tests below run directly")
@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_programs_in_the_interpreter(chosen: str) -> None:
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-m", chosen]
    command = [sys.executable, "-m", "pytest", __file__, *options]
    run = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "%]" in run.stdout or " passed" in run.stdout


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
@pytest.mark.parametrize("name", ["aggregate_program", "edge_program", "table_program"])
def test_programs_compile_for_a_gpu_that_is_not_there(name: str) -> None:
    """Down to machine code of an H100: what the interpreter cannot notice, such as types and shapes of the tiles."""
    from tdn.nn.kernels import triton_programs

    triton, tl = (importlib.import_module(module) for module in ("triton", "triton.language"))
    target, source = (importlib.import_module(f"triton.{module}") for module in ("backends.compiler", "compiler"))
    program = getattr(triton_programs, name)
    constants = {"HAS_KNOT": True, "P": 4, "J": 2, "W": 3, "BR": 32, "BU": 64, "BC": 16, "BP": 8, "SPLITS": 4}
    constants |= {"ACC": tl.float32}
    kinds = {name: "*i64" for name in ("knot", "senders", "receivers", "order", "offsets")} | {"R": "i32", "U": "i32"}
    signature = {a: "constexpr" if a in constants else kinds.get(a, "*fp32") for a in program.arg_names}
    chosen = {(k,): constants[a] for k, a in enumerate(program.arg_names) if a in constants}
    source = source.ASTSource(fn=program, signature=signature, constexprs=chosen)
    assert triton.compile(source, target=target.GPUTarget("cuda", 90, 32)).asm["cubin"]


@direct
@pytest.mark.parametrize("terms", [None, 4])
@pytest.mark.parametrize("name", GRAPHS)
def test_programs_agree_with_the_reference(name: str, terms: int | None) -> None:
    compare(*arguments(name, torch.float64, ranks=6, channels=5, pairs=1, terms=terms), torch.float64)


@direct
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_storage_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    compare(*arguments("ragged", dtype, ranks=6, channels=5, pairs=1, terms=4), dtype)


@direct
def test_pairs_of_double_backward_agree() -> None:
    compare(*arguments("ragged", torch.float64, ranks=6, channels=5, pairs=4, terms=4), torch.float64)


@direct
def test_ranks_and_channels_beyond_one_tile_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LARGEST_BR", 4)
    monkeypatch.setattr(gpu, "LARGEST_BU", 4)
    compare(*arguments("ragged", torch.float64, ranks=5, channels=6, pairs=1, terms=4), torch.float64)


@direct
def test_rows_shared_by_many_edges_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "EDGES_PER_SHARE", 0.1)
    monkeypatch.setattr(gpu, "MOST_SHARES", 3)
    tensors, edges, rows = arguments("ragged", torch.float64, ranks=3, channels=4, pairs=1, terms=4)
    tensors["knot"] = torch.full_like(tensors["knot"], 2)
    compare(tensors, edges, rows, torch.float64)


@direct
def test_non_contiguous_arguments_agree() -> None:
    tensors, edges, rows = arguments("ragged", torch.float64, ranks=6, channels=5, pairs=1, terms=4)
    for name in ("x", "g", "y"):
        tensors[name] = tensors[name].transpose(0, 1).contiguous().transpose(0, 1)
    compare(tensors, edges, rows, torch.float64)


@direct
def test_indices_beyond_32_bits_reach_their_elements(huge_and_small: tuple[Any, Any]) -> None:
    if DEVICE != "cpu":
        pytest.skip("the arrays are files in this machine's memory")
    results = []
    for problem in huge_and_small:
        tensors, edges, small = problem.tensors, problem.edges, huge_and_small[1]
        few_nodes = {**tensors, "x": small.tensors["x"], "edges": small.edges}
        few_rows = {**tensors, "knot": small.tensors["knot"]}
        few_nodes.pop("g")
        few_rows.pop("table")
        results.append([
            gpu.aggregate(**few_nodes), *gpu.edge_gradients(**tensors, edges=edges),
            gpu.table_gradient(**few_rows, edges=edges, rows=problem.rows),
        ])  # fmt: skip
    for huge, small in zip(*results, strict=True):
        assert small.abs().max() > 0
        torch.testing.assert_close(huge, small, rtol=1e-6, atol=1e-5)


@direct
def test_every_run_gives_the_same_bits() -> None:
    tensors, edges, _ = arguments("ragged", torch.float32, ranks=6, channels=5, pairs=1, terms=4)
    del tensors["g"]
    assert torch.equal(gpu.aggregate(**tensors, edges=edges), gpu.aggregate(**tensors, edges=edges))


@direct
@pytest.mark.slow
def test_derivatives_of_both_orders_through_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators' own derivative rules, every term of them computed by the programs."""
    if DEVICE == "cpu":  # where the operators fall back to the reference
        for name in ("aggregate", "edge_gradients", "table_gradient"):
            monkeypatch.setattr(reference, name, getattr(gpu, name))
    tensors, edges, _ = arguments("isolated", torch.float64, ranks=2, channels=2, pairs=1, terms=2)
    leaves = [tensors["y"][:, :, 0], tensors["basis"][:, 0], tensors["table"][:4], tensors["x"]]
    leaves = [leaf.clone().requires_grad_(True) for leaf in leaves]
    knot = tensors["knot"].clamp(max=2)

    def function(y: Tensor, basis: Tensor, table: Tensor, x: Tensor) -> Tensor:
        return convolve(y, basis, table, x, knot, edges)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)
