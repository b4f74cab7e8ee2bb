"""Contenders of `tdn bench product`: one tensor product of irreps, a sample an edge, in every form that computes it.

The configurations are those that OpenEquivariance and FlashTP publish their speed on, and those of figure 3 of
arXiv 2507.01131 (T1 to T6). Two settings of the weights: `path`, every path its own, its output an entry of its own, as
MACE, NequIP and SevenNet have it; `shared`, one weight a channel for all paths, which are summed. Within a setting
every contender computes the same map on the same weights, but for orders of entries and for ranks that are fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tdn.bench.convolutions import contender
from tdn.bench.worker import Contender, Task
from tdn.plug.instructions import merge_paths
from tdn.plug.irreps import Irreps, couplings_of

WEIGHTS = ("path", "shared")


class Configuration(NamedTuple):
    """Irreps of a product.

    Attributes:
        in1: Features.
        in2: Spherical harmonics.
        kept: Irreps that the output may have; those of the features if empty.
        mode: `uvu`, or `uvw`, all paths into `kept`.
        lmax: Of a family of growing degree, else None.
        one_weight: Whether all samples have the same weights.
    """

    in1: str
    in2: str
    kept: str = ""
    mode: str = "uvu"
    lmax: int | None = None
    one_weight: bool = False


def _even(channels: int, lmax: int) -> str:
    return "+".join(f"{channels}x{l}e" for l in range(lmax + 1))


def _both_parities(channels: int, lmax: int) -> str:
    return "+".join(f"{channels}x{l}{p}" for l in range(lmax + 1) for p in "oe")


_MACE_FILTER, _DIFFDOCK, _TETRIS = "1x0e+1x1o+1x2e+1x3o", "10x1o+10x1e+48x0e+48x0o", "1x0e+1x1o+1x2e+1x3o"
# Sources: openequivariance/benchmark/problems.py of OpenEquivariance, ir_config of FlashTP, arXiv 2507.01131.
CONFIGURATIONS = {
    "mace-large": Configuration("128x0e+128x1o+128x2e", _MACE_FILTER, "128x0e+128x1o+128x2e+128x3o"),
    "mace-medium": Configuration("128x0e+128x1o", _MACE_FILTER, "128x0e+128x1o+128x2e"),
    "nequip-lips": Configuration(_both_parities(32, 2), "0e+1o+2e"),
    "nequip-revmd17-aspirin": Configuration(_both_parities(64, 1), "0e+1o"),
    "nequip-revmd17-toluene": Configuration(_both_parities(64, 2), "0e+1o+2e"),
    "nequip-revmd17-benzene": Configuration(_both_parities(64, 3), "0e+1o+2e+3o"),
    "nequip-water": Configuration(_both_parities(32, 1), "0e+1o"),
    "sevennet-l3i5": Configuration("128x0e+64x1e+32x2e+32x3e", "1x0e+1x1e+1x2e+1x3e"),
    "diffdock-l1": Configuration(_DIFFDOCK, "1x0e+1x1o", mode="uvw"),
    "diffdock-l2": Configuration(_DIFFDOCK, "1x0e+1x1o+1x2e", mode="uvw"),
    "tetris-poly-1": Configuration(_TETRIS, _TETRIS, "64x0e+24x1e+24x1o+16x2e+16x2o", mode="uvw", one_weight=True),
    **{f"T{l}": Configuration(_even(256, l), _even(1, l), lmax=l) for l in range(1, 7)},
}


class Product(NamedTuple):
    """A configuration with its paths: the arguments of e3nn's and our layers.

    Attributes:
        in1: Irreps of the first input.
        in2: Irreps of the second input.
        out: Irreps of the output.
        paths: Instructions.
        one_weight: Whether all samples have the same weights.
    """

    in1: Irreps
    in2: Irreps
    out: Irreps
    paths: list[tuple[Any, ...]]
    one_weight: bool

    @property
    def arguments(self) -> tuple[str, str, str, list[tuple[Any, ...]]]:
        """Positional arguments of a tensor product."""
        return str(self.in1), str(self.in2), str(self.out), self.paths


def make_product(name: str, weights: str) -> Product:
    """The paths of a configuration: of `shared` weights all that end in equal irreps and multiplicities are summed."""
    found = CONFIGURATIONS[name]
    in1, in2, kept = Irreps(found.in1), Irreps(found.in2), Irreps(found.kept or found.in1)
    if found.mode == "uvw":
        paths: list[tuple[Any, ...]] = [
            (i, j, k, "uvw", True)
            for i, a in enumerate(in1) for j, b in enumerate(in2) for k, c in enumerate(kept)
            if c.ir in couplings_of(a.ir, b.ir)
        ]  # fmt: skip
        return Product(in1, in2, kept, paths, found.one_weight)
    wanted = {entry.ir for entry in kept}
    every = [
        (i, j, (a.mul, c))
        for i, a in enumerate(in1) for j, b in enumerate(in2) for c in couplings_of(a.ir, b.ir) if c in wanted
    ]  # fmt: skip
    out, place, _ = Irreps([entry for *_, entry in every]).sort()
    paths = sorted(((i, j, place[n], "uvu", True) for n, (i, j, _) in enumerate(every)), key=lambda path: path[2])
    if weights == "shared":
        out, paths = merge_paths(out, paths)
    return Product(in1, in2, out, paths, found.one_weight)


def layer_of(product: Product, weights: str, **options: Any) -> Any:
    """Our layer."""
    from tdn.plug.tensor_product import CPTensorProduct

    return CPTensorProduct(
        *product.arguments, shared_weights=product.one_weight, internal_weights=False,
        share_paths=weights == "shared", **options,
    )  # fmt: skip


def _product_of(task: Task) -> Product:
    return make_product(task.settings["product"], task.settings["weights"])


def _finish(
    task: Task, product: Product, layer: Callable[..., Tensor], weight_numel: int, compiled: bool = False, **facts: Any
) -> Contender:
    """Contender of `layer(x, y, weight)` on random inputs, the same for all that need as many weights."""
    random, batch = torch.Generator().manual_seed(0), task.settings["edges"]
    of_weights = (weight_numel,) if product.one_weight else (batch, weight_numel)
    shapes = (batch, product.in1.dim), (batch, product.in2.dim), of_weights
    x, y, weight = (
        torch.randn(*shape, generator=random).to(task.device, getattr(torch, task.dtype)).requires_grad_(True)
        for shape in shapes
    )
    return contender(layer, x, y, weight, compiled, weight_numel=weight_numel, **facts)


def _place(layer: Any, task: Task) -> Any:
    return layer.to(device=task.device, dtype=getattr(torch, task.dtype))


def ours(task: Task, compiled: bool = False, **options: Any) -> Contender:
    """`CPTensorProduct`; `options` are its own: `kernel`, `rank`, `layout`."""
    product = _product_of(task)
    layer = _place(layer_of(product, task.settings["weights"], **options), task)
    ranks = [term.factors.rank for term in layer._plan.terms if term.factors is not None]
    facts = {"paths": len(product.paths), "kernels": list(layer.kernels), "ranks": ranks}
    return _finish(task, product, layer, layer.weight_numel, compiled, **facts)


def e3nn(task: Task, compiled: bool = False) -> Contender:
    """`e3nn.o3.TensorProduct`; of shared weights each of its paths gets a copy."""
    import e3nn as package
    from e3nn import o3

    package.set_optimization_defaults(jit_script_fx=not compiled)
    product = _product_of(task)
    theirs = _place(
        o3.TensorProduct(*product.arguments, shared_weights=product.one_weight, internal_weights=False), task
    )
    facts = {"paths": len(product.paths), "package": package.__version__}
    if task.settings["weights"] == "path":
        return _finish(task, product, theirs, theirs.weight_numel, compiled, **facts)
    twin = layer_of(product, "shared")

    def forward(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return theirs(x, y, twin.expand_weights(weight))

    return _finish(task, product, forward, twin.weight_numel, compiled, **facts)


def cuequivariance(task: Task) -> Contender:
    """CuEquivariance's channel-wise product in its own order: plain PyTorch on CPUs, its kernels on GPUs."""
    import cuequivariance as cue  # pyright: ignore[reportMissingImports]
    import cuequivariance_torch as cuet  # pyright: ignore[reportMissingImports]

    product = _product_of(task)
    if any(mode != "uvu" for *_, mode, _ in product.paths):
        raise ValueError("ChannelWiseTensorProduct has mode uvu only")
    method = "uniform_1d" if task.device.startswith("cuda") else "naive"
    in1, in2, kept = (cue.Irreps("O3", str(irreps)) for irreps in (product.in1, product.in2, product.out))
    layer = cuet.ChannelWiseTensorProduct(
        in1, in2, list(dict.fromkeys(irrep for _, irrep in kept)), shared_weights=False, internal_weights=False,
        layout=cue.ir_mul, device=task.device, dtype=getattr(torch, task.dtype), method=method,
    )  # fmt: skip
    built = _finish(task, product, layer, layer.weight_numel, paths=len(product.paths), package=cuet.__version__)
    return built._replace(mode=f"method {method}")
