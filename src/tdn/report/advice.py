"""What to do about the errors, as plain sentences with the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tdn.evaluation.breakdown import Breakdown, share
from tdn.evaluation.evaluate import Evaluation
from tdn.evaluation.uncertainty import Calibrated
from tdn.report.content import Compared, LearningCurves, Report, number, percent
from tdn.units import MEV_PER_EV

# What makes this part of the squared error, and this many times its share of frames or atoms, is worth a sentence; that
# larger forces have larger errors is the rule.
LARGE, CONCENTRATED, VERY_CONCENTRATED = 0.4, 2.0, 3.0
FEWEST_FRAMES = 10
THRESHOLDS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Lengths of reference forces above which errors may pile up, eV/Å."""


def advise(report: Report) -> tuple[str, ...]:
    """Sentences about what dominates the errors and how the training went; empty if nothing stands out."""
    found: list[str] = []
    if report.evaluation is not None and report.breakdown is not None:
        found += [*_energies(report.breakdown), *_forces(report.breakdown), *_groups(report.breakdown)]
        found += _single_frames(report.evaluation, report.breakdown, report.origins)
    if report.curves is not None:
        found += _training(report.curves)
    return (*found, *_calibration(report.calibration), *_comparison(report.comparison))


def _energies(breakdown: Breakdown) -> Iterator[str]:
    errors = MEV_PER_EV * breakdown.energy_error[np.isfinite(breakdown.energy_error)]
    if len(errors) < FEWEST_FRAMES:
        return
    mean, rmse = float(errors.mean()), float(np.sqrt(np.square(errors).mean()))
    if abs(mean) > 0.7 * rmse:
        yield (
            f"Energies are too {'high' if mean > 0 else 'low'} by {number(abs(mean))} meV/atom on average, most of "
            f"their RMSE of {number(rmse)} meV/atom: compare the level of theory and the reference energies of these "
            "frames with those of the training frames."
        )
    for element in sorted(breakdown.elements, key=lambda e: -e.share_of_energy_error):
        if _concentrated(element.share_of_energy_error, element.share_of_frames):
            yield (
                f"The energy error is dominated by {element.symbol}: the {element.frames} of {len(errors)} frames with "
                f"it make {percent(element.share_of_energy_error)} of the squared error per atom. More training frames "
                f"with {element.symbol} should help most."
            )


def _forces(breakdown: Breakdown) -> Iterator[str]:
    """Elements, large forces, and large forces of one element; only the sharpest of overlapping sentences."""
    from ase.data import chemical_symbols

    atoms, best = breakdown.atoms, (0.0, "")
    squared, size, everything = atoms.squared, atoms.size, np.ones(len(atoms.frame), dtype=bool)
    kinds = {f"{chemical_symbols[z]} atoms": atoms.numbers == z for z in np.unique(atoms.numbers).tolist()}
    for name, own in {"atoms": everything, **kinds}.items():
        for threshold, factor in ((0.0, CONCENTRATED), *((t, VERY_CONCENTRATED) for t in THRESHOLDS)):
            chosen = own & (size > threshold)
            part, count = share(squared, chosen), float(chosen.mean()) if len(chosen) else 0.0
            if not _concentrated(part, count, factor) or part - count <= best[0]:
                continue
            which = f"{name} on which the reference force exceeds {threshold:g} eV/Å" if threshold else name
            remedy = (
                "check whether such frames matter to you; more of them, or a loss that is less sensitive to large "
                "errors, change the balance"
                if threshold
                else "more training frames with different surroundings of this element should help most"
            )
            best = part - count, (
                f"Forces: {percent(part)} of the squared error is on {which}, {percent(count)} of the atoms: {remedy}."
            )  # fmt: skip
    if best[1]:
        yield best[1]


def _groups(breakdown: Breakdown) -> Iterator[str]:
    for key, tables in breakdown.groups.items():
        for quantity, name in (("energy_per_atom", "energy per atom"), ("forces", "forces")):
            known = {value: errors for value, t in tables.items() if (errors := getattr(t, quantity)) is not None}
            sums = np.array([e.count * e.rmse**2 for e in known.values()])
            counts = np.array([e.count for e in known.values()])
            for value, part, size in zip(known, sums / max(sums.sum(), 1e-300), counts / counts.sum(), strict=True):
                if _concentrated(float(part), float(size)):
                    yield (
                        f"Errors of the {name} are concentrated in {key} {value}: {percent(float(part))} of the "
                        f"squared error, {percent(float(size))} of the values."
                    )


