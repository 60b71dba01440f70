"""Summarize the result of a run as text: the accuracy with its interval, and remarks on it."""

from dataclasses import dataclass

from opsin.evaluation.confidence_intervals import Interval, accuracy_interval
from opsin.runs.directory import OUTPUT_DIR
from opsin.runs.predictions import Predictions
from opsin.runs.quoting import opsin_command
from opsin.runs.result import RunResult
from opsin.visualization.formatting import percent, split_name


@dataclass(frozen=True)
class ResultSummary:
    """The result of a run as text.

    Attributes:
        accuracy: Accuracy on the split, with its 95 % interval.
        split: test, or val if no test images were predicted.
        headline: The result in one sentence.
        remarks: Sentences that put the result into context.
    """

    accuracy: Interval
    split: str
    headline: str
    remarks: tuple[str, ...]


def summarize_result(name: str, result: RunResult, predictions: Predictions) -> ResultSummary:
    """Summarize the result of a run.

    Args:
        name: Name of the network.
        result: Content of the run's `result.json`.
        predictions: Predictions of test, or of val if there are none of test.
    """
    images, correct = len(predictions), int(predictions.correct.sum())
    accuracy = accuracy_interval(correct, images)
    classes = len(predictions.classes)
    data = result.data.name if result.data else "its data"
    headline = (
        f"{name} classifies {percent(accuracy.estimate)} of {images:,} {split_name(predictions.split)} images of "
        f"{data} correctly ({classes} classes, 95 % interval {percent(accuracy.low)} to {percent(accuracy.high)})."
    )
    remarks = (_baseline(predictions, accuracy), _validity(result, predictions), *_overfitting(result, accuracy))
    return ResultSummary(accuracy, predictions.split, headline, remarks)


def _baseline(predictions: Predictions, accuracy: Interval) -> str:
    wrong = len(predictions) - int(predictions.correct.sum())
    shares = [float((predictions.targets == i).mean()) for i in range(len(predictions.classes))]
    largest = max(range(len(shares)), key=shares.__getitem__)
    constant = f"Always predicting {predictions.classes[largest]} is correct for {percent(shares[largest])}"
    if accuracy.low <= shares[largest]:
        return f"This is not significantly better than a constant prediction. {constant}."
    one_in = f", about one in {round(len(predictions) / wrong):,}" if 0 < wrong <= len(predictions) / 2 else ""
    return f"{wrong:,} image{' is' if wrong == 1 else 's are'} misclassified{one_in}. {constant}."


def _validity(result: RunResult, predictions: Predictions) -> str:
    if predictions.split == "test":
        return (
            "The interval covers the random choice of these test images. It does not cover other kinds of images, nor "
            "the variation between seeds: to measure that, train several seeds and compare them: "
            f"{opsin_command('compare', OUTPUT_DIR)}."
        )
    selected = "The best epoch was selected on the same images, so this accuracy is too optimistic."
    if result.tested:
        return f"{selected} The best checkpoint was tested, but its predictions of the test images cannot be read."
    return f"{selected} The best checkpoint has not been tested on the test images."


def _overfitting(result: RunResult, accuracy: Interval) -> tuple[str, ...]:
    """Return a sentence that compares training and validation accuracy, if both are known."""
    train, val = result.metrics.get("train/acc"), result.metrics.get("val/acc")
    if train is None or val is None:
        return ()
    accuracies = (
        f"At the best epoch, the accuracy was {percent(train)} on training images (with augmentation, if any) and "
        f"{percent(val)} on validation images"
    )
    if train - val > max(0.02, 2 * (accuracy.high - accuracy.low)):
        return (f"{accuracies}: the gap indicates overfitting.",)
    return (f"{accuracies}.",)
