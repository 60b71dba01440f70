"""Measurements before a run: the batch size and the learning rate."""

from opsin.training.tuning.batch_size import resolve_batch_size
from opsin.training.tuning.lr_chart import draw_curve
from opsin.training.tuning.lr_finder import RangeTest, range_test
from opsin.training.tuning.trial_steps import TrialSteps

__all__ = ["RangeTest", "TrialSteps", "draw_curve", "range_test", "resolve_batch_size"]
