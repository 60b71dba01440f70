"""Find suspicious labels: of images with saved predictions, and of training images by cross-validation."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from opsin.commands.interpret.image_grid import prediction_rows, predictions_grid
from opsin.commands.interpret.model_and_images import ModelAndImages, Output
from opsin.data.splitting import subsample
from opsin.data.subset import Subset
from opsin.errors import UserError
from opsin.evaluation.label_errors import FOLDS, find_label_issues, out_of_fold_probabilities
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions

MIN_ACCURACY = 0.8
"""Below this cross-validated accuracy, most suspicious labels are errors of the classifier."""

MIN_PROBABILITY = 1e-30
"""Replaces a probability of zero before the logarithm."""


class _CrossValidated(NamedTuple):
    """Out-of-sample predictions of training images.

    Attributes:
        predictions: The predictions.
        line: Number of images, accuracy and time as text.
    """

    predictions: Predictions
    line: str


def suspect_labels(source: ModelAndImages, predictions: Predictions, count: int) -> Iterator[Output]:
    """Show the images with suspicious labels; the predictions must be out of sample."""
    issues, split = find_label_issues(predictions.probabilities, predictions.targets), predictions.split
    found = len(issues.positions)
    yield Output("label_count", None, [f"suspicious labels of {split} images (confident learning): {found:,}"])
    if found:
        name = "errors_labels" + (f"_{split}" if split == "train" else "")
        rows, suggested = issues.positions[: 2 * count], issues.suggested[: 2 * count]
        picture = predictions_grid(source, predictions, rows, "suspicious labels, most suspicious first", suggested)
        yield Output(name, picture, rows=prediction_rows(predictions, issues.positions, issues.suggested))


def suspect_training_labels(source: ModelAndImages, count: int, most: int) -> Iterator[Output]:
    """Show the training images with suspicious labels.

    On its training images, the network reproduces the labels that it has learned, wrong ones included. Therefore a
    cross-validated logistic regression on the network's embeddings predicts each image.

    Args:
        source: A run.
        count: Half the maximum number of images shown; the table contains all.
        most: Approximate maximum number of images, sampled by class; 0 for none. It bounds the cost: 5,000 images are
            embedded once and predicted in seconds (one core: 5 s with 512 features and 10 classes, 11 s with 2,048
            features and 100 classes).
    """
    if not most:
        return
    try:
        result = _cross_validated(source, most)
    except UserError as error:
        yield Output("label_error", None, [f"train: labels were not checked: {error}"])
        return
    yield Output("cross_validation", None, [result.line])
    yield from suspect_labels(source, result.predictions, count)
    yield Output("label_note", None, [_note(source)])
    if result.predictions.correct.mean() < MIN_ACCURACY:
        text = "The accuracy of the cross-validated predictions is low, so most suspicious labels are probably correct."
        yield Output("label_warning", None, [text])


def _cross_validated(source: ModelAndImages, most: int) -> _CrossValidated:
    images, start = source.images, time.monotonic()
    whole = images.subset("train")
    positions = _sample(whole, most)
    subset, trained_model = whole.choose(positions, whole.origin), source.trained_model
    outputs = trained_model.outputs(subset, trained_model.extractor(images.trainer), images.cache_dir)
    vectors = outputs.read(np.arange(len(subset)), 0).astype(np.float32)
    probabilities = np.full((len(subset), len(images.classes)), MIN_PROBABILITY)
    found = out_of_fold_probabilities(vectors, subset.targets)
    probabilities[:, : found.shape[1]] = found.clip(MIN_PROBABILITY)
    predictions = Predictions(
        "train",
        images.classes,
        np.log(probabilities).astype(np.float32),
        subset.targets,
        positions,
        tuple(subset.locate(row) for row in range(len(subset))),
        subset.identity,
    )
    line = (
        f"train: {len(subset):,} of {len(whole):,} images, predicted by a cross-validated logistic regression on the "
        f"network's embeddings: {predictions.correct.mean():.1%} agree with their label "
        f"({time.monotonic() - start:.0f} s)"
    )
    return _CrossValidated(predictions, line)


def _sample(train: Subset, most: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the positions of a stratified sample, without classes that have fewer images than folds."""
    targets = train.targets
    kept = np.arange(len(train)) if len(train) <= most else subsample(targets, most / len(train), seed=0)
    counts = np.bincount(targets[kept], minlength=int(targets.max()) + 1)
    kept = kept[counts[targets[kept]] >= FOLDS]
    if len(np.unique(targets[kept])) < 2:
        raise UserError(
            f"{min(most, len(train)):,} of {len(train):,} images do not contain two classes with {FOLDS} images each"
        )
    return kept


def _note(source: ModelAndImages) -> str:
    frozen = RunDirectory(Path(source.trained_model.name)).read_result().frozen
    note = "A suspicious label is not necessarily wrong: check each image, since difficult images are among them."
    if frozen and set(source.trained_model.network.stages) <= set(frozen.stages):
        return f"{note} The stages of this run were frozen, so the embeddings do not depend on the labels."
    return f"{note} The network was trained on these labels, so wrong labels that it has memorized are missing here."
