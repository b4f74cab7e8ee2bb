"""`PaperTDN` against the same network with e3nn's products and with our exact ones: molecules a second, one thread.

    flock /tmp/bench.lock python benchmarks/paper_throughput.py

Inference of energies and direct forces of a batch of shipped molecules, 256 channels, 6 layers, float32, fresh weights
(Tables 4 and 7 of arXiv 2507.01131, whose CPU columns give 2.7, 3.6 and 9.7 times the Equiformer for L = 1, 2, 3):

    cp                  the published network, fits of rank 7 L²
    exact, cg           its twins: exact factors, exact Clebsch-Gordan tensors of shared path weights ("w/o CP")
    cg_paths            a weight for every path, our code ("w/o CP+PS")
    e3nn                the same map with `e3nn.o3.TensorProduct`, mode uvu, linear maps shared ("w/o CP+PS")
    e3nn per degree     besides, a linear map for every degree ("w/o CP+PS+PS-Linear", closest to Equiformer)

`compiled` rows run through `torch.compile`, e3nn's with its products as plain code instead of TorchScript. The networks
differ in nothing else; all take turns, round by round. e3nn wants another order of components, which is a copy before
and after its product: `e3nn_copies` is their share of its time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import e3nn
import numpy as np
import torch
from common import interleaved_times, write_result
from e3nn import o3
from torch import Tensor, nn

from tdn.data.reading import read_frames
from tdn.datasets import organics_path
from tdn.graph import AtomGraph, collate
from tdn.models.architectures import build_potential, parse_model_config
from tdn.models.potential import Potential
from tdn.nn.edge_product import EdgeProduct, Kernel, PathProduct

RESULTS = Path(__file__).parent / "results"
TARGETS = {1: 2.7, 2: 3.6, 3: 9.7}


def to_e3nn(x: Tensor, lmax: int) -> Tensor:
    """Features `[E, d, C]` in e3nn's order, channels before components."""
    return torch.cat([x[:, l * l : (l + 1) ** 2].mT.flatten(1) for l in range(lmax + 1)], dim=1)


def from_e3nn(x: Tensor, lmax: int, channels: int) -> Tensor:
    """And back."""
    parts = x.split([channels * (2 * l + 1) for l in range(lmax + 1)], dim=1)
    return torch.cat([part.view(x.shape[0], channels, -1).mT for part in parts], dim=1)


class E3nnProduct(EdgeProduct):
    """`PathProduct` by e3nn.

    Args:
        twin: The product that it computes.
        channels: Channels.
        scalars: Of scalar features alone, as in the degree embedding.
    """

    key = "e3nn"

    def __init__(self, twin: PathProduct, channels: int, scalars: bool) -> None:
        super().__init__()
        self.lmax, self.channels, self.num_weights = twin.lmax, channels, twin.num_weights
        self.lmax_in = 0 if scalars else twin.lmax
        even = [o3.Irreps([(channels, (l, 1)) for l in range(top + 1)]) for top in (self.lmax_in, twin.lmax)]
        filters = o3.Irreps([(1, (l, 1)) for l in range(twin.lmax + 1)])
        self.kept = [k for k, path in enumerate(twin.paths) if path[0] <= self.lmax_in]
        paths: list[Any] = [(*twin.paths[k], "uvu", True) for k in self.kept]
        options: dict[str, Any] = {"shared_weights": False, "internal_weights": False}
        self.product = o3.TensorProduct(
            even[0], filters, even[1], paths, irrep_normalization="none", path_normalization="none", **options
        )

    def kernel(self, harmonics: Tensor) -> Kernel:
        """The harmonics."""
        return (harmonics,)

    def forward(self, x: Tensor, kernel: Kernel, weights: Tensor) -> Tensor:
        """See `EdgeProduct`."""
        if self.lmax_in < self.lmax:
            weights = weights.view(-1, self.num_weights, self.channels)[:, self.kept].flatten(1)
        return from_e3nn(self.product(to_e3nn(x, self.lmax_in), kernel[0], weights), self.lmax, self.channels)


def with_e3nn(potential: Potential, channels: int) -> Potential:
    """The potential with e3nn's products in place of ours."""
    for module in list(potential.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PathProduct):
                setattr(module, name, E3nnProduct(child, channels, scalars=name == "product"))
    return potential


def build(lmax: int, arguments: argparse.Namespace, **changes: Any) -> Potential:
    torch.manual_seed(0)
    shape = {"num_channels": arguments.channels, "num_layers": arguments.layers, "lmax": lmax}
    config = parse_model_config({"architecture": "PaperTDN", **shape, **changes})
    return build_potential(config, dict.fromkeys(range(1, 18), 0.0)).eval()


