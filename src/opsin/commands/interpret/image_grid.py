"""Some images of a split beside what is said of them: as a picture, and as rows of a table."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.commands.interpret.subject import Subjects
from opsin.runs.predictions import Predictions
from opsin.visualization.images import Pixels, grid

Rows = NDArray[np.int64]


def gallery(subject: Subjects, predictions: Predictions, rows: Rows, title: str, said: Rows | None = None) -> Pixels:
    """Some images, what they are labelled as, and what is said of them.

    Args:
        subject: Has the images.
        predictions: What is said of them.
        rows: Of the predictions `(K,)`, in the order in which they are shown.
        title: Above all, behind the name of the split.
        said: A class for each `(K,)`; None: the most probable one.
    """
    positions = predictions.positions[rows]
    order = np.argsort(positions)
    read = subject.images.subset(predictions.split).read(positions[order])
    pixels = np.empty_like(read)
    pixels[order] = read
    told = listed(predictions, rows, said)
    captions = [f"{one['label']}\nsaid {one['said']} {one['probability_of_said']:.1%}" for one in told]
    title = f"{predictions.split}: {title} (under each its label, and what is said)"
    return grid(list(pixels), columns=8, side=128, captions=captions, title=title)


def listed(predictions: Predictions, rows: Rows, said: Rows | None = None) -> list[dict[str, Any]]:
    """Some images by their names, with label, what is said of them, and the probabilities of both."""
    said = predictions.predicted[rows] if said is None else said
    probabilities, classes = predictions.probabilities[rows], predictions.classes
    return [
        {
            "split": predictions.split,
            "image": predictions.paths[row],
            "label": classes[label],
            "said": classes[other],
            "probability_of_label": round(float(of_each[label]), 6),
            "probability_of_said": round(float(of_each[other]), 6),
        }
        for row, label, other, of_each in zip(rows, predictions.targets[rows], said, probabilities, strict=True)
    ]
