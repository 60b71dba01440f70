"""Lightning callbacks of Opsin's own."""

from opsin.callbacks.checkpoints import Checkpoints
from opsin.callbacks.early_stopping import EarlyStopping
from opsin.callbacks.history import History
from opsin.callbacks.moving_average import MovingAverage
from opsin.callbacks.progress import ProgressBar
from opsin.callbacks.throughput import Throughput

__all__ = ["Checkpoints", "EarlyStopping", "History", "MovingAverage", "ProgressBar", "Throughput"]
