"""Optimization: parameter groups and learning-rate schedules."""

from opsin.training.optim.lr_schedules import constant, cosine, onecycle, plateau, step
from opsin.training.optim.parameter_groups import parameter_groups

__all__ = ["constant", "cosine", "onecycle", "parameter_groups", "plateau", "step"]
