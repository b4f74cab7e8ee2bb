"""Whom we compare with: every contender of every suite, the package that it needs, and how its work differs from ours.

This is the parent's side: names and words only. The builders run in the contender's own interpreter (`worker`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tdn.errors import ConfigError

FACTORS = "exact factors, projected on the nodes; evaluates the radial splines too"
SAME_MAP = "same map, radial weights ready-made"
PATH_WEIGHTS = "same paths, radial weights ready-made, but one a path and channel: more than ours"


@dataclass(frozen=True)
class Peer:
    """One contender.

    Attributes:
        package: What must be importable; looked for in the interpreters at hand.
        builder: `module:function` that makes its `Contender`.
        work: What it computes, where that differs from what we do.
        options: Keyword arguments of the builder.
        optional: Runs only if its name is given, since it takes minutes to compile or needs a folder.
    """

    package: str
    builder: str
    work: str
    options: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False


CONVOLUTIONS = {
    "ours": Peer("tdn", "tdn.bench.convolutions:ours", FACTORS),
    "ours_compiled": Peer("tdn", "tdn.bench.convolutions:ours", FACTORS, {"compiled": True}),
    "exact_ke": Peer("tdn", "tdn.bench.convolutions:exact_ke", SAME_MAP + ", dense tensor contracted first"),
    "exact_ke_compiled": Peer(
        "tdn", "tdn.bench.convolutions:exact_ke", SAME_MAP + ", dense tensor contracted first", {"compiled": True}
    ),
    "paper_cp": Peer(
        "tdn",
        "tdn.bench.convolutions:paper_cp",
        "rank 7 L² an edge, approximate, SO(3) paths, one ready-made weight a channel",
    ),
    "e3nn": Peer("e3nn", "tdn.bench.convolutions:e3nn", PATH_WEIGHTS),
    "e3nn_compiled": Peer("e3nn", "tdn.bench.convolutions:e3nn", PATH_WEIGHTS, {"compiled": True}),
    "cuequivariance": Peer("cuequivariance_torch", "tdn.bench.convolutions:cuequivariance", PATH_WEIGHTS),
}

_OURS, _E3NN = "tdn.bench.products:ours", "tdn.bench.products:e3nn"
_PATHS, _SHARED = "a weight a path and channel", "one weight a channel for all paths"
# By setting of the weights: within one all compute the same map, unless said.
PRODUCTS = {
    "path": {
        "ours": Peer("tdn", _OURS, f"{_PATHS}: exact kernels, no low rank"),
        "ours_ir_mul": Peer("tdn", _OURS, f"{_PATHS}, copies innermost", {"layout": "ir_mul"}),
        "ours_compiled": Peer("tdn", _OURS, f"{_PATHS}: exact kernels, no low rank", {"compiled": True}, optional=True),
        "e3nn": Peer("e3nn", _E3NN, _PATHS),
        "e3nn_compiled": Peer("e3nn", _E3NN, _PATHS, {"compiled": True}, optional=True),
        "cuequivariance": Peer(
            "cuequivariance_torch", "tdn.bench.products:cuequivariance", f"{_PATHS}, copies innermost"
        ),
    },
    "shared": {
        "ours": Peer("tdn", _OURS, f"{_SHARED}: factors or dense, whichever has fewer operations"),
        "ours_ir_mul": Peer("tdn", _OURS, f"{_SHARED}, copies innermost", {"layout": "ir_mul"}),
        "ours_compiled": Peer(
            "tdn", _OURS, f"{_SHARED}: factors or dense, whichever has fewer operations", {"compiled": True},
            optional=True,
        ),
        "exact_ke": Peer(
            "tdn", _OURS, f"{_SHARED}: dense, contracted with the second input first", {"kernel": "dense"}
        ),
        "exact_ke_compiled": Peer(
            "tdn", _OURS, f"{_SHARED}: dense, contracted with the second input first",
            {"kernel": "dense", "compiled": True}, optional=True,
        ),
        "exact_cp": Peer("tdn", _OURS, f"{_SHARED}: exact factors on every edge", {"kernel": "low-rank"}),
        "paper_cp": Peer(
            "tdn", _OURS, f"{_SHARED}: rank 7 L² on every edge, approximate; couplings without that fit stay exact",
            {"kernel": "low-rank", "rank": "paper"},
        ),
        "e3nn": Peer("e3nn", _E3NN, f"{_SHARED}, copied to every path"),
        "e3nn_compiled": Peer("e3nn", _E3NN, f"{_SHARED}, copied to every path", {"compiled": True}, optional=True),
    },
}  # fmt: skip


def _matched(package: str, module: str, name: str) -> Peer:
    """A package's network at our sizes instead of those that it publishes."""
    work = f"{name} at our channels, degree and layers"
    return Peer(package, f"tdn.bench.models.{module}:matched", work, optional=True)


