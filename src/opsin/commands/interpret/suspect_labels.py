"""Labels in doubt: of the images that a run has kept predictions of, and of those that it has learned from."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from opsin.commands.interpret.image_grid import gallery, listed
from opsin.commands.interpret.subject import Finding, Subjects
from opsin.data.stratify import subsample
from opsin.data.subset import Subset
from opsin.errors import UserError
from opsin.evaluation.label_errors import find_label_issues, out_of_fold_probabilities
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions

FOLDS = 5
"""Each training image is told by what was learned from the others' four fifths."""

WEAK = 0.8
"""Of the images as they are labelled: below this share, doubts tell of the network more than of the labels."""

LEAST = 1e-30
"""Stands for a probability of zero where its logarithm is taken."""


class _Told(NamedTuple):
    """What is said of training images by classifiers that have not learned from them.

    Attributes:
        predictions: Of them.
        line: How many they are, and at what cost.
    """

    predictions: Predictions
    line: str


def doubted(subject: Subjects, predictions: Predictions, count: int) -> Iterator[Finding]:
    """The images of some predictions whose labels are in doubt; the predictions must be out of sample."""
    doubts, split = find_label_issues(predictions.probabilities, predictions.targets), predictions.split
    found = len(doubts.positions)
    yield Finding("doubts", None, [f"labels in doubt of {split} (confident learning): {found:,}"])
    if found:
        name = "errors_labels" + (f"_{split}" if split == "train" else "")
        shown = doubts.positions[: 2 * count], doubts.suggested[: 2 * count]
        picture = gallery(subject, predictions, shown[0], "labels in doubt, most doubtful first", said=shown[1])
        yield Finding(name, picture, rows=listed(predictions, doubts.positions, doubts.suggested))


def doubted_training(subject: Subjects, count: int, most: int) -> Iterator[Finding]:
    """The images that the network has learned from whose labels are in doubt.

    The network itself repeats the labels that it has learned. So its embeddings of these images are told by logistic
    regressions, each image by one that has learned from four fifths of the others.

    Args:
        subject: A run.
        count: Twice as many are shown at the most; all are in the table.
        most: About so many images are looked at, drawn by class where there are more; 0: none. This bounds the cost:
            5,000 are embedded once, and told in some seconds (one core: 5 with 512 numbers each and ten classes, 11
            with 2,048 and a hundred).
    """
    if not most:
        return
    try:
        told = _cross_validated(subject, most)
    except UserError as error:
        yield Finding("doubts", None, [f"train: no label was looked at: {error}"])
        return
    yield Finding("told", None, [told.line])
    yield from doubted(subject, told.predictions, count)
    yield Finding("meaning", None, [_meaning(subject)])
    if told.predictions.correct.mean() < WEAK:
        yield Finding("weak", None, ["The embeddings tell few images rightly: most doubts are their weakness."])


def _cross_validated(subject: Subjects, most: int) -> _Told:
    images, began = subject.images, time.monotonic()
    whole = images.subset("train")
    positions = _chosen(whole, most)
    part, learned = whole.choose(positions, whole.origin), subject.learned
    outputs = learned.outputs(part, learned.extractor(images.trainer), images.cache_dir)
    vectors = outputs.read(np.arange(len(part)), 0).astype(np.float32)
    probabilities = np.full((len(part), len(images.classes)), LEAST)
    found = out_of_fold_probabilities(vectors, part.targets, folds=FOLDS)
    probabilities[:, : found.shape[1]] = found.clip(LEAST)
    predictions = Predictions(
        "train",
        images.classes,
        np.log(probabilities).astype(np.float32),
        part.targets,
        positions,
        tuple(part.locate(row) for row in range(len(part))),
        part.identity,
    )
    line = (
        f"train: {len(part):,} of {len(whole):,} images, each told by a logistic regression on the network's "
        f"embeddings of the others: {predictions.correct.mean():.1%} as they are labelled "
        f"({time.monotonic() - began:.0f} s)"
    )
    return _Told(predictions, line)


def _chosen(train: Subset, most: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Positions of about so many images, of every class in proportion, if it has enough of them for the folds."""
    targets = train.targets
    kept = np.arange(len(train)) if len(train) <= most else subsample(targets, most / len(train), seed=0)
    counts = np.bincount(targets[kept], minlength=int(targets.max()) + 1)
    kept = kept[counts[targets[kept]] >= FOLDS]
    if len(np.unique(targets[kept])) < 2:
        raise UserError(f"{most:,} of {len(train):,} images do not give two classes with {FOLDS} images each")
    return kept


def _meaning(subject: Subjects) -> str:
    frozen = RunDirectory(Path(subject.learned.name)).read_result().frozen
    told = "A doubt is a hint and no verdict: look at each image, for hard ones are among them."
    if frozen and set(subject.learned.network.stages) <= set(frozen.stages):
        return f"{told} The stages stood still in this run: what they make of an image does not depend on its label."
    return f"{told} The network has learned from these very labels: wrong ones that it knows by heart are missing here."
