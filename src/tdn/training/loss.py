"""The loss, and the errors that people read, as sums over labels.

Sums, and not means, since sums over the processes of a distributed run add up to those of one process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tdn.data.dataset import Targets
from tdn.graph import AtomGraph, Prediction
from tdn.training.config import TrainingConfig


@dataclass(frozen=True)
class Residuals:
    """Predicted minus labelled, for the labels that exist.

    Attributes:
        energy: Total energies, eV, float64 `[n_E]`.
        energy_per_atom: The same over the number of atoms.
        forces: eV/Å, `[n_F, 3]`.
        stress: eV/Å³, `[n_S, 3, 3]`.
        virial_per_atom: Stress times volume over the number of atoms, eV, `[n_S, 3, 3]`.
    """

    energy: Tensor
    energy_per_atom: Tensor
    forces: Tensor
    stress: Tensor
    virial_per_atom: Tensor


def residuals(prediction: Prediction, graph: AtomGraph, targets: Targets) -> Residuals:
    """Differences of a prediction from its labels; missing labels and forces of fixed atoms are left out."""
    num_atoms = torch.bincount(graph.batch, minlength=graph.num_graphs)
    has_energy, has_forces, has_stress = targets.has_energy, _with_forces(graph, targets), targets.has_stress
    energy = (prediction.energy - targets.energy)[has_energy]
    forces = prediction.forces[has_forces] - targets.forces[has_forces].to(prediction.forces.dtype)
    stress = prediction.stress[has_stress] - targets.stress[has_stress].to(prediction.stress.dtype)
    volume_per_atom = torch.linalg.det(graph.cell[has_stress]).abs() / num_atoms[has_stress]
    return Residuals(
        energy=energy,
        energy_per_atom=energy / num_atoms[has_energy],
        forces=forces,
        stress=stress,
        virial_per_atom=stress * volume_per_atom.to(stress.dtype)[:, None, None],
    )


def label_counts(graph: AtomGraph, targets: Targets) -> Tensor:
    """Number of energies, force components and stress components, float64 `[3]`."""
    forces = 3 * _with_forces(graph, targets).sum()
    return torch.stack([targets.has_energy.sum(), forces, 9 * targets.has_stress.sum()]).double()


def _with_forces(graph: AtomGraph, targets: Targets) -> Tensor:
    """Atoms whose forces are labelled and count, bool `[N]`."""
    return targets.has_forces[graph.batch] & targets.free


def loss_terms(found: Residuals, config: TrainingConfig, scale: float) -> Tensor:
    """Sums of the squared (or Huber) errors of energies per atom, force components and virials per atom, `[3]`.

    Args:
        found: Residuals of a batch.
        config: Form of the loss.
        scale: Output scale of the potential, eV; errors are measured in it, so that the loss has no unit.
    """
    parts = (found.energy_per_atom, found.forces, found.virial_per_atom)
    return torch.stack([_penalty(residual / scale, config).sum().double() for residual in parts])


def weighted_loss(terms: Tensor, counts: Tensor, config: TrainingConfig) -> Tensor:
    """Weighted sum of the mean errors: the loss, `[]`.

    Args:
        terms: From `loss_terms`, of a process's batch.
        counts: From `label_counts`, of the whole batch over all processes; the losses of the processes then add up.
        config: Weights.
    """
    weights = terms.new_tensor([config.energy_weight, config.forces_weight, config.stress_weight])
    return (weights * terms / counts.clamp(min=1.0)).sum()


def _penalty(x: Tensor, config: TrainingConfig) -> Tensor:
    """`x²`, or for Huber's form its linear continuation beyond `huber_delta`."""
    if config.loss == "mse":
        return x.square()
    return 2.0 * torch.nn.functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=config.huber_delta)


class ErrorSums:
    """Sums that give loss, MAE and RMSE; those of several batches or processes add up.

    Args:
        device: Where to sum.
    """

    QUANTITIES = ("energy", "energy_per_atom", "forces", "stress")
    COLUMNS = ("energy_{}_mev", "energy_{}_mev_per_atom", "forces_{}", "stress_{}")

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # A row for each quantity: count, sum of |x|, sum of x². Then the label counts and the terms of the loss.
        self.values = torch.zeros(len(self.QUANTITIES) + 2, 3, dtype=torch.float64, device=device)

    def add(self, found: Residuals, counts: Tensor, terms: Tensor) -> None:
        """Add one batch: its residuals, its label counts and its loss terms."""
        rows = []
        for name in self.QUANTITIES:
            x = getattr(found, name).detach().double()
            rows.append(torch.stack([x.new_tensor(float(x.numel())), x.abs().sum(), x.square().sum()]))
        self.values += torch.stack([*rows, counts, terms.detach()])

    def loss(self, config: TrainingConfig) -> float:
        """The loss over everything added."""
        return weighted_loss(self.values[-1], self.values[-2], config).item()

    def errors(self, prefix: str = "") -> dict[str, float | None]:
        """MAE and RMSE: energies in meV and meV/atom, forces in meV/Å, stress in meV/Å³; None without labels."""
        result: dict[str, float | None] = {}
        for name, (count, absolute, square) in zip(self.COLUMNS, self.values[:-2].tolist(), strict=True):
            result[prefix + name.format("mae")] = 1e3 * absolute / count if count else None
            result[prefix + name.format("rmse")] = 1e3 * (square / count) ** 0.5 if count else None
        return result
