"""The architectures: which configuration and which potential belong to a name. Everything else asks here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Discriminator, Tag

from tdn.errors import ConfigError
from tdn.models.config import ModelConfig
from tdn.models.paper import PaperTDNConfig
from tdn.models.paper_potential import PaperPotential
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig

DEFAULT = "TDN"


class Architecture(NamedTuple):
    """A network and what makes a potential of it."""

    config: type[ModelConfig]
    potential: type[Potential]


ARCHITECTURES = {
    "TDN": Architecture(TDNConfig, Potential),
    "PaperTDN": Architecture(PaperTDNConfig, PaperPotential),
}


def _name(content: Any) -> str:
    """The architecture that a mapping or a configuration asks for."""
    return content.get("architecture", DEFAULT) if isinstance(content, dict) else content.architecture


ModelChoice = Annotated[
    Annotated[TDNConfig, Tag("TDN")] | Annotated[PaperTDNConfig, Tag("PaperTDN")],
    Discriminator(
        _name,
        custom_error_type="no_architecture",
        custom_error_message=f"no such architecture, there are {', '.join(ARCHITECTURES)}",
    ),
]
"""A field of a configuration that holds any architecture, chosen by `architecture`."""


def parse_model_config(content: dict[str, Any], where: str = "configuration") -> ModelConfig:
    """The configuration of the architecture that `content` names; the flagship if it names none.

    Raises:
        ConfigError: If there is no such architecture, or a key or value is not valid.
    """
    name = _name(content)
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"{where}: no architecture {name!r}; there are {', '.join(ARCHITECTURES)}. Newer versions may have it."
        )
    return ARCHITECTURES[name].config.parse(content, where)


def build_potential(
    config: ModelConfig,
    reference_energies: Mapping[int, float],
    scale: float = 1.0,
    shifts: Mapping[int, float] | None = None,
) -> Potential:
    """A potential with fresh weights of the architecture that `config` belongs to; arguments as `Potential`."""
    return ARCHITECTURES[config.architecture].potential(config, reference_energies, scale, shifts)
