"""What is measured before a run: how large a batch may be, and which learning rate suits."""

from opsin.training.tuning.batch_size import BatchSizeResult, resolve_batch_size
from opsin.training.tuning.lr_curve import draw_curve
from opsin.training.tuning.lr_finder import RangeTest, range_test
from opsin.training.tuning.trial_steps import TrialSteps

__all__ = ["BatchSizeResult", "RangeTest", "TrialSteps", "draw_curve", "range_test", "resolve_batch_size"]