def _single_frames(evaluation: Evaluation, breakdown: Breakdown, origins: Sequence[str] | None) -> Iterator[str]:
    for name, errors in (("energy", breakdown.energy_error), ("force", breakdown.force_rmse)):
        known = np.isfinite(errors)
        squared = np.where(known, np.square(np.where(known, errors, 0.0)), 0.0)
        if known.sum() < FEWEST_FRAMES or squared.max() < 0.25 * squared.sum() or not squared.sum():
            continue
        worst = int(squared.argmax())
        label = origins[worst] if origins is not None else f"frame {worst}"
        yield (
            f"One frame, {label} ({evaluation.structures[worst].formula}), makes "
            f"{percent(float(squared[worst] / squared.sum()))} of the squared {name} error: look at it."
        )


def _training(curves: LearningCurves) -> Iterator[str]:
    loss = curves.columns.get("valid_loss", np.zeros(0))
    known = np.flatnonzero(np.isfinite(loss))
    if len(known) >= 5:
        x = curves.columns.get("step", curves.minutes)[known]
        y, best = loss[known], int(np.argmin(loss[known]))
        before = float(np.interp(x[0] + 0.8 * (x[-1] - x[0]), x, y))
        fall = 1.0 - float(y.min()) / before
        if best >= 0.8 * (len(y) - 1) and fall > 0.05:
            yield (
                f"The validation loss was still falling: by {percent(fall)} in the last fifth of the run. Train longer."
            )
        elif best < 0.6 * (len(y) - 1) and y[-1] > 1.02 * y[best]:
            yield (
                f"The validation loss was lowest after {percent((x[best] - x[0]) / (x[-1] - x[0]))} of the run and has "
                f"risen by {percent(y[-1] / y[best] - 1)} since: training longer will not help, more frames will."
            )
    yield from _gap(curves)


def _gap(curves: LearningCurves) -> Iterator[str]:
    valid, train = (_last(curves.columns.get(f"{part}_forces_mae")) for part in ("valid", "train"))
    if valid is None or train is None or train <= 0:
        return
    if valid > 2.0 * train:
        yield (
            f"The force error of validation frames is {number(valid / train)} times that of training frames "
            f"({number(valid)} and {number(train)} meV/Å): more diverse frames help more than a larger network."
        )
    elif valid < 1.2 * train:
        yield (
            f"Training and validation frames have about the same force error ({number(train)} and {number(valid)} "
            "meV/Å): a longer training or a larger network can still gain from these frames."
        )


def _calibration(calibration: Sequence[Calibrated]) -> Iterator[str]:
    for part in calibration:
        found = part.to_dict()
        z = found["z_rms"]
        if found["count"] >= FEWEST_FRAMES and not 0.67 < z < 1.5:
            yield (
                f"Uncertainties of {part.quantity} are too {'small' if z > 1 else 'large'}: errors are {number(z)} "
                "times what they say. Calibrate on frames like these: `tdn calibrate --valid`."
            )
        if found["count"] >= FEWEST_FRAMES and found["rank_correlation"] < 0.2:
            yield (
                f"Uncertainties of {part.quantity} do not tell good from bad here (rank correlation with the errors "
                f"{number(found['rank_correlation'])}): do not select frames by them."
            )


def _comparison(compared: Sequence[Compared]) -> Iterator[str]:
    for other in compared[1:]:
        for name, change, own, unit in (
            ("energies", other.energy_change, compared[0].errors.energy_per_atom, "meV/atom"),
            ("forces", other.forces_change, compared[0].errors.forces, "meV/Å"),
        ):
            if change is not None and own is not None:
                mean, error = change
                clear = abs(mean) > 2.0 * error
                size = f"{number(abs(mean) if clear else mean)} ± {number(error)} {unit} on average"
                how = f"{'worse' if mean > 0 else 'better'} by {size}" if clear else f"not clearly different ({size})"
                yield f"{other.name}, on the same frames: {name} {how}."


def _concentrated(part: float, population: float, factor: float = CONCENTRATED) -> bool:
    return part >= LARGE and part >= factor * population


def _last(column: NDArray[np.float64] | None) -> float | None:
    known = column[np.isfinite(column)] if column is not None else np.zeros(0)
    return float(known[-1]) if len(known) else None
