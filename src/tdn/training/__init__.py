"""Training: configuration, loss, loop, checkpoints, and what a run writes."""

from tdn.training.config import DataConfig, RunConfig, TrainingConfig, load_config
from tdn.training.run import TrainingResult, train

__all__ = ["DataConfig", "RunConfig", "TrainingConfig", "TrainingResult", "load_config", "train"]
