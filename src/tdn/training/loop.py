"""The training loop: from a state to the end of the run. Read `fit` top to bottom."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from tdn.data.batches import places, prefetched
from tdn.data.dataset import EdgeBudgetSampler
from tdn.data.lazy import Graphs
from tdn.errors import ConfigError, TDNError
from tdn.models.potential import Potential
from tdn.training.checkpoint import TrainingState
from tdn.training.config import TrainingConfig
from tdn.training.distributed import Processes
from tdn.training.logs import Reporter, clock, describe_briefly, describe_errors
from tdn.training.loss import ErrorSums, label_counts, loss_terms, residuals, weighted_loss
from tdn.training.optimisation import learning_rate, run_fraction, update_average
from tdn.training.prepare import Problem

VALIDATION_COST = 10  # training steps for each validation batch, so that validation takes about a twentieth of the time
FEWEST_STEPS_BETWEEN_VALIDATIONS = 100
SECONDS_BETWEEN_LIVE_ERRORS = 0.2


class TrainingDiverged(TDNError):
    """The loss or its gradient is no longer finite."""


@dataclass(frozen=True)
class Outputs:
    """Where the loop hands things to; all but the first process hand them to nobody.

    Attributes:
        reporter: Lines and live errors, for people.
        add_row: Takes a row of `metrics.csv`.
        save: Writes a checkpoint.
        improved: Called after the best validation so far.
    """

    reporter: Reporter
    add_row: Callable[[dict[str, Any]], None]
    save: Callable[[], None]
    improved: Callable[[], None]


def fit(
    state: TrainingState, problem: Problem, config: TrainingConfig, processes: Processes, outputs: Outputs
) -> int | None:
    """Train until the run's end, or until `patience` or a signal ends it.

    Args:
        state: Where to start; changed in place.
        problem: What to learn.
        config: How.
        processes: Who else is training.
        outputs: Where to report.

    Returns:
        The signal that interrupted the run, or None if it is complete.

    Raises:
        TrainingDiverged: If loss or gradient are not finite; the last checkpoint stays.
    """
    potential, device = state.potential, state.potential.device
    parameters = [parameter for parameter in potential.parameters() if parameter.requires_grad]
    sampler = batch_sampler(problem.train, config, processes, problem.seed)
    interval = validation_interval(problem, config)
    recent = ErrorSums(device)
    if state.recent is not None:
        recent.values = state.recent.to(device)
    stopwatch = Stopwatch(state.elapsed)
    last_save = last_shown = time.monotonic()

    with StopRequest() as stop:
        wanted = places(sampler, state.epoch, state.batch)
        for place, (graph, targets) in prefetched(
            lambda place: problem.train.batch(place.indices), wanted, problem.train.workers
        ):
            state.epoch, state.batch = place.epoch, place.batch
            graph, targets = graph.to(device), targets.to(device)

            # What all processes must agree on: label counts, the first one's clock, whether any was interrupted.
            own_counts = label_counts(graph, targets)
            seconds = stopwatch.seconds() if processes.is_first else 0.0
            shared = processes.sum(torch.cat([own_counts, own_counts.new_tensor([seconds, float(stop.requested)])]))
            state.elapsed, interrupted = shared[-2:].tolist()
            fraction = run_fraction(config, state.step, place.epochs, state.elapsed)
            if fraction >= 1 or state.stopped_early or interrupted:
                break

            state.lr = learning_rate(config, state.step, fraction, place.epochs, state.plateau.factor)
            for group in state.optimizer.param_groups:
                group["lr"] = state.lr
            state.optimizer.zero_grad(set_to_none=True)
            found = residuals(potential(graph), graph, targets)
            terms = loss_terms(found, config, potential.scale)
            loss = weighted_loss(terms, shared[:-2], config, fraction)
            loss.backward()
            value = processes.sum_gradients(parameters, loss).item()
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_grad or math.inf).item()
            if not math.isfinite(value + norm):
                raise _diverged(problem, place.indices, value, norm, state)
            state.optimizer.step()
            state.step += 1
            state.batch += 1
            update_average(state.averaged, potential, config.ema_decay, state.step)
            recent.add(found, own_counts, terms)

            if state.batch == place.of if interval is None else state.step % interval == 0:
                finish_interval(state, problem, config, processes, outputs, recent)
            if processes.is_first and time.monotonic() - last_save >= config.checkpoint_interval:
                state.recent, state.elapsed = recent.values, stopwatch.seconds()
                outputs.save()
                last_save = time.monotonic()
            if processes.is_first and time.monotonic() - last_shown >= SECONDS_BETWEEN_LIVE_ERRORS:
                outputs.reporter.progress(fraction, state.elapsed, _live(state, recent))
                last_shown = time.monotonic()
        number = stop.number

    state.elapsed, state.recent = stopwatch.seconds(), recent.values
    if not interrupted and (not state.history or state.history[-1]["step"] != state.step):
        finish_interval(state, problem, config, processes, outputs, recent)
    if processes.is_first:
        outputs.save()
    return (number or signal.SIGTERM) if interrupted else None


def batch_sampler(
    dataset: Graphs, config: TrainingConfig, processes: Processes, seed: int | None = None
) -> EdgeBudgetSampler:
    """Batches of this process; in a random order if there is a seed.

    Raises:
        ConfigError: If the batch cannot be shared evenly.
    """
    share, rest = divmod(config.batch_size, processes.world_size)
    if rest:
        raise ConfigError(
            f"batch_size {config.batch_size} is over all processes and must be a multiple of their number, "
            f"{processes.world_size}."
        )
    return EdgeBudgetSampler(
        dataset.num_edges,
        batch_size=share,
        max_edges=config.max_edges,
        shuffle=seed is not None,
        seed=seed or 0,
        rank=processes.rank,
        world_size=processes.world_size,
    )


def validation_interval(problem: Problem, config: TrainingConfig) -> int | None:
    """Steps between validations, None for the ends of epochs; by default in proportion to what one costs."""
    if config.validate_every is not None:
        return None if config.validate_every == "epoch" else config.validate_every
    batches = math.ceil(len(problem.valid) / config.batch_size) if problem.valid is not None else 0
    return max(FEWEST_STEPS_BETWEEN_VALIDATIONS, VALIDATION_COST * batches)


def validate(
    potential: Potential, dataset: Graphs, config: TrainingConfig, processes: Processes | None = None
) -> ErrorSums:
    """Errors of `potential` on all of `dataset`, shared among the processes."""
    processes = processes or Processes()
    sums = ErrorSums(potential.device)
    # Not the sampler's own sharing: it repeats batches until all processes have as many.
    batches: Sequence[list[int]] = batch_sampler(dataset, config, Processes()).batches()
    own = batches[processes.rank :: processes.world_size]
    for _, (graph, targets) in prefetched(dataset.batch, own, dataset.workers):
        graph, targets = graph.to(potential.device), targets.to(potential.device)
        found = residuals(potential(graph), graph, targets)
        sums.add(found, label_counts(graph, targets), loss_terms(found, config, potential.scale))
    processes.sum(sums.values)
    return sums


def finish_interval(
    state: TrainingState,
    problem: Problem,
    config: TrainingConfig,
    processes: Processes,
    outputs: Outputs,
    recent: ErrorSums,
) -> None:
    """Validate the averaged weights, report, and remember them if they are the best; `recent` starts anew."""
    row: dict[str, Any] = {"step": state.step, "epoch": state.epoch, "elapsed_s": round(state.elapsed, 3)}
    row |= {"lr": state.lr, "loss": recent.loss(config), **recent.errors("train_")}
    judged = row["loss"]
    if problem.valid is not None:
        sums = validate(state.averaged, problem.valid, config, processes)
        row |= {"valid_loss": sums.loss(config), **sums.errors("valid_")}
        judged = judge(row, config)
        state.plateau.update(config, judged)
    recent.values.zero_()
    state.history.append(row)
    # Without validation data the latest weights are the best guess.
    state.stale_validations += 1
    if problem.valid is None or state.best_loss is None or judged < state.best_loss:
        state.best = {name: value.detach().clone() for name, value in state.averaged.state_dict().items()}
        state.best_loss, state.best_step, state.stale_validations = judged, state.step, 0
        outputs.improved()
    state.stopped_early = config.patience is not None and state.stale_validations >= config.patience
    outputs.add_row(row)
    outputs.reporter.line(_describe_row(row, state.stale_validations == 0))


def judge(row: Mapping[str, Any], config: TrainingConfig) -> float:
    """What a validation is judged by, from its row: smaller is better."""
    if config.select_by == "loss":
        return row["valid_loss"]
    return row["valid_energy_mae_mev" if config.energy_per == "structure" else "valid_energy_mae_mev_per_atom"]


class StopRequest:
    """Whether Ctrl-C or SIGTERM asked the run to end after the step at hand; a second Ctrl-C does not wait for it."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def __enter__(self) -> StopRequest:
        # Python hands signals to the main thread only.
        numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.number = number


