"""Contenders of `tdn bench conv`: one convolution on one random graph, in every form that computes it.

From features, edge vectors and radial functions to the sums over neighbours. Three passes are timed: `forward`;
`backward`, which adds the gradient in all inputs; and `training`, forward and backward for the forces and then
the gradient of a loss of both, the double backward that training on forces needs.

We evaluate and differentiate the radial functions, splines through the rows of a table, as part of the work. Everybody
else gets their values at the edges ready-made, and pays for neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tdn.bench.worker import Contender, Task, time_pass
from tdn.nn.harmonics import spherical_harmonics
from tdn.nn.kernels import EdgeIndex, gather, scatter_sum
from tdn.nn.radial import RadialTable, UniformSpline

SPLINE = UniformSpline(r_max=5.0, intervals=64)
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]


class Inputs(NamedTuple):
    """What every form is given.

    Attributes:
        lmax: Highest degree of features, filter and output.
        x: Features `[d, N, U]`.
        vectors: From receiver to sender `[E, 3]`.
        table: Radial functions of every filter degree at the knots of a spline `[K, lmax + 1, U]`.
        weights: Their values at the edges `[E, lmax + 1, U]`.
        senders: int64 `[E]`.
        receivers: int64 `[E]`, ascending.
    """

    lmax: int
    x: Tensor
    vectors: Tensor
    table: Tensor
    weights: Tensor
    senders: Tensor
    receivers: Tensor


def make_inputs(task: Task) -> Inputs:
    """Random features on a random graph whose atoms all have the same number of neighbours; the same for every form."""
    lmax, channels, nodes = (task.settings[name] for name in ("lmax", "channels", "nodes"))
    edges = nodes * task.settings["neighbors"]
    random = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"dtype": getattr(torch, task.dtype), "device": task.device}
    vectors = torch.nn.functional.normalize(torch.randn(edges, 3, generator=random), dim=1)
    vectors = (vectors * (1.0 + (SPLINE.r_max - 1.0) * torch.rand(edges, 1, generator=random))).to(**options)
    table = torch.randn(SPLINE.intervals + SPLINE.degree, lmax + 1, channels, generator=random).to(**options)
    weights = RadialTable(*_spline_terms(vectors, table)).weights()
    return Inputs(
        lmax,
        torch.randn((lmax + 1) ** 2, nodes, channels, generator=random).to(**options).requires_grad_(True),
        vectors,
        table.requires_grad_(True),
        weights.requires_grad_(True),
        torch.randint(0, nodes, (edges,), generator=random).to(task.device),
        (torch.arange(edges) // task.settings["neighbors"]).to(task.device),
    )


def _spline_terms(vectors: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fields of a `RadialTable` for edges `[E, 3]`."""
    basis, knot = SPLINE.basis(vectors.square().sum(1).sqrt())
    return basis, table, knot


def harmonics_of(vectors: Tensor, lmax: int) -> Tensor:
    """Spherical harmonics `[(lmax + 1)², E]` of the directions of `vectors [E, 3]`."""
    return spherical_harmonics(torch.nn.functional.normalize(vectors, dim=1), lmax)


