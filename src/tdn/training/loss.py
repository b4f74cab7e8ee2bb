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
        force_norms: Root of the mean squared length of the force errors of a structure, eV/Å, `[n_S]`: the "RMSE" of
            2507.01131, about sqrt(3) times that of the components.
        stress: eV/Å³, `[n_S, 3, 3]`.
        virial_per_atom: Stress times volume over the number of atoms, eV, `[n_S, 3, 3]`.
    """

    energy: Tensor
    energy_per_atom: Tensor
    forces: Tensor
    force_norms: Tensor
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
        force_norms=_norms(forces, graph.batch[has_forces], graph.num_graphs),
        stress=stress,
        virial_per_atom=stress * volume_per_atom.to(stress.dtype)[:, None, None],
    )


def label_counts(graph: AtomGraph, targets: Targets) -> Tensor:
    """Number of energies, force components, stress components and structures with forces, float64 `[4]`."""
    has_forces = _with_forces(graph, targets)
    structures = torch.zeros(graph.num_graphs, dtype=torch.bool, device=has_forces.device)
    structures[graph.batch[has_forces]] = True
    counts = [targets.has_energy.sum(), 3 * has_forces.sum(), 9 * targets.has_stress.sum(), structures.sum()]
    return torch.stack(counts).double()


def _with_forces(graph: AtomGraph, targets: Targets) -> Tensor:
    """Atoms whose forces are labelled and count, bool `[N]`."""
    return targets.has_forces[graph.batch] & targets.free


def _norms(forces: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Root of the mean squared length of the force errors of each structure that has any."""
    squares = forces.new_zeros(num_graphs).index_add(0, batch, forces.square().sum(-1))
    counts = torch.bincount(batch, minlength=num_graphs)
    labelled = counts > 0
    # The root has no slope at zero, where an error cannot get smaller.
    return (squares[labelled] / counts[labelled]).clamp(min=torch.finfo(forces.dtype).tiny).sqrt()


def loss_terms(found: Residuals, config: TrainingConfig, scale: float) -> Tensor:
    """Sums of the penalties of energies, forces and virials per atom, `[3]`.

    `mse` and `huber` take each force component on its own, `l1` the norm of a structure's.

    Args:
        found: Residuals of a batch.
        config: Form of the loss.
        scale: Output scale of the potential, eV; errors are measured in it, so that the loss has no unit.
    """
    energy = found.energy if config.energy_per == "structure" else found.energy_per_atom
    if config.loss == "l1":
        parts = (energy, found.force_norms, found.virial_per_atom)
        return torch.stack([residual.abs().sum().double() for residual in parts])
    parts = (energy, found.forces, found.virial_per_atom)
    return torch.stack([_penalty(residual / scale, config).sum().double() for residual in parts])


def energy_weight(config: TrainingConfig, fraction: float) -> float:
    """Weight of the energies when `fraction` of the run is behind."""
    if config.energy_weight_final is None or fraction < 1.0 - config.final_fraction:
        return config.energy_weight
    return config.energy_weight_final


def weighted_loss(terms: Tensor, counts: Tensor, config: TrainingConfig, fraction: float = 1.0) -> Tensor:
    """Weighted sum of the mean errors: the loss, `[]`.

    Args:
        terms: From `loss_terms`, of a process's batch.
        counts: From `label_counts`, of the whole batch over all processes; the losses of the processes then add up.
        config: Weights.
        fraction: How much of the run is behind; the weights of its end judge all of it.
    """
    weights = terms.new_tensor([energy_weight(config, fraction), config.forces_weight, config.stress_weight])
    energies, components, stress, structures = counts.clamp(min=1.0)
    forces = structures if config.loss == "l1" else components
    return (weights * terms / torch.stack([energies, forces, stress])).sum()


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
    VECTOR_RMSE = "forces_vector_rmse"
    NAMES = (*(column.format(measure) for column in COLUMNS for measure in ("mae", "rmse")), VECTOR_RMSE)
    """Names of the errors: energies in meV and meV/atom, forces in meV/Å, stress in meV/Å³."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # A row for each quantity: count, sum of |x|, sum of x²; one more for the norms of forces. Then the label counts
        # and the terms of the loss.
        self.values = torch.zeros(len(self.QUANTITIES) + 3, 4, dtype=torch.float64, device=device)

    def add(self, found: Residuals, counts: Tensor, terms: Tensor) -> None:
        """Add one batch: its residuals, its label counts and its loss terms."""
        rows = []
        for name in (*self.QUANTITIES, "force_norms"):
            x = getattr(found, name).detach().double()
            rows.append(torch.stack([x.new_tensor(float(x.numel())), x.abs().sum(), x.square().sum(), x.new_zeros(())]))
        self.values += torch.stack([*rows, counts, torch.nn.functional.pad(terms.detach(), (0, 1))])

    def loss(self, config: TrainingConfig) -> float:
        """The loss over everything added, with the weights of the run's end."""
        return weighted_loss(self.values[-1, :3], self.values[-2], config).item()

    def errors(self, prefix: str = "") -> dict[str, float | None]:
        """Errors by `NAMES`; None without labels."""
        rows = [[1e3 * a / n, 1e3 * (b / n) ** 0.5] if n else [None, None] for n, a, b, _ in self.values[:-2].tolist()]
        *pairs, (vector_rmse, _) = rows
        values = [*(value for pair in pairs for value in pair), vector_rmse]
        return {prefix + name: value for name, value in zip(self.NAMES, values, strict=True)}
