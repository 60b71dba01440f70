"""Lightning callbacks of Opsin's own."""

from opsin.callbacks.batch_images import BatchImages
from opsin.callbacks.checkpoints import Checkpoints
from opsin.callbacks.class_activation import ClassActivation
from opsin.callbacks.confusion import ConfusionMatrix
from opsin.callbacks.early_stopping import EarlyStopping
from opsin.callbacks.ema import EMA
from opsin.callbacks.graph import Graph
from opsin.callbacks.history import History
from opsin.callbacks.kernels import FirstKernels
from opsin.callbacks.pr_curves import PRCurves
from opsin.callbacks.progress import ProgressBar
from opsin.callbacks.projector import Projector
from opsin.callbacks.pruning import Pruning
from opsin.callbacks.texts import ConfigText
from opsin.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "BatchImages",
    "Checkpoints",
    "ClassActivation",
    "ConfigText",
    "ConfusionMatrix",
    "EarlyStopping",
    "FirstKernels",
    "Graph",
    "History",
    "PRCurves",
    "ProgressBar",
    "Projector",
    "Pruning",
    "Throughput",
]
