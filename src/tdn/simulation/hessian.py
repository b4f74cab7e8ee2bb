"""Second derivatives of the energy by differentiating the network twice: no step to choose, no rounding errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdn.errors import DataError
from tdn.graph import AtomGraph
from tdn.models.potential import Potential
from tdn.structure import Structure


def hessian(potential: Potential, structure: Structure) -> NDArray[np.float64]:
    """All second derivatives of the energy, eV/Å², `[3n, 3n]`, coordinates in the order x1 y1 z1 x2 ...

    One backward pass a coordinate; memory does not grow with their number. Use a potential in float64.

    Raises:
        DataError: As `hessian_vector_product`.
    """
    product = _product(potential, structure)
    rows = [product(unit).flatten() for unit in torch.eye(3 * len(structure), dtype=torch.float64)]
    matrix = torch.stack(rows).cpu().numpy()
    return 0.5 * (matrix + matrix.T)


def hessian_vector_product(
    potential: Potential, structure: Structure, vector: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The Hessian times `vector` without the Hessian: the cost of two evaluations of the forces.

    Args:
        potential: The model; use float64.
        structure: Where.
        vector: Å, `[n, 3]`.

    Returns:
        eV/Å, `[n, 3]`: minus the change of the forces with a small displacement along `vector`.

    Raises:
        DataError: If the forces of the potential are no derivatives of its energy, the shape is wrong, or the structure
            cannot be used.
    """
    if np.shape(vector) != (len(structure), 3):
        raise DataError(f"Expected a vector of shape ({len(structure)}, 3), got {np.shape(vector)}.")
    return _product(potential, structure)(torch.as_tensor(vector, dtype=torch.float64)).cpu().numpy()


def _product(potential: Potential, structure: Structure) -> Callable[[Tensor], Tensor]:
    """The Hessian as a function of a vector `[n, 3]` or `[3n]`."""
    if "forces" in potential.config.not_claimed:
        raise DataError(f"A Hessian needs a conservative potential: {potential.config.not_claimed['forces']}.")
    potential.check_elements(structure.numbers)
    graph = AtomGraph.from_structure(structure, potential.r_max).to(potential.device)
    positions = graph.positions.requires_grad_(True)
    if not graph.num_edges:
        return lambda vector: torch.zeros_like(positions)
    energy = potential.energies_above_reference(graph).double().sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        along = (gradient * vector.to(gradient.device).view_as(gradient)).sum()
        return torch.autograd.grad(along, positions, retain_graph=True)[0]

    return product
