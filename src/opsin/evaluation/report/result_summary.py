"""What came out, in words: one sentence with its interval, and what that means."""

from dataclasses import dataclass

from opsin.evaluation.confidence_intervals import Interval, wilson_interval
from opsin.runs.predictions import Predictions
from opsin.runs.result import RunResult
from opsin.visualization.formatting import percent, split_name


@dataclass(frozen=True)
class ResultSummary:
    """The result of a run.

    Attributes:
        accuracy: On the images of the split, with its 95 % interval.
        split: test; val where no test images were read.
        images: How many.
        sentence: The result.
        meaning: What it means, sentence by sentence.
    """

    accuracy: Interval
    split: str
    images: int
    sentence: str
    meaning: tuple[str, ...]


def verdict(name: str, result: RunResult, predictions: Predictions) -> ResultSummary:
    """The result of a run in words.

    Args:
        name: Of the network.
        result: The run's `result.json`.
        predictions: Of test; of val where there are none.
    """
    images, correct = len(predictions), int(predictions.correct.sum())
    accuracy = wilson_interval(correct, images)
    classes = len(predictions.classes)
    data = result.data.name if result.data else "its data"
    sentence = (
        f"{name} tells the {classes} classes of {data} apart with {percent(accuracy.estimate)} accuracy on "
        f"{images:,} {split_name(predictions.split)} images "
        f"(95 % interval {percent(accuracy.low)} to {percent(accuracy.high)})."
    )
    meaning = (_chance(predictions, accuracy), _reach(predictions), *_fit(result, accuracy))
    return ResultSummary(accuracy, predictions.split, images, sentence, meaning)


def _chance(predictions: Predictions, accuracy: Interval) -> str:
    wrong = len(predictions) - int(predictions.correct.sum())
    shares = [float((predictions.targets == i).mean()) for i in range(len(predictions.classes))]
    most = max(range(len(shares)), key=shares.__getitem__)
    always = f"always answering {predictions.classes[most]} would be right in {percent(shares[most])}"
    if accuracy.low <= shares[most]:
        return f"That is no better than chance, as far as these images tell: {always}."
    one_in = f", about one in {round(len(predictions) / wrong):,}" if 0 < wrong <= len(predictions) / 2 else ""
    return f"{wrong:,} images are told wrongly{one_in}; {always}."


def _reach(predictions: Predictions) -> str:
    if predictions.split == "test":
        return (
            "The interval says how far the choice of these test images reaches. It does not hold for images of another "
            "kind, nor for what another seed would give: that takes several runs, see scripts/compare.py."
        )
    return (
        "The best epoch was chosen on these very images, so the figure flatters; no test images have been read with "
        "the best checkpoint."
    )


def _fit(result: RunResult, accuracy: Interval) -> tuple[str, ...]:
    """What training and validation accuracy tell beside it."""
    train, val = result.metrics.get("train/acc"), result.metrics.get("val/acc")
    if train is None or val is None:
        return ()
    said = f"At the best epoch it was {percent(train)} on training images as augmented, {percent(val)} on validation"
    gap = train - val
    if gap > max(0.02, 2 * (accuracy.high - accuracy.low)):
        return (f"{said}: the gap says that it has learned some training images by heart.",)
    return (f"{said}.",)
