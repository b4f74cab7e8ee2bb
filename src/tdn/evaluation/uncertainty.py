"""Fitting the last-layer posterior of a model to its training data, and how well its uncertainties are calibrated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdn.errors import DataError
from tdn.evaluation.evaluate import Evaluation
from tdn.graph import AtomGraph
from tdn.models.potential import Potential
from tdn.models.uncertainty import LastLayer, LastLayerPosterior, energy_uncertainty, forces_uncertainty
from tdn.structure import Structure

Array = NDArray[np.float64]
T = TypeVar("T")

# The last layer has some hundred weights: a few hundred frames determine it.
MOST_TRAINING_FRAMES = 300
MOST_FORCE_FRAMES = 50
PROBES = 4
# Of the mean diagonal of the covariance; the one that makes held-out energies likeliest is taken.
RIDGES = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)


@dataclass(frozen=True)
class Calibrated:
    """Predicted standard deviations beside the errors they should explain.

    Attributes:
        quantity: `energy` (eV, per structure) or `forces` (eV/Å, vector on an atom).
        sigma: Predicted, `[m]`.
        error: What came, `[m]`; the length of the error vector for forces.
    """

    quantity: str
    sigma: Array
    error: Array

    def to_dict(self) -> dict[str, float]:
        """RMS error and prediction, z-score, shares within one and two sigma, and rank correlation.

        Gaussian errors of these standard deviations have z 1, and 68 and 95 % of scalars within one and two sigma.
        """
        from scipy.stats import spearmanr

        size = np.abs(self.error)
        z = size / np.maximum(self.sigma, 1e-300)
        spread = len(size) > 2 and np.ptp(self.sigma) > 0 and np.ptp(size) > 0
        rank: Any = spearmanr(self.sigma, size) if spread else None
        return {
            "count": len(size),
            "rms_error": float(np.sqrt(np.square(size).mean())),
            "rms_predicted": float(np.sqrt(np.square(self.sigma).mean())),
            "z_rms": float(np.sqrt(np.square(z).mean())),
            "within_1_sigma": float((z <= 1.0).mean()),
            "within_2_sigma": float((z <= 2.0).mean()),
            "rank_correlation": float(rank.statistic) if rank is not None else 0.0,
        }


def fit_posterior(
    potential: Potential,
    train: Sequence[Structure],
    held_out: Sequence[Structure],
    energy_weight: float = 10.0,
    forces_weight: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> LastLayerPosterior:
    """Posterior of the last layer, calibrated.

    Args:
        potential: The trained model, in evaluation mode.
        train: Frames that it was trained on; an even choice of 300 if there are more.
        held_out: Labelled frames that it was not trained on.
        energy_weight: Weight of the squared error of the energy per atom in training.
        forces_weight: Weight of the squared error of a force component in training.
        progress: Called with frames done and frames.

    Raises:
        DataError: If there are too few frames, or the held-out ones have no energies.
    """
    labelled = [s for s in held_out if s.energy is not None]
    if len(train) < 2 or len(labelled) < 2:
        raise DataError(
            f"Uncertainties need at least two training and two held-out frames with energies, got {len(train)} and "
            f"{len(labelled)}."
        )
    layer, chosen = LastLayer(potential), evenly(train, MOST_TRAINING_FRAMES)
    covariance = _covariance(layer, chosen, energy_weight, forces_weight, progress)
    features = torch.stack([layer.energy_features(_graph(potential, s)) for s in labelled])
    errors = torch.tensor([(s.energy or 0.0) - _predict(potential, s)[0] for s in labelled], dtype=torch.float64)
    root = _best_root(covariance, features, errors)
    facts: dict[str, Any] = {"training_frames": len(chosen), "held_out_frames": len(labelled)}
    raw = LastLayerPosterior(layer.names, root, 1.0, 1.0)
    energy_scale = float((errors.square() / (features @ root.T).square().sum(-1)).mean().sqrt())
    return dataclasses.replace(
        raw, energy_scale=energy_scale, forces_scale=_forces_scale(layer, raw, held_out), facts=facts
    )


def measure_calibration(potential: Potential, evaluation: Evaluation) -> tuple[Calibrated, ...]:
    """Uncertainties of a model that has a posterior beside the errors of an evaluation; forces of at most 50 frames.

    Returns:
        Energies and forces, as far as there are labels and the posterior is calibrated for them; empty without one.
    """
    posterior = potential.uncertainty
    if posterior is None:
        return ()
    layer = LastLayer(potential)
    pairs = list(zip(evaluation.structures, evaluation.predictions, strict=True))
    sigma, error = [], []
    for structure, prediction in pairs:
        if structure.energy is not None:
            sigma.append(energy_uncertainty(layer, posterior, _graph(potential, structure)))
            error.append(prediction.energy - structure.energy)
    found = [Calibrated("energy", np.array(sigma), np.array(error))] if sigma else []
    with_forces = [pair for pair in pairs if pair[0].forces is not None]
    if with_forces and math.isfinite(posterior.forces_scale):
        sigmas, sizes = [], []
        for structure, prediction in evenly(with_forces, MOST_FORCE_FRAMES):
            sigmas.append(forces_uncertainty(layer, posterior, _graph(potential, structure)).cpu().numpy())
            sizes.append(np.linalg.norm(prediction.forces - np.asarray(structure.forces), axis=1))
        found.append(Calibrated("forces", np.concatenate(sigmas), np.concatenate(sizes)))
    return tuple(found)


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly from all."""
    return list(items[:: max(1, -(-len(items) // most))])


def _covariance(
    layer: LastLayer,
    frames: Sequence[Structure],
    energy_weight: float,
    forces_weight: float,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """Gauss-Newton matrix of the training loss in the last layer's weights, per frame and force component."""
    generator = torch.Generator().manual_seed(0)
    energies, forces, components = 0.0, 0.0, 0
    for done, structure in enumerate(frames):
        graph = _graph(layer.potential, structure)
        per_atom = layer.energy_features(graph) / len(structure)
        energies = energies + torch.outer(per_atom, per_atom)
        if structure.forces is not None and forces_weight:
            directions = torch.randn(PROBES, len(structure), 3, generator=generator, dtype=torch.float64)
            probes = layer.force_feature_probes(graph, directions)
            forces, components = forces + probes.T @ probes / PROBES, components + 3 * len(structure)
        if progress is not None:
            progress(done + 1, len(frames))
    # As many force components as frames: the weights are those of means.
    return torch.as_tensor(energy_weight * energies + forces_weight * len(frames) / max(components, 1) * forces)


def _best_root(covariance: Tensor, features: Tensor, errors: Tensor) -> Tensor:
    """`L^-1` for the ridge under which the held-out energies are likeliest."""
    mean = covariance.diagonal().mean()
    identity = torch.eye(len(covariance), dtype=torch.float64)
    best: tuple[float, Tensor] | None = None
    for ridge in RIDGES:
        lower, info = torch.linalg.cholesky_ex(covariance + ridge * mean * identity)
        if info:
            continue
        root = torch.linalg.solve_triangular(lower, identity, upper=False)
        raw = (features @ root.T).square().sum(-1)
        scale = (errors.square() / raw).mean()
        likelihood = float((raw * scale).log().mean())
        if math.isfinite(likelihood) and (best is None or likelihood < best[0]):
            best = likelihood, root
    if best is None:
        raise DataError("The features of the training frames are not finite: check the model with `tdn check`.")
    return best[1]


def _forces_scale(layer: LastLayer, raw: LastLayerPosterior, frames: Sequence[Structure]) -> float:
    """`alpha` of forces: what turns raw variances into the mean squared error of the held-out forces."""
    ratios = []
    for structure in evenly([s for s in frames if s.forces is not None], MOST_FORCE_FRAMES):
        expected = forces_uncertainty(layer, raw, _graph(layer.potential, structure)).cpu().numpy()
        _, forces = _predict(layer.potential, structure)
        ratios.append(np.square(forces - np.asarray(structure.forces)).sum(axis=1) / np.maximum(expected, 1e-300) ** 2)
    return float(np.sqrt(np.concatenate(ratios).mean())) if ratios else math.nan


def _graph(potential: Potential, structure: Structure) -> AtomGraph:
    return AtomGraph.from_structure(structure, potential.r_max).to(potential.device)


def _predict(potential: Potential, structure: Structure) -> tuple[float, Array]:
    prediction = potential(_graph(potential, structure))
    return float(prediction.energy), prediction.forces.double().cpu().numpy()
