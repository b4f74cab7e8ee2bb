"""What the configuration of every architecture says: its shape, what training fills in, and what it does not claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from tdn.config import StrictConfig

# H, C, N and O each have one of their own; beyond that the cost does not grow with the periodic table.
FEW = 4


class ModelConfig(StrictConfig):
    """Base of the configurations of networks.

    Attributes:
        architecture: Name in `tdn.models.architectures`; model files and run configurations choose by it.
        lmax: Highest degree of features and filters.
        num_channels: Channels of every degree.
        num_layers: Message-passing layers.
        r_max: Cutoff, Å.
    """

    architecture: str
    lmax: int
    num_channels: int
    num_layers: int
    r_max: float

    STATISTICS: ClassVar[Mapping[str, str]] = {}
    """Fields that training sets from its data unless given -> `mean_neighbors`, `mean_atoms` or `few_elements`."""
    TRAINING: ClassVar[Mapping[str, Any]] = {}
    """Defaults of `TrainingConfig` that do not suit this architecture -> its own."""

    @property
    def not_claimed(self) -> Mapping[str, str]:
        """Checks of `tdn check` that the network does not claim to pass, by name without precision -> why, in words."""
        return {}

    @property
    def predicts_stress(self) -> bool:
        """Whether predictions have a stress; where not, it is NaN."""
        return True

    @property
    def predicts_forces(self) -> bool:
        """Whether predictions have forces; where not, they are NaN."""
        return True

    @property
    def nearest_neighbors(self) -> int | None:
        """How many nearest neighbours of an atom the network sees, so that graphs need no others; None for all."""
        return None

    @property
    def intensive(self) -> bool:
        """Whether the sum of the network's outputs stands for an energy that does not grow with the structure."""
        return False

    @property
    def repulsive(self) -> bool:
        """Whether the potential adds the screened nuclear repulsion of atoms that are closer than a bond."""
        return False

    @property
    def output_scale(self) -> float | None:
        """Output scale in eV that the configuration fixes; None leaves it to the training data."""
        return None

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What reports say of this architecture besides its size, as label and value."""
        return ()

    @property
    def left_to_data(self) -> frozenset[str]:
        """Fields that training sets: those of `STATISTICS` that were not given."""
        return frozenset(self.STATISTICS) - self.model_fields_set

    def with_statistics(self, mean_neighbors: float, mean_atoms: float, num_elements: int) -> Self:
        """The configuration with the fields that are left to the data set from them.

        Args:
            mean_neighbors: Neighbours of an atom on average.
            mean_atoms: Atoms of a structure on average.
            num_elements: Elements that the network knows; `few_elements` are as many, up to `FEW`.
        """
        values = {
            "mean_neighbors": max(mean_neighbors, 1.0),
            "mean_atoms": max(mean_atoms, 1.0),
            "few_elements": min(num_elements, FEW),
        }
        return self.model_copy(update={name: values[self.STATISTICS[name]] for name in self.left_to_data})
