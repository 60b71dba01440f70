"""Error analysis of a run: class metrics, misclassified images, confusions, calibration, label errors, duplicates."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from opsin.commands.interpret.image_grid import prediction_rows, predictions_grid
from opsin.commands.interpret.model_and_images import ModelAndImages, Output
from opsin.commands.interpret.suspect_labels import suspect_labels, suspect_training_labels
from opsin.data.subset import Subset
from opsin.errors import UserError
from opsin.evaluation.calibration import Reliability, calibrate, reliability, temperature_scaled
from opsin.evaluation.confidence_intervals import Interval
from opsin.evaluation.confusion import class_table, confused_pairs, most_confident_errors
from opsin.evaluation.near_duplicates import Duplicate, near_duplicates, thumbnails
from opsin.inference.inputs import InputImages
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions, predictions_file, read_predictions
from opsin.visualization.images import Pixels, grid

THUMBNAIL = 32
"""Side in pixels of the thumbnails compared in the search for duplicates."""

BLOCK = 512
"""Number of images that are read in one step."""

EXAMPLES = 4
"""Number of images shown for each pair of confused classes."""

SIMILARITY = 0.98
"""Minimum correlation of the details of two images that count as duplicates."""


def error_analysis(
    source: ModelAndImages,
    count: int,
    split: Literal["val", "test"] = "val",
    train_images: int = 5_000,
) -> Iterator[Output]:
    """Analyze the errors of a run from its saved predictions of a split.

    Args:
        source: A run.
        count: Number of errors, pairs, duplicates and suspicious labels to show.
        split: Split of the predictions.
        train_images: Approximate number of training images whose labels are checked too; 0 for none.

    Raises:
        UserError: The source is not a run, or the run has no predictions.
    """
    run = RunDirectory(Path(source.trained_model.name))
    if not run.config.is_file():
        raise UserError(f"--what errors needs a run with predictions, but {source.trained_model.name} is not a run")
    if train_images < 0:
        raise UserError(f"--train-images must be at least 0, got {train_images}")
    if source.words or source.files:
        raise UserError("--what errors uses the predictions of the run's own images; do not give other images")
    predictions = read_predictions(run, split)
    wrong = int((~predictions.correct).sum())
    yield Output("table", None, [f"{split}: {wrong:,} of {len(predictions):,} misclassified", *_table(predictions)])
    yield from _misclassified(source, predictions, count)
    yield from _pairs(source, predictions, count)
    yield _calibration(run, predictions)
    yield from suspect_labels(source, predictions, count)
    yield from suspect_training_labels(source, count, train_images)
    yield from _duplicates(source, count)


def _table(predictions: Predictions) -> list[str]:
    rows = class_table(predictions)
    width = max(len(row.name) for row in rows)
    lines = [f"  {'class':{width}}  images  recall (95 % interval)      precision (95 % interval)   F1"]
    return lines + [
        f"  {row.name:{width}}  {row.count:6,}  {_share(row.recall)}  {_share(row.precision)}  {row.f1:.3f}"
        for row in rows
    ]


def _share(share: Interval) -> str:
    """Format a share with its interval; a dash for NaN."""
    if math.isnan(share.estimate):
        return f"{'-':^27}"
    return f"{share.estimate:6.1%} ({share.low:6.1%} to {share.high:6.1%})"


def _misclassified(source: ModelAndImages, predictions: Predictions, count: int) -> Iterator[Output]:
    rows = most_confident_errors(predictions, len(predictions))
    if len(rows):
        picture = predictions_grid(source, predictions, rows[: 2 * count], "most confident errors")
        yield Output("errors_misclassified", picture, rows=prediction_rows(predictions, rows))


def _pairs(source: ModelAndImages, predictions: Predictions, count: int) -> Iterator[Output]:
    pairs = confused_pairs(predictions, count)
    if not pairs:
        return
    names = predictions.classes
    lines = [f"  {names[pair.true]} predicted as {names[pair.predicted]}: {pair.images:,}" for pair in pairs]
    rows: list[int] = []
    for pair in pairs[:EXAMPLES]:
        members = np.flatnonzero((predictions.targets == pair.true) & (predictions.predicted == pair.predicted))
        order = np.argsort(-predictions.probabilities[members, pair.predicted], kind="stable")
        rows += members[order][:EXAMPLES].tolist()
    picture = predictions_grid(source, predictions, np.array(rows), "most confused classes")
    yield Output("errors_confused", picture, ["most confused classes:", *lines])


def _calibration(run: RunDirectory, predictions: Predictions) -> Output:
    """Evaluate calibration before and after temperature scaling fitted on val; on test if its predictions exist."""
    evaluated = predictions
    if predictions.split == "val" and predictions_file(run, "test").is_file():
        evaluated = read_predictions(run, "test")
    calibration = run.read_result().calibration
    if calibration is None:
        fitted = predictions if predictions.split == "val" else read_predictions(run, "val")
        calibration = calibrate(fitted.logits, fitted.targets)
    temperature = calibration.temperature
    before = reliability(evaluated.probabilities, evaluated.targets)
    after = reliability(temperature_scaled(evaluated.logits, temperature), evaluated.targets)
    note = ", the same images, so it is too optimistic" if evaluated.split == "val" else ""
    origin = f"(fitted on val{note})" if calibration.reason is None else f"({calibration.reason})"
    line = (
        f"calibration on {evaluated.split}: expected calibration error {before.ece:.2%}; {after.ece:.2%} with "
        f"temperature {temperature:.2f} {origin}"
    )
    return Output("errors_reliability", _diagrams(before, after, temperature, evaluated.split), [line])


def _diagrams(before: Reliability, after: Reliability, temperature: float, split: str) -> Pixels:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    names = ("without scaling", f"temperature {temperature:.2f}")
    for axis, found, name in zip(axes, (before, after), names, strict=True):
        middle, width = (found.edges[:-1] + found.edges[1:]) / 2, np.diff(found.edges)
        filled = found.counts > 0
        axis.bar(middle[filled], found.accuracy[filled], width[filled] * 0.94, color="#4c78a8", label="accuracy")
        axis.plot(found.confidence[filled], found.accuracy[filled], "o", color="#1b2a41", markersize=4)
        axis.plot([0, 1], [0, 1], "--", color="#b0413e", label="perfect")
        for x, y, images in zip(middle[filled], found.accuracy[filled], found.counts[filled], strict=True):
            axis.annotate(f"{images:,}", (x, y + 0.015), ha="center", fontsize=6.5)
        axis.set(title=f"{split}, {name}: ECE {found.ece:.2%}", xlabel="confidence", xlim=(0, 1), ylim=(0, 1.08))
    axes[0].set_ylabel("accuracy")
    axes[0].legend(loc="upper left", frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return np.asarray(Image.open(stream, formats=("PNG",)).convert("RGB"))


def _duplicates(source: ModelAndImages, count: int) -> Iterator[Output]:
    images = source.images
    small = {split: _thumbnails(images.subset(split)) for split in images.splits("all")}
    found = near_duplicates(small, SIMILARITY)
    sizes = ", ".join(f"{len(pixels):,} {split}" for split, pixels in small.items())
    pairs = f"{len(found):,} pair{'' if len(found) == 1 else 's'}"
    lines = [f"near-duplicates across splits (similarity at least {SIMILARITY}): {pairs} among {sizes} images"]
    if not found:
        yield Output("duplicates", None, lines)
        return
    pictures, captions = [], []
    for pair in found[: 2 * count]:
        for split, row in ((pair.split_a, pair.i), (pair.split_b, pair.j)):
            subset = images.subset(split)
            pictures.append(subset.read(np.array([row]))[0])
            captions.append(f"{split} {row}, {images.classes[subset.targets[row]]}\nsimilarity {pair.similarity:.3f}")
    title = "near-duplicates across splits"
    picture = grid(pictures, columns=8, side=112, captions=captions, title=title)
    yield Output("errors_duplicates", picture, lines, [_duplicate_row(images, pair) for pair in found])


def _duplicate_row(images: InputImages, pair: Duplicate) -> dict[str, object]:
    """Return the table row of a pair: paths and labels of both images, and their similarity."""
    a, b = images.subset(pair.split_a), images.subset(pair.split_b)
    return {
        "split": pair.split_a,
        "image": a.locate(pair.i),
        "label": images.classes[a.targets[pair.i]],
        "other_split": pair.split_b,
        "other_image": b.locate(pair.j),
        "other_label": images.classes[b.targets[pair.j]],
        "similarity": round(pair.similarity, 4),
    }


def _thumbnails(subset: Subset) -> Pixels:
    side = min(THUMBNAIL, *subset.read(np.array([0])).shape[1:3]) if len(subset) else THUMBNAIL
    rows = np.arange(len(subset))
    blocks = [thumbnails(subset.read(rows[first : first + BLOCK]), side) for first in range(0, len(subset), BLOCK)]
    return np.concatenate(blocks) if blocks else np.empty((0, side, side, 1), np.uint8)
