"""Where a run goes wrong: mistakes, confusions, classes, calibration, copies across splits, labels in doubt."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from opsin.commands.interpret.image_grid import gallery, listed
from opsin.commands.interpret.subject import Finding, Subjects
from opsin.commands.interpret.suspect_labels import doubted, doubted_training
from opsin.data.subset import Subset
from opsin.errors import UserError
from opsin.evaluation.calibration import Reliability, fit_temperature, reliability, temperature_scaled
from opsin.evaluation.confidence_intervals import Interval
from opsin.evaluation.confusion import class_table, confused_pairs, most_confident_errors
from opsin.evaluation.near_duplicates import Duplicate, near_duplicates, thumbnails
from opsin.inference.inputs import InputImages
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions, predictions_file, read_predictions
from opsin.visualization.images import Pixels, grid

THUMBNAIL = 32
"""Side in pixels of what is compared in search of copies."""

BLOCK = 512
"""InputImages that are read together."""

EXAMPLES = 4
"""InputImages shown of each pair of confused classes."""


def failures(
    subject: Subjects,
    count: int,
    split: Literal["val", "test"] = "val",
    alike: float = 0.98,
    train_images: int = 5_000,
) -> Iterator[Finding]:
    """What the predictions that a run has kept of a split tell about its mistakes.

    Args:
        subject: A run.
        count: How many mistakes, pairs, copies and doubts are shown.
        split: Whose predictions.
        alike: Correlation of pixels from which images of two splits count as copies.
        train_images: Of about so many training images the labels are doubted too; 0: of none.

    Raises:
        UserError: It is no run, or it has kept no predictions.
    """
    run = RunDirectory(Path(subject.learned.name))
    if not run.config.is_file():
        raise UserError(f"--what errors: {subject.learned.name} is no run, and so has no predictions to look at")
    if train_images < 0:
        raise UserError(f"--train-images {train_images}: about so many images; 0 for none")
    if subject.words or subject.files:
        raise UserError("--what errors looks at the predictions of the run's own images: name no others")
    predictions = read_predictions(run, split)
    wrong = int((~predictions.correct).sum())
    yield Finding("table", None, [f"{split}: {wrong:,} of {len(predictions):,} wrong", *_table(predictions)])
    yield from _mistakes(subject, predictions, count)
    yield from _pairs(subject, predictions, count)
    yield _calibration(run, predictions)
    yield from doubted(subject, predictions, count)
    yield from doubted_training(subject, count, train_images)
    yield from _copies(subject, count, alike)


def _table(predictions: Predictions) -> list[str]:
    rows = class_table(predictions)
    width = max(len(row.name) for row in rows)
    lines = [f"  {'class':{width}}  images   found (95 % interval)      right of those said     F1"]
    return lines + [
        f"  {row.name:{width}}  {row.count:6,}  {_share(row.recall)}  {_share(row.precision)}  {row.f1:.3f}"
        for row in rows
    ]


def _share(share: Interval) -> str:
    """A share and its interval; a dash where there is nothing to share."""
    if math.isnan(share.estimate):
        return f"{'-':^27}"
    return f"{share.estimate:6.1%} ({share.low:6.1%} to {share.high:6.1%})"


def _mistakes(subject: Subjects, predictions: Predictions, count: int) -> Iterator[Finding]:
    rows = most_confident_errors(predictions, len(predictions))
    if len(rows):
        picture = gallery(subject, predictions, rows[: 2 * count], "the mistakes it is surest of")
        yield Finding("errors_mistakes", picture, rows=listed(predictions, rows))


def _pairs(subject: Subjects, predictions: Predictions, count: int) -> Iterator[Finding]:
    pairs = confused_pairs(predictions, count)
    if not pairs:
        return
    names = predictions.classes
    lines = [f"  {names[pair.true]} taken for {names[pair.predicted]}: {pair.images:,}" for pair in pairs]
    rows: list[int] = []
    for pair in pairs[:EXAMPLES]:
        among = (predictions.targets == pair.true) & (predictions.predicted == pair.predicted)
        sure = np.flatnonzero(among)
        order = np.argsort(-predictions.probabilities[sure, pair.predicted], kind="stable")
        rows += sure[order][:EXAMPLES].tolist()
    picture = gallery(subject, predictions, np.array(rows), "classes most often confused")
    yield Finding("errors_confused", picture, ["most often confused:", *lines])


def _calibration(run: RunDirectory, predictions: Predictions) -> Finding:
    """Reliability before and after a temperature that is fitted on val; judged on test where that was kept."""
    judged = predictions
    if predictions.split == "val" and predictions_file(run, "test").is_file():
        judged = read_predictions(run, "test")
    fitted = predictions if predictions.split == "val" else read_predictions(run, "val")
    temperature = fit_temperature(fitted.logits, fitted.targets)
    before = reliability(judged.probabilities, judged.targets)
    after = reliability(temperature_scaled(judged.logits, temperature), judged.targets)
    note = " (the same images: it flatters)" if judged.split == "val" else ""
    line = (
        f"calibration on {judged.split}: expected error {before.ece:.2%}; {after.ece:.2%} at temperature "
        f"{temperature:.2f}, fitted on val{note}"
    )
    return Finding("errors_reliability", _diagrams(before, after, temperature, judged.split), [line])


def _diagrams(before: Reliability, after: Reliability, temperature: float, split: str) -> Pixels:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, found, name in zip(axes, (before, after), ("as it is", f"at temperature {temperature:.2f}"), strict=True):
        middle, width = (found.edges[:-1] + found.edges[1:]) / 2, np.diff(found.edges)
        filled = found.counts > 0
        axis.bar(middle[filled], found.accuracy[filled], width[filled] * 0.94, color="#4c78a8", label="right")
        axis.plot(found.confidence[filled], found.accuracy[filled], "o", color="#1b2a41", markersize=4)
        axis.plot([0, 1], [0, 1], "--", color="#b0413e", label="perfect")
        for x, y, images in zip(middle[filled], found.accuracy[filled], found.counts[filled], strict=True):
            axis.annotate(f"{images:,}", (x, y + 0.015), ha="center", fontsize=6.5)
        axis.set(title=f"{split}, {name}: error {found.ece:.2%}", xlabel="confidence", xlim=(0, 1), ylim=(0, 1.08))
    axes[0].set_ylabel("share that is right")
    axes[0].legend(loc="upper left", frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return np.asarray(Image.open(stream).convert("RGB"))


def _copies(subject: Subjects, count: int, alike: float) -> Iterator[Finding]:
    images = subject.images
    small = {split: _thumbnails(images.subset(split)) for split in images.splits("all")}
    found = near_duplicates(small, threshold=alike, count=None)
    sizes = ", ".join(f"{len(pixels):,} {split}" for split, pixels in small.items())
    lines = [f"images of two splits that look the same (correlation from {alike}): {len(found):,} pairs; {sizes}"]
    if not found:
        yield Finding("copies", None, lines)
        return
    pictures, captions = [], []
    for pair in found[: 2 * count]:
        for split, row in ((pair.split_a, pair.i), (pair.split_b, pair.j)):
            part = images.subset(split)
            pictures.append(part.read(np.array([row]))[0])
            captions.append(f"{split} {row}, {images.classes[part.targets[row]]}\nalike {pair.similarity:.3f}")
    title = "pairs that look the same in two splits"
    picture = grid(pictures, columns=8, side=112, captions=captions, title=title)
    yield Finding("errors_copies", picture, lines, [_named(images, pair) for pair in found])


def _named(images: InputImages, pair: Duplicate) -> dict[str, object]:
    """A pair by the names of its images, with their labels."""
    a, b = images.subset(pair.split_a), images.subset(pair.split_b)
    return {
        "split": pair.split_a,
        "image": a.locate(pair.i),
        "label": images.classes[a.targets[pair.i]],
        "other_split": pair.split_b,
        "other_image": b.locate(pair.j),
        "other_label": images.classes[b.targets[pair.j]],
        "alike": round(pair.similarity, 4),
    }


def _thumbnails(part: Subset) -> Pixels:
    side = min(THUMBNAIL, *part.read(np.array([0])).shape[1:3]) if len(part) else THUMBNAIL
    rows = np.arange(len(part))
    blocks = [thumbnails(part.read(rows[first : first + BLOCK]), side) for first in range(0, len(part), BLOCK)]
    return np.concatenate(blocks) if blocks else np.empty((0, side, side, 1), np.uint8)
