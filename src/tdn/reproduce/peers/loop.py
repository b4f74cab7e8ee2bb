"""A plain training loop for the network of any package, to a given wall-clock time. Read `fit` top to bottom.

What differs between packages is in a `Recipe`, with the values that their authors recommend. What does not: the
learning rate anneals with a cosine to the end of the time, since schedules made for thousands of epochs would hardly
begin; the weights are averaged; validation takes about a twentieth of the time, and the best validation is kept.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tdn.reproduce.peers.frames import Frame

# As for our own runs, see `tdn.training.loop`.
VALIDATION_COST = 10
FEWEST_STEPS_BETWEEN_VALIDATIONS = 100


class Stage(NamedTuple):
    """Weights of the loss from a share of the time on."""

    start: float
    energy: float
    forces: float
    stress: float


class Recipe(NamedTuple):
    """How the authors of a package train it.

    Attributes:
        batch_size: Structures in a step.
        lr: Highest learning rate.
        stages: Weights of the squared errors of energies, forces and stress.
        energy_per: Whether energies count per `atom` or `structure`.
        ema_decay: Of the moving average of the weights.
        amsgrad: Keep the largest second moment.
        clip_grad: Largest norm of the gradient; None for no limit.
        warmup_steps: Steps of linear growth of the learning rate.
        weight_decay: Of the parameters whose names contain one of `decayed`.
        decayed: Parts of names.
    """

    batch_size: int
    lr: float
    stages: tuple[Stage, ...]
    energy_per: str = "atom"
    ema_decay: float = 0.99
    amsgrad: bool = False
    clip_grad: float | None = 10.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    decayed: tuple[str, ...] = ()


class Learner(NamedTuple):
    """A network with what the loop must know of it.

    Attributes:
        model: Owner of the weights.
        prepare: A frame as the network wants it, neighbours included.
        collate: Several of these as one batch.
        predict: Energies `[G]`, forces `[N, 3]` and stress `[G, 3, 3]` or None of a batch; its second argument says
            whether they must be differentiable.
        recipe: How to train it.
        facts: Its shape, for the record.
    """

    model: nn.Module
    prepare: Callable[[Frame], Any]
    collate: Callable[[Sequence[Any]], Any]
    predict: Callable[[Any, bool], tuple[Tensor, Tensor, Tensor | None]]
    recipe: Recipe
    facts: dict[str, Any]


class Items:
    """Frames prepared for a network, and their labels."""

    def __init__(self, learner: Learner, frames: Sequence[Frame], device: str, dtype: torch.dtype) -> None:
        self.frames, self.collate = frames, learner.collate
        self.prepared = [learner.prepare(frame) for frame in frames]
        self.options: Any = {"device": device, "dtype": dtype}

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, indices: Sequence[int]) -> tuple[Any, dict[str, Tensor]]:
        """A batch with its labels."""
        frames = [self.frames[k] for k in indices]
        labels = {
            "energy": np.array([frame.energy for frame in frames]),
            "forces": np.concatenate([frame.forces for frame in frames]),
            "stress": np.stack([frame.stress for frame in frames]),
            "sizes": np.array([len(frame.numbers) for frame in frames]),
        }
        tensors = {name: torch.as_tensor(value).to(**self.options) for name, value in labels.items()}
        return self.collate([self.prepared[k] for k in indices]), tensors


class Average:
    """Moving average of the weights of a model."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.values = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the weights; early on the initial ones are forgotten faster."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.model.parameters()], 1.0 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights meanwhile."""
        own = [parameter.detach().clone() for parameter in self.model.parameters()]
        set_weights(self.model, self.values)
        try:
            yield
        finally:
            set_weights(self.model, own)


@torch.no_grad()
def set_weights(model: nn.Module, values: Sequence[Tensor]) -> None:
    """Copy values into the parameters of a model."""
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.copy_(value)


def fit(
    learner: Learner, train: Items, valid: Items, seconds: float, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train for some seconds; the model has the weights of the best validation then.

    Returns:
        Steps, seconds, and the validation errors in time.
    """
    model, recipe = learner.model, learner.recipe
    average, optimizer = Average(model, recipe.ema_decay), make_optimizer(model, recipe)
    interval = max(FEWEST_STEPS_BETWEEN_VALIDATIONS, VALIDATION_COST * math.ceil(len(valid) / recipe.batch_size))
    curve: list[dict[str, float]] = []
    best, best_loss, step, epoch = average.values, math.inf, 0, 0
    start = time.monotonic()

    def validate() -> None:
        nonlocal best, best_loss
        with average.applied():
            errors = measure(learner, valid)
        curve.append({"step": step, "epoch": epoch, "elapsed_s": round(time.monotonic() - start, 3), **errors})
        say(f"{curve[-1]}")
        if errors["loss"] < best_loss:
            best, best_loss = [value.clone() for value in average.values], errors["loss"]

    while time.monotonic() - start < seconds:
        for indices in batches(len(train), recipe.batch_size, seed, epoch):
            fraction = (time.monotonic() - start) / seconds
            if fraction >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, fraction)
            batch, labels = train.batch(indices)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(learner.predict(batch, True), labels, recipe, fraction)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad or math.inf)
            if not math.isfinite(loss.item() + norm.item()):
                raise ValueError(f"training diverged at step {step}: loss {loss.item():.3g}")
            optimizer.step()
            average.update()
            step += 1
            if step % interval == 0:
                validate()
        epoch += 1
    elapsed = time.monotonic() - start
    if not curve or curve[-1]["step"] != step:
        validate()
    set_weights(model, best)
    return {"steps": step, "epochs": epoch, "elapsed_s": elapsed, "curve": curve}


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam, with weight decay for the parameters that have one."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if any(part in name for part in recipe.decayed)]
    rest = [p for name, p in named if not any(part in name for part in recipe.decayed)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.Adam([g for g in groups if g["params"]], lr=recipe.lr, amsgrad=recipe.amsgrad)


def batches(count: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the batches of an epoch, in a random order."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return [order[k : k + size].tolist() for k in range(0, count, size)]


def learning_rate(recipe: Recipe, step: int, fraction: float) -> float:
    """Linear growth, then half a cosine."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    return recipe.lr * warmup * 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))


def loss_of(
    predicted: tuple[Tensor, Tensor, Tensor | None], labels: dict[str, Tensor], recipe: Recipe, fraction: float
) -> Tensor:
    """Weighted sum of mean squared errors, with the weights of the stage."""
    energy, forces, stress = predicted
    stage = [stage for stage in recipe.stages if fraction >= stage.start][-1]
    error = energy - labels["energy"]
    if recipe.energy_per == "atom":
        error = error / labels["sizes"]
    loss = stage.energy * error.square().mean() + stage.forces * (forces - labels["forces"]).square().mean()
    if stress is not None and stage.stress:
        difference = stress - labels["stress"]
        loss = loss + stage.stress * difference[torch.isfinite(difference)].square().mean()
    return loss


def predict_all(learner: Learner, items: Items) -> list[tuple[float, np.ndarray, np.ndarray | None]]:
    """Energy, forces and stress of every frame, without derivatives."""
    found = []
    size = learner.recipe.batch_size
    for first in range(0, len(items), size):
        indices = list(range(first, min(first + size, len(items))))
        batch, labels = items.batch(indices)
        energy, forces, stress = learner.predict(batch, False)
        pieces = np.split(forces.detach().cpu().double().numpy(), np.cumsum(labels["sizes"].int().tolist())[:-1])
        for k, own in enumerate(pieces):
            tensor = None if stress is None else stress[k].detach().cpu().double().numpy()
            found.append((float(energy[k].detach()), own, tensor))
    return found


def measure(learner: Learner, items: Items) -> dict[str, float]:
    """Loss with the weights of the last stage, and the errors under the names of `metrics.csv`."""
    predictions, frames = predict_all(learner, items), items.frames
    sizes = np.array([len(frame.numbers) for frame in frames])
    energy = 1e3 * np.array([p[0] - frame.energy for p, frame in zip(predictions, frames, strict=True)])
    forces = 1e3 * np.concatenate([p[1] - frame.forces for p, frame in zip(predictions, frames, strict=True)])
    values = {"energy_{}_mev": energy, "energy_{}_mev_per_atom": energy / sizes, "forces_{}": forces}
    errors = {}
    for name, error in values.items():
        errors[name.format("mae")] = float(np.abs(error).mean())
        errors[name.format("rmse")] = float(np.sqrt(np.square(error).mean()))
    last = learner.recipe.stages[-1]
    own = "energy_rmse_mev_per_atom" if learner.recipe.energy_per == "atom" else "energy_rmse_mev"
    loss = 1e-6 * (last.energy * errors[own] ** 2 + last.forces * errors["forces_rmse"] ** 2)
    return {"loss": loss, **errors}
