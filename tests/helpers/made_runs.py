"""Run directories as a finished run leaves them, made without training."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from opsin.runs.directory import RunDirectory
from opsin.runs.epochs import EpochRow, write_epochs
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
    words: Sequence[str] = (),
    config: dict[str, Any] | None = None,
    choices: dict[str, str] | None = None,
    result: dict[str, Any] | None = None,
    images: str = "images",
    origin: str = "given",
    split: str = "test",
    epochs: Sequence[float] = (0.5, 0.7),
) -> RunDirectory:
    """A finished run that tells some images rightly.

    Args:
        path: Its directory.
        correct: Whether each image of the split is told rightly; None: no predictions are kept.
        words: Of the command line; `key=number` also goes into the config.
        config: More values, by dotted keys.
        choices: Other parts.
        result: Other fields of the result.
        images: Digest of the images.
        origin: given or carved.
        split: Whose predictions.
        epochs: `val/acc` of each.
    """
    path.mkdir(parents=True)
    run, tree = RunDirectory(path), copy.deepcopy(CONFIG)
    values = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}
    for key, value in (values | (config or {})).items():
        *sections, last = key.split(".")
        place: dict[str, Any] = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    run.config.write_text(yaml.safe_dump(tree))
    run.overrides.write_text(yaml.safe_dump({"overrides": list(words), "choices": CHOICES | (choices or {})}))
    metrics = {"val/acc": epochs[-1]}
    count = 100
    if correct is not None:
        right = np.asarray(correct, bool)
        predictions = predictions_of(right, images, split)
        predictions.write(run)
        count = len(right)
        metrics |= {f"{split}/acc": float(right.mean()), f"{split}/loss": 1 - float(right.mean())}
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


def predictions_of(right: np.ndarray, images: str, split: str = "test") -> Predictions:
    """Predictions that are right where asked for, surer from image to image."""
    targets = np.arange(len(right)) % 3
    said = np.where(right, targets, (targets + 1) % 3)
    logits = np.zeros((len(right), 3), np.float32)
    logits[np.arange(len(right)), said] = 1 + np.arange(len(right)) / len(right)
    paths = tuple(f"<{i}>.png" for i in range(len(right)))
    return Predictions(split, CLASSES, logits, targets, np.arange(len(right)), paths, images)