def contender(forward: Forward, x: Tensor, vectors: Tensor, weights: Tensor, compiled: bool, **facts: Any) -> Contender:
    """The three passes of one form, eager or compiled through the derivative; `weights` may be those of the knots."""

    def energy_and_forces(x: Tensor, vectors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        energy = forward(x, vectors, weights).square().sum()
        return energy, torch.autograd.grad(energy, vectors, create_graph=True)[0]

    def gradients(x: Tensor, vectors: Tensor, weights: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(forward(x, vectors, weights).square().sum(), [x, vectors, weights])

    vectors = vectors.detach().requires_grad_(True)
    inputs = (x, vectors, weights)
    functions: tuple[Callable[..., Any], ...] = (forward, gradients, energy_and_forces)
    first: Any
    second: Any
    first, second, third = (_compile(function, inputs) if compiled else function for function in functions)

    def run_forward() -> Tensor:
        with torch.no_grad():
            return first(*inputs)

    def run_backward() -> Sequence[Tensor]:
        # Compiled code holds the derivative already; nothing is to be recorded for a second one.
        with torch.no_grad() if compiled else contextlib.nullcontext():
            return second(*inputs)

    def run_training() -> Sequence[Tensor]:
        energy, forces = third(*inputs)
        return torch.autograd.grad(energy + forces.square().sum(), [x, weights])

    passes = {"forward": run_forward, "backward": run_backward, "training": run_training}
    return Contender(passes, "compiled" if compiled else "eager", {"edges": vectors.shape[0], **facts})


def _compile(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Trace a function, derivatives inside it included, and compile the trace."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return torch.compile(make_fx(function, _allow_non_fake_inputs=True)(*inputs))


def ours(task: Task, compiled: bool = False) -> Contender:
    """`CPConvolution`: exact factors, applied once an atom, splines evaluated in the kernel."""
    from tdn.nn.tensor_product import CPConvolution

    inputs = make_inputs(task)
    lmax, nodes = inputs.lmax, inputs.x.shape[1]
    layer = CPConvolution(lmax, lmax, lmax).to(device=task.device, dtype=inputs.x.dtype)
    edges = EdgeIndex.build(inputs.senders, inputs.receivers, nodes)

    def forward(x: Tensor, vectors: Tensor, table: Tensor) -> Tensor:
        radial = RadialTable(*_spline_terms(vectors, table))
        return layer.sum_messages(x, layer.project_filter(harmonics_of(vectors, lmax)), radial, edges)

    rank = layer.factors.table.rank
    built = contender(forward, inputs.x, inputs.vectors, inputs.table, compiled, rank=rank)
    return built._replace(facts={**built.facts, **traffic(inputs, rank)})


def traffic(inputs: Inputs, rank: int) -> dict[str, float]:
    """Bytes that the sum over neighbours must read and write, and what the device moves in a second in a plain copy.

    An edge reads its sender's row and its projected harmonics, a node writes its row; the table stays in cache.
    """
    nodes, channels = inputs.x.shape[1:]
    numbers = len(inputs.senders) * rank * (channels + inputs.lmax + 1) + nodes * rank * channels
    # Written and copied once before: pages that were never touched are not memory yet.
    source = torch.ones(2**25, dtype=torch.float32, device=inputs.x.device)
    target = source.clone()
    best = min(time_pass(lambda: target.copy_(source), str(inputs.x.device), 0.2))
    return {
        "bytes_of_sum": numbers * inputs.x.element_size(),
        "copy_gb_per_s": round(2e-6 * source.numel() * source.element_size() / best, 2),
    }


def exact_ke(task: Task, compiled: bool = False) -> Contender:
    """The dense tensor, contracted with the harmonics first: the strongest exact form without factors."""
    from tdn.nn.tensor_product import CPConvolution

    inputs = make_inputs(task)
    lmax = inputs.lmax
    layer = CPConvolution(lmax, lmax, lmax, exact=True).to(device=task.device, dtype=inputs.x.dtype)

    def forward(x: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        return layer(x, harmonics_of(vectors, lmax), weights, inputs.senders, inputs.receivers)

    return contender(forward, inputs.x, inputs.vectors, inputs.weights, compiled)


def paper_cp(task: Task) -> Contender:
    """The paper's product: rank `7 L²` factors applied on every edge, one weight a channel (2507.01131, section 3)."""
    from tdn.cp.tables import load_table
    from tdn.nn.tensor_product import Factors

    inputs = make_inputs(task)
    table = load_table(inputs.lmax, inputs.lmax, inputs.lmax, "all", "paper")
    factors = Factors(table).to(device=task.device, dtype=inputs.x.dtype)

    def forward(x: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        features = gather(x.transpose(0, 1), inputs.senders)
        ranks = (factors.in2.T @ harmonics_of(vectors, inputs.lmax)).T[:, :, None]
        messages = factors.out @ (ranks * (factors.in1 @ features)) * weights[:, None, 0]
        return scatter_sum(messages, inputs.receivers, x.shape[1]).transpose(0, 1)

    return contender(forward, inputs.x, inputs.vectors, inputs.weights, compiled=False, rank=table.rank)


def paths_of(lmax: int) -> list[tuple[int, int, int]]:
    """Degrees of the natural-parity couplings up to `lmax`."""
    degrees = range(lmax + 1)
    every = ((a, b, c) for a in degrees for b in degrees for c in degrees)
    return [(a, b, c) for a, b, c in every if abs(a - b) <= c <= a + b and (a + b + c) % 2 == 0]


def e3nn(task: Task, compiled: bool = False) -> Contender:
    """`e3nn.o3.TensorProduct` in mode uvu; every path gets the radial weight of its filter degree."""
    import e3nn as package
    from e3nn import o3

    inputs = make_inputs(task)
    lmax, channels = inputs.lmax, inputs.x.shape[2]
    paths = paths_of(lmax)
    package.set_optimization_defaults(jit_script_fx=not compiled)
    node = o3.Irreps([(channels, (l, (-1) ** l)) for l in range(lmax + 1)])
    product = o3.TensorProduct(
        node, o3.Irreps.spherical_harmonics(lmax), node, [(a, b, c, "uvu", True) for a, b, c in paths],
        shared_weights=False, internal_weights=False,
    ).to(device=task.device, dtype=inputs.x.dtype)  # fmt: skip

    def forward(x: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        messages = product(gather(x, inputs.senders), harmonics_of(vectors, lmax).T, weights)
        return scatter_sum(messages, inputs.receivers, x.shape[0])

    flat, weights = _by_node(inputs), _by_path(inputs, paths)
    return contender(forward, flat, inputs.vectors, weights, compiled, paths=len(paths), package=package.__version__)


def cuequivariance(task: Task) -> Contender:
    """CuEquivariance's channel-wise product, paths kept apart: plain PyTorch on CPUs, its kernels on GPUs."""
    import cuequivariance as cue  # pyright: ignore[reportMissingImports]
    import cuequivariance_torch as cuet  # pyright: ignore[reportMissingImports]

    inputs = make_inputs(task)
    lmax, channels = inputs.lmax, inputs.x.shape[2]
    paths = paths_of(lmax)
    method = "uniform_1d" if task.device.startswith("cuda") else "naive"
    node = cue.Irreps("O3", " + ".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(lmax + 1)))
    harmonics = cue.Irreps("O3", " + ".join(f"{l}{'eo'[l % 2]}" for l in range(lmax + 1)))
    product = cuet.ChannelWiseTensorProduct(
        node, harmonics, [irrep for _, irrep in node], shared_weights=False, internal_weights=False, layout=cue.ir_mul,
        device=task.device, dtype=inputs.x.dtype, method=method,
    )  # fmt: skip

    def forward(x: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        messages = product(gather(x, inputs.senders), harmonics_of(vectors, lmax).T.contiguous(), weights)
        return scatter_sum(messages, inputs.receivers, x.shape[0])

    # Components of a degree first, then channels: our order, one degree after the other.
    flat = inputs.x.detach().transpose(0, 1).flatten(1).contiguous().requires_grad_(True)
    built = contender(forward, flat, inputs.vectors, _by_path(inputs, paths), False, paths=len(paths))
    return built._replace(mode=f"method {method}", facts={**built.facts, "package": cuet.__version__})


def _by_node(inputs: Inputs) -> Tensor:
    """Features as e3nn orders them: degree by degree, channels before components, `[N, U d]`."""
    parts = [inputs.x[l * l : (l + 1) ** 2].permute(1, 2, 0).flatten(1) for l in range(inputs.lmax + 1)]
    return torch.cat(parts, dim=1).detach().requires_grad_(True)


def _by_path(inputs: Inputs, paths: Sequence[tuple[int, int, int]]) -> Tensor:
    """The radial weight of each path's filter degree, `[E, paths U]`."""
    return torch.cat([inputs.weights[:, b] for _, b, _ in paths], dim=1).detach().requires_grad_(True)
