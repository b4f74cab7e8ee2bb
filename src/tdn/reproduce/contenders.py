"""Contenders of the accuracy suite, ours and peers, and the conditions that are the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdn.bench.peers import Peer
from tdn.bench.rounds import Interpreters
from tdn.devices import choose_device
from tdn.errors import ConfigError, TDNError
from tdn.training.config import RunConfig, apply_override, parse_duration

PEERS: Mapping[str, Peer] = {
    "mace": Peer(
        "mace", "tdn.reproduce.peers.mace:build", "MACE, 64 channels, max_L=1", {"channels": 64, "cutoff": 5.0}
    ),
    "mace-128": Peer(
        "mace", "tdn.reproduce.peers.mace:build", "MACE, 128 channels, max_L=1", {"channels": 128, "cutoff": 5.0}
    ),
    "torchmdnet": Peer(
        "torchmdnet", "tdn.reproduce.peers.tensornet:build", "TensorNet, 128 channels, 2 layers",
        {"channels": 128, "layers": 2, "cutoff": 4.5},
    ),
    "nequip": Peer(
        "nequip", "tdn.reproduce.peers.nequip:build", "NequIP, 32 features, l_max=2, 4 layers",
        {"features": 32, "lmax": 2, "layers": 4, "cutoff": 5.0},
    ),
}  # fmt: skip
"""Whom we compare with: name -> the package, and how its authors build it."""


@dataclass(frozen=True)
class Contender:
    """Who is trained.

    Attributes:
        name: In tables and as a folder.
        preset: Of our network; None for a peer.
        changes: To the preset, as `key=value`.
        peer: Of `PEERS`; None for our network.
    """

    name: str
    preset: str | None = None
    changes: tuple[str, ...] = ()
    peer: Peer | None = None


@dataclass(frozen=True)
class Conditions:
    """What is the same for all contenders.

    Attributes:
        seconds: Wall-clock time of the training, validation included.
        seed: Of weights and order of frames; never of the split.
        device: PyTorch device.
        dtype: `float32` or `float64`.
        threads: CPU threads; 0 leaves the default.
        interpreters: Where packages of peers are looked for.
    """

    seconds: float
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    threads: int = 0
    interpreters: Interpreters = field(default_factory=Interpreters)

    @classmethod
    def parse(cls, max_time: str, peer_pythons: Sequence[str] = (), **options: Any) -> Conditions:
        """From the texts of a command line.

        Raises:
            ConfigError: If `max_time` is no time, or the device or precision does not exist.
            TDNError: If an interpreter does not exist.
        """
        try:
            seconds = parse_duration(max_time)
        except ValueError as error:
            raise ConfigError(f"--max-time {max_time}: {error}.") from error
        if options.get("dtype", "float32") not in ("float32", "float64"):
            raise ConfigError(f"--dtype must be float32 or float64, got {options['dtype']!r}.")
        choose_device(options.get("device", "auto"))
        return cls(seconds, interpreters=Interpreters.parse(peer_pythons), **options)

    @property
    def time(self) -> str:
        """As on the command line."""
        return f"{self.seconds / 60:g}m" if self.seconds >= 60 else f"{self.seconds:g}s"

    @property
    def label(self) -> str:
        """Name of a folder: what distinguishes two runs of a contender."""
        dtype = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.time}-{self.threads or 'all'}threads{dtype}-seed{self.seed}"


def choose_contenders(presets: Sequence[str], changes: Sequence[str], peers: Sequence[str]) -> list[Contender]:
    """Our network in every preset, changed alike, and the peers.

    Raises:
        ConfigError: If a peer is not known, or there are changes without a preset to change.
    """
    unknown = [name for name in peers if name not in PEERS]
    if unknown:
        raise ConfigError(f"--peer must be of {', '.join(PEERS)}, got {', '.join(unknown)}.")
    presets = presets or ([] if peers else ["small"])
    if changes and not presets:
        raise ConfigError(f"Changes ({' '.join(changes)}) are those of a preset: name one, --preset small.")
    ours = [Contender("tdn-" + ",".join([name, *changes]), name, tuple(changes)) for name in presets]
    return ours + [Contender(name, peer=PEERS[name]) for name in peers]


def check(who: Contender, how: Conditions) -> None:
    """Refuse what cannot be trained, before hours are spent on others.

    Raises:
        ConfigError: If preset or changes are not valid.
        TDNError: If a peer is not installed.
    """
    if who.peer is None:
        run_config(Path("run"), who, how)
    else:
        interpreter(who.peer, how)


def interpreter(peer: Peer, how: Conditions) -> str:
    """Where a peer is installed.

    Raises:
        TDNError: If it is not.
    """
    python = how.interpreters.find(peer.package)
    if python is None:
        raise TDNError(f"{peer.package} is not installed; --peer-python names an interpreter that has it.")
    return python


def run_config(folder: Path, who: Contender, how: Conditions) -> RunConfig:
    """The configuration of a run of ours on the frames in its folder.

    Raises:
        ConfigError: If preset or changes are not valid.
    """
    content: dict[str, Any] = {
        "preset": who.preset, "data": {name: str(folder / f"{name}.extxyz") for name in ("train", "valid")},
        "training": {"max_time": how.seconds, "tensorboard": False}, "output": str(folder / "run"), "seed": how.seed,
        "device": how.device, "dtype": how.dtype, "threads": how.threads,
    }  # fmt: skip
    for change in who.changes:
        apply_override(content, change)
    return RunConfig.parse(content, f"The run of {who.name}")
