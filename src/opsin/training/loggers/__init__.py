"""Loggers: TensorBoard, CSV, Weights & Biases, MLflow and Trackio. Each imports its library when a run uses it."""

from opsin.training.loggers.csv_rows import CSV
from opsin.training.loggers.mlflow import MLflow
from opsin.training.loggers.tensorboard import TensorBoard
from opsin.training.loggers.trackio import Trackio
from opsin.training.loggers.wandb import WandB

__all__ = ["CSV", "MLflow", "TensorBoard", "Trackio", "WandB"]
