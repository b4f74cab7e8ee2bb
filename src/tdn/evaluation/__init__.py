"""Errors of a potential on labelled structures, and what it does when atoms move: relaxation and NVE dynamics."""

from tdn.evaluation.evaluate import Evaluation, FramePrediction, Timing, evaluate
from tdn.evaluation.metrics import Errors, ErrorTable, measure_errors
from tdn.evaluation.predictions import write_predictions

__all__ = [
    "ErrorTable",
    "Errors",
    "Evaluation",
    "FramePrediction",
    "Timing",
    "evaluate",
    "measure_errors",
    "write_predictions",
]