class Stopwatch:
    """Seconds of training, those before an interruption included.

    Args:
        offset: Seconds already done.
    """

    def __init__(self, offset: float) -> None:
        self._start = time.monotonic() - offset

    def seconds(self) -> float:
        """Seconds up to now."""
        return time.monotonic() - self._start


def _diverged(
    problem: Problem, indices: Sequence[int], loss: float, norm: float, state: TrainingState
) -> TrainingDiverged:
    frames = ", ".join(problem.frames["train"].origins[k] for k in indices)
    return TrainingDiverged(
        f"Training diverged at step {state.step + 1}: loss {loss:.3g}, gradient norm {norm:.3g}, learning rate "
        f"{state.lr:.2g}, in the batch of frames {frames}. Look at these frames first (close contacts, failed "
        f"calculations); else try a lower training.lr (say {state.lr / 3:.1g}), a smaller training.clip_grad, or "
        "dtype=float64. The last checkpoint and the best model so far are kept."
    )


def _live(state: TrainingState, recent: ErrorSums) -> str:
    """Fits on a line beside the bar: errors of the latest training batches, and of the last validation."""
    text = f"step {state.step}, {describe_briefly(recent.errors())}"
    valid = describe_briefly(state.history[-1], "valid_") if state.history else ""
    return f"{text} (valid {valid})" if valid else text


def _describe_row(row: dict[str, Any], best: bool) -> str:
    text = f"{clock(row['elapsed_s'])} step {row['step']} (epoch {row['epoch']}), lr {row['lr']:.2g}"
    text += f" | train {describe_errors(row, 'train_')}"
    if row.get("valid_loss") is not None:
        text += f" | valid {describe_errors(row, 'valid_')}" + (" *" if best else "")
    return text
