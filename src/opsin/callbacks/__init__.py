"""Lightning callbacks of Opsin's own."""

from opsin.callbacks.checkpoints import Checkpoints
from opsin.callbacks.early_stopping import EarlyStopping
from opsin.callbacks.ema import EMA
from opsin.callbacks.history import History
from opsin.callbacks.progress import ProgressBar
from opsin.callbacks.throughput import Throughput

__all__ = ["EMA", "Checkpoints", "EarlyStopping", "History", "ProgressBar", "Throughput"]
