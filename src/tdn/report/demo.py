"""The demonstration: the whole of the package on the data that ship with it, from training to one page."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tdn.calculator import TDNCalculator
from tdn.checks import CheckResult, run_checks
from tdn.data.reading import FrameSet, read_frames
from tdn.datasets import organics_path
from tdn.errors import DataError, TDNError
from tdn.evaluation import Evaluation, evaluate, write_predictions
from tdn.evaluation.dynamics import Relaxation, Trajectory, relax, run_nve
from tdn.files import atomic_write
from tdn.report.content import Report, Rows, duration, number
from tdn.report.render import write_report
from tdn.report.training import training_report
from tdn.structure import Structure
from tdn.training import RunConfig, train
from tdn.training.logs import Reporter

LEVEL_OF_THEORY = "B3LYP/6-31G*"
MOLECULE = "ethanol"
"""The test molecule whose relaxation is drawn in colour, and whose relaxed geometry starts the dynamics."""
NVE_SECONDS = 120.0
"""On a slow machine the dynamics end earlier, so that the demonstration stays within ten minutes."""
DISPLACEMENT = 0.1
"""Standard deviation of the coordinates from which the relaxations start, Å."""


@dataclass(frozen=True)
class DemoSettings:
    """What the demonstration does.

    Attributes:
        max_time: Wall-clock time of the training, such as `4m`.
        picoseconds: Length of the NVE run, ps.
        timestep_fs: Its time step, fs.
        seed: Of the weights, the order of frames and the velocities.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: `float32` or `float64`.
        threads: CPU threads; 0 leaves PyTorch's choice.
        model: Changes to the network's shape.
        training: Changes to how it is trained.
    """

    max_time: str = "4m"
    picoseconds: float = 2.0
    timestep_fs: float = 0.5
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    threads: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DemoResult:
    """What came of it.

    Attributes:
        report: The page.
        model: The model file.
        evaluation: Errors on the test molecules.
        relaxations: Two a test molecule, from displaced coordinates and from a conformer.
        trajectory: The NVE run.
        checks: The physics checks.
        seconds: Duration of every stage.
    """

    report: Path
    model: Path
    evaluation: Evaluation
    relaxations: tuple[Relaxation, ...]
    trajectory: Trajectory
    checks: tuple[CheckResult, ...]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, object]:
        """The numbers under stable names: what `tdn demo --json` writes."""
        return {
            "evaluation": self.evaluation.to_dict(),
            "relaxations": [
                {
                    "name": r.name,
                    "steps": r.steps,
                    "converged": r.converged,
                    "rmsd_start": None if r.rmsds is None else float(r.rmsds[0]),
                    "rmsd_end": None if r.rmsds is None else float(r.rmsds[-1]),
                }
                for r in self.relaxations
            ],
            "nve": {
                "drift_mev_per_atom_per_ps": self.trajectory.drift,
                "fluctuation_mev_per_atom": self.trajectory.fluctuation,
                "picoseconds": float(self.trajectory.times[-1]),
                "mean_temperature": float(self.trajectory.temperatures.mean()),
                "ms_per_step": self.trajectory.ms_per_step,
                "ns_per_day": self.trajectory.ns_per_day,
            },
            "checks": [check.to_dict() for check in self.checks],
            "seconds": dict(self.seconds),
        }


def run_demo(folder: Path, settings: DemoSettings | None = None, progress: Reporter | None = None) -> DemoResult:
    """Train, evaluate, relax, shake and check on the shipped data, and write one page about it.

    Args:
        folder: Where everything goes; the result of an earlier demonstration in it is replaced.
        settings: What to do.
        progress: Hears what happens.

    Raises:
        TDNError: If something cannot be used as it is set, or the training was too short for molecules to hold.
    """
    settings, run = settings or DemoSettings(), folder / "run"
    seconds: dict[str, float] = {}
    stage = partial(_stage, seconds=seconds, say=(progress or Reporter()).line)
    with stage("training"):
        train(training_config(run, settings), progress, overwrite=True)
    calculator = TDNCalculator(run / "model.tdn", settings.device)
    potential, test = calculator.potentials[0], read_frames(organics_path("test"))
    with stage("evaluation on molecules that it has not seen"):
        evaluation = evaluate(potential, test.structures)
        write_predictions(folder / "predictions.extxyz", evaluation)
    with stage("relaxation of these molecules"), _enough_training(settings, run):
        relaxations = relax_molecules(test, calculator, settings.seed)
        _write_relaxed(folder / "relaxed.extxyz", relaxations)
    first = relaxations[0]
    with stage(f"molecular dynamics of {MOLECULE}"), _enough_training(settings, run):
        steps = max(round(1000 * settings.picoseconds / settings.timestep_fs), 10)
        trajectory = run_nve(
            first.atoms, calculator, timestep_fs=settings.timestep_fs, steps=steps, seed=settings.seed, name=MOLECULE,
            max_seconds=NVE_SECONDS,
        )  # fmt: skip
    with stage("physics checks"):
        checks = run_checks(potential, quick=True)
    result = DemoResult(folder / "report.html", run / "model.tdn", evaluation, relaxations, trajectory, checks, seconds)
    write_report(result.report, dataclasses.replace(demo_report(run, result, settings), origins=test.origins))
    return result


def training_config(run: Path, settings: DemoSettings) -> RunConfig:
    """The demonstration's training run: the package's defaults on the shipped data, but for what is said here."""
    data = {
        "train": [str(organics_path("train")), str(organics_path("isolated_atoms"))],
        "valid": str(organics_path("valid")),
        "test": str(organics_path("test")),
    }
    return RunConfig.parse(
        {
            "data": data,
            "model": dict(settings.model),
            # Compiling takes a good part of a run this short, and nobody knows how much on another machine.
            "training": {"max_time": settings.max_time, "compile": False, "tensorboard": False, **settings.training},
            "output": str(run),
            "seed": settings.seed,
            "device": settings.device,
            "dtype": settings.dtype,
            "threads": settings.threads,
        },
        "The demonstration",
    )


def relax_molecules(frames: FrameSet, calculator: TDNCalculator, seed: int = 0) -> tuple[Relaxation, ...]:
    """Relax every molecule from two starts and compare with the DFT minimum; `MOLECULE` comes first.

    One start is the minimum with its coordinates displaced by normal random numbers. The other is the conformer from
    which the DFT relaxation started; it may lie in the basin of another rotamer.
    """
    paths: dict[str, list[Structure]] = {}
    for structure in frames.structures:
        if structure.info["config_type"] == "relaxation":
            paths.setdefault(str(structure.info["molecule"]), []).append(structure)
    names = sorted(paths, key=lambda name: (name != MOLECULE, list(paths).index(name)))
    found = []
    for start in ("displaced", "conformer"):
        for name in names:
            path = sorted(paths[name], key=lambda structure: structure.info["step"])
            conformer, minimum = path[0].to_ase(), path[-1].to_ase()
            displaced = minimum.copy()
            displaced.rattle(DISPLACEMENT, seed=seed)
            first = displaced if start == "displaced" else conformer
            found.append(relax(first, calculator, reference=minimum, name=f"{name}, {start}"))
    return tuple(found)


def demo_report(run: Path, result: DemoResult, settings: DemoSettings) -> Report:
    """Content of the demonstration's page."""
    base = training_report(run)
    evaluation = result.evaluation
    molecules = len({structure.info["molecule"] for structure in evaluation.structures})
    trajectory = result.trajectory
    step = f"{number(trajectory.ms_per_step)} ms with {trajectory.num_atoms} atoms"
    timing: Rows = (
        *base.timing,
        ("Molecular dynamics step", step),
        ("Molecular dynamics speed", f"{number(trajectory.ns_per_day)} ns/day at {trajectory.timestep_fs:g} fs"),
        *((name.capitalize(), duration(seconds)) for name, seconds in result.seconds.items()),
    )
    return dataclasses.replace(
        base,
        title="From quantum chemistry to molecular dynamics",
        lead=f"{base.lead} Tested on {molecules} molecules of which it has seen none, labels at {LEVEL_OF_THEORY}.",
        evaluation=evaluation,
        group_by=("molecule",),
        relaxations=result.relaxations,
        relaxation_reference=LEVEL_OF_THEORY,
        trajectory=trajectory,
        checks=result.checks,
        timing=timing,
        commands=(f"tdn demo --max-time {settings.max_time} --seed {settings.seed}",),
    )


@contextlib.contextmanager
def _stage(name: str, seconds: dict[str, float], say: Callable[[str], None]) -> Iterator[None]:
    """Say that a stage begins, and note how long it took."""
    say(f"— {name}")
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


@contextlib.contextmanager
def _enough_training(settings: DemoSettings, run: Path) -> Iterator[None]:
    """Atoms fall into one another where the network has learnt too little: say so."""
    try:
        yield
    except DataError as error:
        raise TDNError(
            f"{error}\nAfter a training of {settings.max_time} the network is not good enough to move molecules with. "
            f"The model is in {run}; give the training more time (--max-time)."
        ) from error


def _write_relaxed(path: Path, relaxations: tuple[Relaxation, ...]) -> None:
    import ase.io

    with atomic_write(path) as temporary:
        ase.io.write(temporary, [relaxation.atoms for relaxation in relaxations], format="extxyz")
