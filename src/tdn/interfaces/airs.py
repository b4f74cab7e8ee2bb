"""Checkpoints of the paper's public code (divelab/AIRS, OpenMol/TDN) as potentials of this package.

Only tensors are read: `torch.load` with `weights_only=True` runs no code of the file. The factors are the checkpoint's
own, since the network was trained around them. Energies are above the reference energies of PubChemQCR.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdn.cp.couplings import coupling_paths
from tdn.cp.projection import equivariant_part
from tdn.cp.tables import FactorTable
from tdn.data.pubchemqcr import ATOM_ENERGIES, CONSTANTS
from tdn.errors import ModelFileError
from tdn.models.paper import PaperTDN, PaperTDNConfig
from tdn.models.paper_potential import PaperPotential
from tdn.nn.edge_product import TableProduct

State = Mapping[str, Tensor]
_FACTORS = ("cp_a", "cp_b", "cp_c")  # of node features, harmonics, output
_OLD_FACTORS = ("cp_u", "cp_v", "cp_t")


def read_airs(path: str | os.PathLike[str], averaged: bool = False, **options: Any) -> PaperPotential:
    """Read a checkpoint and build the potential that computes what the public code computes with it.

    Args:
        path: Bare state dict (`*_best_model_*.pth`) or training checkpoint (`*_checkpoint_*.pth`).
        averaged: Take the moving average of the weights, which training checkpoints with EMA hold, and not the weights.
        options: Fields of `PaperTDNConfig` that the file does not tell, such as `r_max`, `max_neighbors`,
            `avg_num_nodes`, `avg_degree` and `forces`, and repairs. `products: exact` takes the equivariant part of the
            file's products, which is exact under rotations.

    Raises:
        ModelFileError: If the file is no such checkpoint, with what is wrong in it.
        ConfigError: If an option is not valid.
    """
    state = read_state(path, averaged)
    config = PaperTDNConfig.parse({**_shape(state, str(path)), **options}, "The options")
    ev_per_hartree = CONSTANTS["published"][0]
    potential = PaperPotential(config, {z: energy * ev_per_hartree for z, energy in ATOM_ENERGIES.items()})
    with torch.no_grad():
        _fill(potential, state, str(path))
    return potential.eval()


def describe_source(path: str | os.PathLike[str]) -> dict[str, str]:
    """Name and fingerprint of a checkpoint, for the metadata of a model file."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return {"imported_from": Path(path).name, "sha256": digest, "reference_energies": "atoms of PubChemQCR"}


def read_state(path: str | os.PathLike[str], averaged: bool = False) -> dict[str, Tensor]:
    """The network's tensors under the public code's names, prefixes of wrappers removed.

    Raises:
        ModelFileError: If the file cannot be read as a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelFileError(f"No checkpoint at {path}.") from error
    except Exception as error:  # whatever a damaged or foreign pickle makes of the reader
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelFileError(
            f"{path} is no checkpoint of tensors alone, and nothing else is read ({reason}). Save its state dict with "
            "torch.save(model.state_dict(), FILE)."
        ) from error
    if not isinstance(content, dict):
        raise ModelFileError(
            f"{path} holds a {type(content).__name__}; expected a state dict or a training checkpoint."
        )
    weights = content.get("model_state_dict", content)
    state = {_plain_name(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    old = sorted(key for key in state if key.rpartition(".")[2] in _OLD_FACTORS)
    if old:
        raise ModelFileError(
            f"{path} is of an older version of the public code: its factors are {old[0]} and the like, which that code "
            "itself no longer uses, so that what the network computed cannot be told from the file. Train it again."
        )
    if averaged:
        state |= _averages(content, state, str(path))
    return state


def _plain_name(key: str) -> str:
    """The name without the prefixes of DistributedDataParallel and torch.compile."""
    return key.removeprefix("module.").replace("_orig_mod.", "")


def _averages(content: Mapping[str, Any], state: State, path: str) -> dict[str, Tensor]:
    """Moving averages by name: torch_ema stores the trained parameters in order, without names."""
    averages = content.get("ema_state_dict", {}).get("shadow_params")
    if averages is None:
        raise ModelFileError(f"{path} has no moving average (ema_state_dict): leave --ema out.")
    trained = [key for key in state if key.rpartition(".")[2] not in _FACTORS]
    if [tuple(value.shape) for value in averages] != [tuple(state[key].shape) for key in trained]:
        raise ModelFileError(f"{path}: the moving average does not fit the network's {len(trained)} tensors.")
    return dict(zip(trained, averages, strict=True))


def _shape(state: State, path: str) -> dict[str, Any]:
    """What the tensors tell of the configuration."""
    needed = ("norm.affine_weight", "rbf.mean", "atom_embed.atom_type_lin.weight", "blocks.0.attn.alpha_dot")
    missing = [key for key in needed if key not in state]
    if missing:
        some = ", ".join(list(state)[:4]) or "nothing"
        raise ModelFileError(
            f"{path} is no checkpoint of TDN's public code: it lacks {missing[0]} and holds {some}, ..."
        )
    blocks = [int(key.split(".")[1]) for key in state if key.startswith("blocks.")]
    weight = state["norm.affine_weight"]
    return {
        "lmax": weight.shape[0] - 1,
        "num_channels": weight.shape[-1],
        "num_layers": max(blocks) + 1,
        "num_heads": state["blocks.0.attn.alpha_dot"].shape[0],
        "num_gaussians": state["rbf.mean"].shape[-1],
        "num_atom_types": state["atom_embed.atom_type_lin.weight"].shape[1],
    }


def _fill(potential: PaperPotential, state: State, path: str) -> None:
    """Copy all tensors, and make sure that none is missing, left over or of another shape."""
    network = potential.network
    assert isinstance(network, PaperTDN)
    expected = dict(network.state_dict())
    used = set()
    for name, (source, value) in _weights(network, state, path):
        used.add(source)
        if value.shape != expected[name].shape:
            raise ModelFileError(
                f"{path}: {source} gives {name} the shape {tuple(value.shape)}; the network of this file's size has "
                f"{tuple(expected[name].shape)}."
            )
        expected.pop(name).copy_(value)
    assert not expected, expected
    products = {name: module for name, module in network.named_modules() if isinstance(module, TableProduct)}
    for name, product in products.items():
        source = _product_source(name)
        table = _table(state, source, potential.config.lmax, path)
        product.set_table(equivariant_part(table) if potential.config.products == "exact" else table)
        used |= {f"{source}.{factor}" for factor in _FACTORS}
    heads = ("force_head.", "force_proj.") if potential.config.forces != "direct" else ()
    unknown = [key for key in state if key not in used and not key.startswith(heads or ("\0",))]
    if unknown:
        raise ModelFileError(f"{path} has tensors that the public network has not: {', '.join(unknown[:4])}.")


# Ends of the names of our parameters -> of theirs, longest first.
_ENDS = (
    ("radial.profile.layers.", "rad.net."),
    ("radial.profile.offset", "rad.offset"),
    ("alpha_dot", "alpha_dot"),
)
# Linear maps: their weight is X.linear.weight, their bias X.bias.
_LINEAR = {
    "constant": "exp",
    "sender": "merge_src",
    "receiver": "merge_dst",
    "alpha": "lin_alpha",
    "value.value": "lin_value",
    "value.gate": "lin_value",
    "hidden.value": "ffn.0",
    "hidden.gate": "ffn.0",
    "energy_hidden": "head.0",
    "energy_out": "head.2",
    "force_out": "force_proj",
}
_OWN = {
    "embedding": "atom_embed.atom_type_lin.weight",
    "embedding_bias": "atom_embed.atom_type_lin.bias",
    "basis.mean": "rbf.mean",
    "basis.std": "rbf.std",
    "basis.scale": "rbf.weight",
    "basis.shift": "rbf.bias",
}


def _weights(network: PaperTDN, state: State, path: str) -> Iterator[tuple[str, tuple[str, Tensor]]]:
    """Name of every parameter, the public code's name of its source, and its value in our layout."""
    channels = network.config.num_channels
    for name, parameter in network.named_parameters():
        source = _source(name)
        if source not in state:
            raise ModelFileError(f"{path} lacks {source}: it is incomplete, or of another version of the public code.")
        value = state[source]
        if name == "embedding":
            value = value.T
        elif ".value.value." in name or ".hidden.value." in name:
            value = value[..., :channels, :] if name.endswith("weight") else value[..., :channels]
        elif ".value.gate." in name or ".hidden.gate." in name:
            value = value[..., channels:, :] if name.endswith("weight") else value[..., channels:]
        # Their vectors have leading dimensions of one.
        yield name, (source, value.reshape(parameter.shape) if value.numel() == parameter.numel() else value)


