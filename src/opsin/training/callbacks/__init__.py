"""Lightning callbacks that belong to Opsin."""

from opsin.training.callbacks.batch_images import BatchImages
from opsin.training.callbacks.checkpoints import Checkpoints
from opsin.training.callbacks.config_text import ConfigText
from opsin.training.callbacks.confusion_matrix import ConfusionMatrix
from opsin.training.callbacks.early_stopping import EarlyStopping
from opsin.training.callbacks.ema import EMA
from opsin.training.callbacks.embedding_projector import EmbeddingProjector
from opsin.training.callbacks.first_kernels import FirstKernels
from opsin.training.callbacks.grad_cam import GradCAM
from opsin.training.callbacks.graph import Graph
from opsin.training.callbacks.metrics_csv_writer import MetricsCSV
from opsin.training.callbacks.pr_curves import PRCurves
from opsin.training.callbacks.progress_bar import ProgressBar
from opsin.training.callbacks.pruning import Pruning
from opsin.training.callbacks.step_curves import StepCurves
from opsin.training.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "BatchImages",
    "Checkpoints",
    "ConfigText",
    "ConfusionMatrix",
    "EarlyStopping",
    "EmbeddingProjector",
    "FirstKernels",
    "GradCAM",
    "Graph",
    "MetricsCSV",
    "PRCurves",
    "ProgressBar",
    "Pruning",
    "StepCurves",
    "Throughput",
]