MODELS = {
    "ours": Peer("tdn", "tdn.bench.models.ours:build", "TDN"),
    "ours_eager": Peer("tdn", "tdn.bench.models.ours:build", "TDN", {"compiled": False}),
    "mace_64_l1": Peer("mace", "tdn.bench.models.mace:build", "MACE, 64 channels, max_L=1", {"channels": 64}),
    "mace_128_l1": Peer("mace", "tdn.bench.models.mace:build", "MACE, 128 channels, max_L=1", {"channels": 128}),
    "mace_64_l1_compiled": Peer(
        "mace", "tdn.bench.models.mace:build", "MACE, 64 channels, max_L=1",
        {"channels": 64, "compiled": True}, optional=True,
    ),
    "nequip_64_l2": Peer("nequip", "tdn.bench.models.nequip:build", "NequIP, 64 features, l=2, 4 layers"),
    "sevennet_0": Peer("sevenn", "tdn.bench.models.sevennet:build", "SevenNet-0's architecture, 5 layers"),
    "tensornet_128": Peer(
        "torchmdnet", "tdn.bench.models.tensornet:build", "TensorNet, 128 channels, 2 layers"
    ),
    "esen_l2": Peer("fairchem.core", "tdn.bench.models.esen:build", "eSCN-MD of eSEN, lmax 2, 128 channels, 4 layers"),
    "mace_matched": _matched("mace", "mace", "MACE"),
    "nequip_matched": _matched("nequip", "nequip", "NequIP, each degree once,"),
    "sevennet_matched": _matched("sevenn", "sevennet", "SevenNet"),
    "tensornet_matched": _matched("torchmdnet", "tensornet", "TensorNet, degrees up to 2,"),
    "esen_matched": _matched("fairchem.core", "esen", "eSCN-MD of eSEN"),
    "public_tdn_l1": Peer(
        "torch_geometric", "tdn.bench.models.public_tdn:build",
        "public TDN code, 128 channels, 4 layers, L=1; no cell: the atoms as a cluster", {"lmax": 1}, optional=True,
    ),
}  # fmt: skip


def choose(peers: Mapping[str, Peer], wanted: Sequence[str] | None, eager: bool = False) -> dict[str, Peer]:
    """Ours and the `wanted` contenders, or all that are not optional if None; `eager` keeps ours from compiling.

    Raises:
        ConfigError: If a name is not known.
    """
    unknown = [name for name in wanted or () if name not in peers]
    if unknown:
        raise ConfigError(f"--peers must be of {', '.join(peers)}, got {', '.join(unknown)}.")
    ours = peers["ours_eager" if eager else "ours"]
    names = [name for name in peers if (name in wanted if wanted is not None else not peers[name].optional)]
    return {"ours": ours, **{name: peers[name] for name in names if name != "ours"}}


def choose_by_setting(
    peers: Mapping[str, Mapping[str, Peer]], settings: Sequence[str], wanted: Sequence[str] | None
) -> dict[str, dict[str, Peer]]:
    """As `choose`, of each of the named `settings`; a contender need not be in all of them.

    Raises:
        ConfigError: If a setting is not known, or a name in none of them.
    """
    if unknown := [name for name in settings if name not in peers]:
        raise ConfigError(f"--weights must be of {', '.join(peers)}, got {', '.join(unknown)}.")
    every = dict.fromkeys(name for found in peers.values() for name in found)
    if unknown := [name for name in wanted or () if name not in every]:
        raise ConfigError(f"--peers must be of {', '.join(every)}, got {', '.join(unknown)}.")
    return {
        name: choose(peers[name], None if wanted is None else [who for who in wanted if who in peers[name]])
        for name in settings
    }
