"""The convolution, forward and through the double backward of force training, against its exact dense twin and peers.

    python benchmarks/conv.py --lmax 1 2 3 --channels 64 --nodes 64 --neighbors 20

Every form computes the same equivariant map on the same random graph, one thread, float32:
  ours                node-projected exact factors, plain PyTorch (`CPConvolution`)
  exact_ke            the dense tensor, contracted with the harmonics first (`CPConvolution(exact=True)`)
  e3nn                `e3nn.o3.TensorProduct`, mode uvu, a weight a path and channel (more than ours); if installed
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common import interleaved_times, summarise, write_result
from torch import Tensor

from tdn.nn.harmonics import spherical_harmonics
from tdn.nn.kernels import gather, scatter_sum
from tdn.nn.tensor_product import CPConvolution

RESULTS = Path(__file__).parent / "results"


def force_training_step(
    forward: Callable[[Tensor, Tensor], Tensor], x: Tensor, vectors: Tensor, *weights: Tensor
) -> None:
    """Output, its derivative in the edge vectors, and the derivative of both in everything else."""
    vectors = vectors.detach().requires_grad_(True)
    energy = forward(x, vectors).square().sum()
    (forces,) = torch.autograd.grad(energy, vectors, create_graph=True)
    torch.autograd.grad(energy + forces.square().sum(), [x, *weights])


def e3nn_convolution(lmax: int, channels: int, senders: Tensor, receivers: Tensor, weights: Tensor) -> Callable:
    from e3nn import o3

    node = o3.Irreps([(channels, (l, (-1) ** l)) for l in range(lmax + 1)])
    sh = o3.Irreps.spherical_harmonics(lmax)
    paths = [
        (i, j, k, "uvu", True)
        for i, (_, a) in enumerate(node) for j, (_, b) in enumerate(sh) for k, (_, c) in enumerate(node) if c in a * b
    ]  # fmt: skip
    product = o3.TensorProduct(node, sh, node, paths, shared_weights=False, internal_weights=False)
    # The same radial weight for every path of a filter degree, so that the work besides the product is the same.
    path_weights = torch.cat([weights[:, j] for _, j, *_ in paths], dim=1)

    def forward(x: Tensor, vectors: Tensor) -> Tensor:
        harmonics = o3.spherical_harmonics(sh, vectors, normalize=True, normalization="component")
        return scatter_sum(product(gather(x, senders), harmonics, path_weights), receivers, x.shape[0])

    return forward


def measure(lmax: int, channels: int, nodes: int, neighbors: int, rounds: int, peers: bool) -> dict:
    torch.manual_seed(0)
    edges = nodes * neighbors
    receivers = torch.arange(edges) // neighbors
    senders = torch.randint(0, nodes, (edges,))
    vectors = torch.nn.functional.normalize(torch.randn(edges, 3), dim=1)
    x = torch.randn((lmax + 1) ** 2, nodes, channels, requires_grad=True)
    weights = torch.randn(edges, lmax + 1, channels, requires_grad=True)
    functions = {}
    layers = {"ours": CPConvolution(lmax, lmax, lmax), "exact_ke": CPConvolution(lmax, lmax, lmax, exact=True)}
    for name, layer in layers.items():

        def forward(x: Tensor, v: Tensor, layer: CPConvolution = layer) -> Tensor:
            return layer(
                x, spherical_harmonics(torch.nn.functional.normalize(v, dim=1), lmax), weights, senders, receivers
            )

        functions[name] = lambda forward=forward: force_training_step(forward, x, vectors, weights)
        functions[f"{name}_forward"] = lambda forward=forward: forward(x.detach(), vectors)
    if peers:
        try:
            reference = e3nn_convolution(lmax, channels, senders, receivers, weights)
        except ImportError:
            print("e3nn is not installed: left out")
        else:
            flat = x.detach().permute(1, 2, 0).flatten(1).contiguous().requires_grad_(True)
            functions["e3nn"] = lambda: force_training_step(reference, flat, vectors, weights)
            functions["e3nn_forward"] = lambda: reference(flat.detach(), vectors)
    times = interleaved_times(functions, rounds)
    training = {name: value for name, value in times.items() if not name.endswith("_forward")}
    inference = {name.removesuffix("_forward"): value for name, value in times.items() if name.endswith("_forward")}
    return {
        "lmax": lmax,
        "rank": layers["ours"].factors.table.rank,
        "channels": channels,
        "nodes": nodes,
        "neighbors": neighbors,
        "forward_backward_double_backward": summarise(training, "ours"),
        "forward": summarise(inference, "ours"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmax", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--neighbors", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS / "conv.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for lmax in arguments.lmax:
        settings = (arguments.channels, arguments.nodes, arguments.neighbors, arguments.rounds)
        rows.append(measure(lmax, *settings, peers=not arguments.no_peers))
        for kind in ("forward", "forward_backward_double_backward"):
            times = ", ".join(
                f"{k} {v['median_ms']:.2f} ms (x{v['ratio_to_ours']:.1f})" for k, v in rows[-1][kind].items()
            )
            print(f"L={lmax} R={rows[-1]['rank']} {kind}: {times}", flush=True)
    command = "python benchmarks/conv.py --lmax " + " ".join(map(str, arguments.lmax))
    write_result(arguments.json, command, {"note": "float32, one thread; ratios are time over ours", "rows": rows})


if __name__ == "__main__":
    main()
