"""Results of a model: predictions and explanations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opsin.api.notebook_html import caption, picture
from opsin.inference.prediction_writers import most_probable


@dataclass(frozen=True)
class ClassPrediction:
    """Prediction for one image.

    Attributes:
        label: The most probable class.
        probability: Its probability.
        probabilities: Probability of each class by name, in the order of the model's classes; their sum is 1.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float]

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], classes: Sequence[str]) -> "ClassPrediction":
        """Return the prediction for the probabilities `(C,)` of some classes."""
        [(label, probability)] = most_probable(probabilities, classes, 1)
        return cls(label, probability, dict(zip(classes, probabilities.tolist(), strict=True)))

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the `k` most probable classes and their probabilities, highest first."""
        return most_probable(np.array(list(self.probabilities.values())), list(self.probabilities), k)


@dataclass(frozen=True, eq=False)
class Explanation:
    """The regions of an image that increase the score of a class.

    Attributes:
        label: The explained class.
        probability: Its probability.
        heatmap: `(H, W)` float32 in [0, 1] at the input size of the model; high values increase the score.
        overlay: The image with the map over it.
        better_than_random: Whether the most important pixels of the map matter more to the model than pixels chosen
            at random; None if this was not checked.
        statement: The result of this check in one sentence, with its numbers; empty if it was not checked.
    """

    label: str
    probability: float
    heatmap: NDArray[np.float32] = field(repr=False)
    overlay: Image.Image
    better_than_random: bool | None = None
    statement: str = ""

    def _repr_html_(self) -> str:
        text = f"{self.label} {self.probability:.1%}"
        return picture(np.asarray(self.overlay), text) + caption(self.statement)
