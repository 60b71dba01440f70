"""What is measured before a run: how large a batch may be, and which learning rate suits."""

from opsin.tuning.batch_size import Found, settle_batch_size
from opsin.tuning.learning_rate import RangeTest, range_test

__all__ = ["Found", "RangeTest", "range_test", "settle_batch_size"]
