"""Run directories of finished runs, made without training."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import EpochRow, write_epochs
from opsin.runs.predictions import Predictions
from opsin.runs.result import DataFacts, ParameterCounts, RunResult

CONFIG = {
    "seed": 0,
    "data_dir": "/somewhere",
    "datamodule": {"_target_": "opsin.data.datasets.digits", "split_seed": None, "num_folds": None, "fold": 0},
    "model": {"_target_": "opsin.models.cnn_gap", "weights": "none"},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.002},
    "callbacks": {
        "progress": {"_target_": "opsin.training.callbacks.ProgressBar", "bar": True},
        "early_stopping": {"_target_": "opsin.training.callbacks.EarlyStopping", "patience": 10},
    },
}
CHOICES = {"datamodule": "digits", "model": "cnn_gap", "optimizer": "adam", "debug": None}
CLASSES = ("cat", "dog", "emu")


def made_run(
    path: Path,
    correct: Sequence[bool] | None = None,
    *,
    overrides: Sequence[str] = (),
    config: dict[str, Any] | None = None,
    choices: dict[str, str] | None = None,
    result: dict[str, Any] | None = None,
    images: str = "images",
    origin: str = "given",
    split: str = "test",
    epochs: Sequence[float] = (0.5, 0.7),
) -> RunDirectory:
    """Make the directory of a finished run with the given correct and wrong predictions.

    Args:
        path: The run directory.
        correct: Whether each image of the split is classified correctly; None saves no predictions.
        overrides: Overrides of the command line; `key=number` also goes into the config.
        config: Further config values, by dotted key.
        choices: Options of config groups.
        result: Other fields of the result.
        images: Digest of the images.
        origin: Whether the split was `given` or `carved`.
        split: The split of the predictions.
        epochs: `val/acc` of each epoch.
    """
    path.mkdir(parents=True)
    run, tree = RunDirectory(path), copy.deepcopy(CONFIG)
    values = {key: yaml.safe_load(value) for key, _, value in (override.partition("=") for override in overrides)}
    for key, value in (values | (config or {})).items():
        *sections, last = key.split(".")
        node: dict[str, Any] = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    run.config.write_text(yaml.safe_dump(tree))
    run.overrides.write_text(yaml.safe_dump({"overrides": list(overrides), "choices": CHOICES | (choices or {})}))
    metrics = {"val/acc": epochs[-1]}
    count = 100
    if correct is not None:
        flags = np.asarray(correct, bool)
        predictions_of(flags, images, split).write(run)
        count = len(flags)
        metrics |= {f"{split}/acc": float(flags.mean()), f"{split}/loss": 1 - float(flags.mean())}
    finished = RunResult(
        status="finished",
        metrics=metrics,
        parameters=ParameterCounts(total=1000, trainable=900, frozen=100),
        throughput=50.0,
        seconds={"total": 12.5},
        data=DataFacts(name="digits", counts={split: count}, origin={split: origin}, image_size=(8, 8)),
    )
    run.write_result(replace(finished, **(result or {})))
    rows = [EpochRow(i + 1, 10 * (i + 1), {"val/acc": v, "val/loss": 1 - v}) for i, v in enumerate(epochs)]
    write_epochs(run.metrics, rows)
    return run


def predictions_of(correct: np.ndarray, images: str, split: str = "test") -> Predictions:
    """Return predictions that are correct where given, with confidence increasing from image to image."""
    count = len(correct)
    targets = np.arange(count) % 3
    predicted = np.where(correct, targets, (targets + 1) % 3)
    logits = np.zeros((count, 3), np.float32)
    logits[np.arange(count), predicted] = 1 + np.arange(count) / count
    paths = tuple(f"<{i}>.png" for i in range(count))
    return Predictions(split, CLASSES, logits, targets, np.arange(count), paths, images)
