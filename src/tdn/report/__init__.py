"""One self-contained HTML page about a trained potential: nothing is loaded from anywhere."""

from tdn.report.content import Headline, LearningCurves, Report
from tdn.report.render import render_report, write_report
from tdn.report.training import write_training_report

__all__ = [
    "Headline",
    "LearningCurves",
    "Report",
    "render_report",
    "write_report",
    "write_training_report",
]
