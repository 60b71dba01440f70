"""Optimization: parameter groups and learning-rate schedules."""

from opsin.optim.groups import parameter_groups
from opsin.optim.schedules import constant, cosine, onecycle, plateau, step

__all__ = ["constant", "cosine", "onecycle", "parameter_groups", "plateau", "step"]
