"""The public code of the TDN paper, run from a folder that the user names; none of it is part of this package."""

# pyright: reportMissingImports=false
from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import os
import sys
import tempfile
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdn.bench.models.common import contender
from tdn.bench.worker import Contender, Task


def _scatter(values: Tensor, index: Tensor, dim: int = 0, dim_size: int | None = None, **_: Any) -> Tensor:
    """`torch_scatter.scatter` along the first dimension, in PyTorch."""
    size = int(index.max()) + 1 if dim_size is None else dim_size
    return values.new_zeros((size, *values.shape[1:])).index_add(0, index, values)


def _radius_graph(pos: Tensor, r: float, batch: Tensor, max_num_neighbors: int) -> Tensor:
    """`torch_cluster.radius_graph`, by testing every pair: the lists are short and made once."""
    near = (torch.cdist(pos.detach(), pos.detach()) <= r) & (batch[:, None] == batch[None])
    near.fill_diagonal_(False)
    return near.nonzero().T.flip(0).contiguous()


def _stand_in(name: str, **functions: Any) -> None:
    """Provide a package that does not build with current PyTorch, unless it is installed."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # others look whether it is there
        module.__dict__.update(functions)
        sys.modules[name] = module


def build(task: Task, lmax: int = 1, channels: int = 128, layers: int = 4) -> Contender:
    """Four layers with gradient forces, eager: with compiled blocks, its default, gradient forces raise an error.

    Its factors are fitted in the constructor, for hours; here they stay random, which takes as long to run.
    """
    folder = task.settings.get("airs_code")
    if not folder:
        raise FileNotFoundError("--airs-code names no folder with the public code (AIRS, OpenMol/TDN)")
    graphs: list[Tensor] = []

    def neighbours(*args: Any, **kwargs: Any) -> Tensor:
        if not graphs:
            graphs.append(_radius_graph(*args, **kwargs))
        return graphs[0]

    _stand_in("torch_scatter", scatter=_scatter)
    _stand_in("torch_cluster", radius_graph=_radius_graph)
    sys.path.insert(0, os.path.abspath(folder))
    network: Any
    products: Any
    network, products = (importlib.import_module(name) for name in ("models.tdn", "models._tensor_product"))
    products.fit_cp_to_exact_tp = lambda **_: {}
    network.radius_graph = neighbours
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        model = network.TensorDecompositionNetwork(
            hidden_channels=channels, num_interactions=layers, cutoff=float(task.settings["cutoff"]), lmax=lmax,
            max_num_neighbors=1000, gradient_force=True, compile_blocks=False,
        ).to(task.device)  # fmt: skip
    numbers, positions, *_ = zip(*task.structures, strict=True)
    x = torch.tensor(np.concatenate(numbers), device=task.device)[:, None]
    pos = torch.tensor(np.concatenate(positions), dtype=torch.float32, device=task.device)
    batch = torch.arange(len(numbers)).repeat_interleave(torch.tensor([len(n) for n in numbers])).to(task.device)

    def predict(training: bool) -> tuple[Tensor, Tensor]:
        data = types.SimpleNamespace(x=x, pos=pos.clone(), batch=batch, num_nodes=len(x))
        energy, forces, _ = model.train(training)(data)
        return energy, forces

    built = contender(model, predict, task, "eager, gradient forces")
    predict(False)
    return built._replace(facts={**built.facts, "edges": int(graphs[0].shape[1])})