def _source(name: str) -> str:
    """The public code's name of our parameter `name`."""
    if name in _OWN:
        return _OWN[name]
    owner, rest = _owner(name)
    for ours, theirs in _ENDS:
        if rest.startswith(ours):
            return f"{owner}{theirs}{rest.removeprefix(ours)}"
    module, _, kind = rest.rpartition(".")
    if module in ("norm", "norm1", "norm2"):
        return f"{owner}{module}.affine_{kind}"
    theirs = _LINEAR.get(module)
    if theirs is None:
        theirs = "ffn.2" if owner.startswith("blocks.") and not owner.endswith("attn.") else "proj"
    return f"{owner}{theirs}.{'linear.weight' if kind == 'weight' else 'bias'}"


def _owner(name: str) -> tuple[str, str]:
    """The public code's prefix of the part that a parameter belongs to, and the rest of our name."""
    if name.startswith("blocks."):
        _, index, rest = name.split(".", 2)
        if rest.startswith("attention."):
            return f"blocks.{index}.attn.", rest.removeprefix("attention.")
        return f"blocks.{index}.", rest
    for ours, theirs in (("degree_embedding.", "edge_embed."), ("force_attention.", "force_head.")):
        if name.startswith(ours):
            return theirs, name.removeprefix(ours)
    return "", name


def _product_source(name: str) -> str:
    """The public code's name of the product `name`."""
    owner, rest = _owner(name)
    return f"{owner}{rest.replace('product', 'tp')}.cp_tp"


def _table(state: State, source: str, lmax: int, path: str) -> FactorTable:
    """The factors of one product; they stand for unit path weights, which they fit."""
    missing = [factor for factor in _FACTORS if f"{source}.{factor}" not in state]
    if missing:
        raise ModelFileError(f"{path} lacks the factors {source}.{missing[0]}: it is incomplete.")
    factors = [np.asarray(state[f"{source}.{factor}"].double()) for factor in _FACTORS]
    shapes = [factor.shape for factor in factors]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or shapes[0][0] != (lmax + 1) ** 2:
        raise ModelFileError(
            f"{path}: the factors of {source} have the shapes {', '.join(map(str, shapes))}; expected three of "
            f"({(lmax + 1) ** 2}, rank)."
        )
    weights = dict.fromkeys(coupling_paths(lmax, lmax, lmax, parity="all"), 1.0)
    in1, in2, out = factors
    return FactorTable(lmax, lmax, lmax, "all", in1, in2, out, weights, "fitted by the public code, imported")
