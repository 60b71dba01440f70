"""What is measured before a run: how large a batch may be, and which learning rate suits."""

from opsin.tuning.batch_size import Found, settle_batch_size
from opsin.tuning.curve import draw_curve
from opsin.tuning.learning_rate import RangeTest, range_test
from opsin.tuning.trial import Trials

__all__ = ["Found", "RangeTest", "Trials", "draw_curve", "range_test", "settle_batch_size"]