def compilable(lmax: int, arguments: argparse.Namespace) -> Potential:
    """With e3nn's products as plain code instead of TorchScript, which PyTorch's compiler does not look into."""
    mode = e3nn.get_optimization_defaults()["jit_mode"]
    e3nn.set_optimization_defaults(jit_mode="eager")
    potential = with_e3nn(build(lmax, arguments, products="cg_paths"), arguments.channels)
    e3nn.set_optimization_defaults(jit_mode=mode)
    return potential


def batch_of(count: int) -> AtomGraph:
    """The largest test molecules."""
    structures = sorted(read_frames(organics_path("test")).structures, key=len)[-count:]
    return collate([AtomGraph.from_structure(structure, 4.5) for structure in structures])


def copies(potential: Potential, graph: AtomGraph, lmax: int, channels: int) -> Callable[[], None]:
    """The changes of order that e3nn's products need, alone."""
    x = torch.randn(graph.num_edges, (lmax + 1) ** 2, channels)
    y = to_e3nn(x, lmax)
    count = sum(isinstance(module, E3nnProduct) for module in potential.modules())

    def run() -> None:
        for _ in range(count):
            to_e3nn(x, lmax)
            from_e3nn(y, lmax, channels)

    return run


def row_of(lmax: int, graph: AtomGraph, arguments: argparse.Namespace) -> dict[str, Any]:
    networks = {kind: build(lmax, arguments, products=kind) for kind in ("cp", "exact", "cg", "cg_paths")}
    networks["e3nn"] = with_e3nn(build(lmax, arguments, products="cg_paths"), arguments.channels)
    per_degree = build(lmax, arguments, products="cg_paths", shared_linear=False)
    networks["e3nn per degree"] = with_e3nn(per_degree, arguments.channels)
    for kind in arguments.compiled:
        ours = kind != "e3nn"
        network = build(lmax, arguments, products=kind) if ours else compilable(lmax, arguments)
        networks[f"{kind} compiled"] = network
        network.compile()
    with torch.no_grad():
        wanted = networks["cg_paths"](graph).forces
        difference = float((networks["e3nn"](graph).forces - wanted).abs().max() / wanted.abs().max())
        functions: dict[str, Callable[[], Any]] = {n: lambda p=p: p(graph) for n, p in networks.items()}
        functions["copies"] = copies(networks["e3nn"], graph, lmax, arguments.channels)
        times = interleaved_times(functions, arguments.rounds)
    copied = times.pop("copies")
    fastest = min((n for n in times if n.startswith("cp")), key=lambda n: float(np.median(times[n])))
    rows = {
        name: {
            "median_ms": round(float(np.median(values)), 2),
            "molecules_per_s": round(1e3 * graph.num_graphs / float(np.median(values)), 2),
            "times_cp": round(float(np.median(values / times["cp"])), 3),
            "times_fastest_cp": round(float(np.median(values / times[fastest])), 3),
            "parameters": parameters(networks[name]),
        }
        for name, values in times.items()
    }
    share = round(float(np.median(copied / times["e3nn"])), 3)
    return {"lmax": lmax, "target": TARGETS.get(lmax), "fastest_cp": fastest, "largest_difference_of_e3nn": difference,
            "e3nn_copies": share, "networks": rows}  # fmt: skip


def parameters(potential: nn.Module) -> int:
    return sum(parameter.numel() for parameter in potential.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmax", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16, help="molecules")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--compiled", nargs="*", default=["cp", "e3nn"], help="products whose networks are compiled as well"
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "paper_throughput.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    graph = batch_of(arguments.batch)
    content: dict[str, Any] = {
        **{"channels": arguments.channels, "layers": arguments.layers, "dtype": "float32", "seed": 0},
        **{"molecules": arguments.batch, "atoms": graph.num_atoms, "edges": graph.num_edges},
    }
    print(content)
    content["rows"] = []
    command = f"python benchmarks/paper_throughput.py --channels {arguments.channels} --layers {arguments.layers}"
    for lmax in arguments.lmax:
        content["rows"].append(row_of(lmax, graph, arguments))
        row = content["rows"][-1]
        write_result(arguments.json, f"{command} --batch {arguments.batch}", content, 1)
        print(f"L={lmax}, target x{row['target']}, e3nn's copies {row['e3nn_copies']:.0%}")
        for name, found in row["networks"].items():
            print(f"  {name:16} {found['median_ms']:8.1f} ms  x{found['times_fastest_cp']:.2f}  {found['parameters']}")


if __name__ == "__main__":
    main()
