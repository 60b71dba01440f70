"""Show images of a split with their predictions: as a grid, and as table rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.commands.interpret.model_and_images import ModelAndImages
from opsin.runs.predictions import Predictions, check_positions
from opsin.visualization.images import Pixels, grid

Rows = NDArray[np.int64]


def predictions_grid(
    source: ModelAndImages, predictions: Predictions, rows: Rows, title: str, suggested: Rows | None = None
) -> Pixels:
    """Return a grid of images with their labels and predicted or suggested classes.

    Args:
        source: The images.
        predictions: The predictions of these images.
        rows: Rows of the predictions `(K,)`, in the order shown.
        title: Title of the grid, after the name of the split.
        suggested: Suggested class of each image `(K,)`; None shows the predicted class.
    """
    positions = predictions.positions[rows]
    order = np.argsort(positions)
    subset = source.images.subset(predictions.split)
    check_positions(positions, predictions.split, len(subset))
    read = subset.read(positions[order])
    pixels = np.empty_like(read)
    pixels[order] = read
    kind = _kind(suggested)
    captions = [
        f"label {row['label']}\n{kind} {row[kind]} {row[f'{kind}_probability']:.1%}"
        for row in prediction_rows(predictions, rows, suggested)
    ]
    title = f"{predictions.split}: {title}"
    return grid(list(pixels), columns=8, side=128, captions=captions, title=title)


def prediction_rows(predictions: Predictions, rows: Rows, suggested: Rows | None = None) -> list[dict[str, Any]]:
    """Return table rows with the path and label of images, their predicted or suggested class, and probabilities."""
    kind = _kind(suggested)
    others = predictions.predicted[rows] if suggested is None else suggested
    probabilities, classes = predictions.probabilities[rows], predictions.classes
    return [
        {
            "split": predictions.split,
            "image": predictions.paths[row],
            "label": classes[label],
            kind: classes[other],
            "label_probability": round(float(of_image[label]), 6),
            f"{kind}_probability": round(float(of_image[other]), 6),
        }
        for row, label, other, of_image in zip(rows, predictions.targets[rows], others, probabilities, strict=True)
    ]


def _kind(suggested: Rows | None) -> str:
    return "predicted" if suggested is None else "suggested"
