"""What the predictions of a run tell, as charts and rows of a report."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from opsin.evaluation.calibration import fit_temperature, negative_log_likelihood, reliability, temperature_scaled
from opsin.evaluation.confusion import class_table, confused_pairs, confusion_matrix
from opsin.runs.predictions import Predictions
from opsin.visualization.charts import Bar, horizontal_bars, reliability_bars
from opsin.visualization.confusion_matrix_svg import confusion_chart
from opsin.visualization.formatting import split_name

MOST_BARS = 15
MOST_PAIRS = 10


@dataclass(frozen=True)
class Calibration:
    """Whether the network is as sure as it is right, before and after its logits are divided by a temperature.

    Attributes:
        split: Of the images that are judged.
        temperature: Fitted on val; None: there are no predictions of val, or it would be judged on val itself.
        ece: Expected calibration error as it is, and at the temperature.
        nll: Cross-entropy in nats, likewise.
        charts: Reliability diagrams, likewise.
    """

    split: str
    temperature: float | None
    ece: tuple[float, ...]
    nll: tuple[float, ...]
    charts: tuple[Markup, ...]

    @property
    def words(self) -> str:
        """What the temperature says."""
        if self.temperature is None:
            return ""
        if abs(self.temperature - 1) < 0.05:
            return "It is about as sure as it should be."
        if self.temperature > 1:
            return "Above 1: it is more sure of itself than it should be."
        return "Below 1: it is less sure of itself than it could be."


def calibration(predictions: Mapping[str, Predictions]) -> Calibration:
    """Reliability on test before and after temperature scaling fitted on val; on val alone only before.

    Args:
        predictions: Of val, of test or of both.
    """
    judged = predictions.get("test") or predictions["val"]
    fitted = predictions["val"] if judged.split == "test" and "val" in predictions else None
    temperature = None if fitted is None else fit_temperature(fitted.logits, fitted.targets)
    ece, nll, charts = [], [], []
    for value, title in ((1.0, "as it is"), (temperature, f"at temperature {temperature or 0:.2f}")):
        if value is None:
            continue
        bins = reliability(temperature_scaled(judged.logits, value), judged.targets)
        ece.append(bins.ece)
        nll.append(negative_log_likelihood(judged.logits / value, judged.targets))
        charts.append(
            reliability_bars(bins.confidence.tolist(), bins.accuracy.tolist(), bins.counts.tolist(), title=title)
        )
    return Calibration(judged.split, temperature, tuple(ece), tuple(nll), tuple(charts))


def confusion(predictions: Predictions) -> Markup:
    """The confusion matrix."""
    title = f"Confusion matrix, {len(predictions):,} {split_name(predictions.split)} images"
    return confusion_chart(confusion_matrix(predictions), predictions.classes, title=title)


def class_bars(predictions: Predictions) -> Markup:
    """The share of each class's images that is found, the least first."""
    rows = sorted((row for row in class_table(predictions) if row.count), key=lambda row: row.recall.estimate)
    bars = [
        Bar(row.name, row.recall.estimate, row.recall.low, row.recall.high, f"{row.count:,} images") for row in rows
    ]
    title = "Recall by class" if len(bars) <= MOST_BARS else f"Recall, the {MOST_BARS} lowest of {len(bars)} classes"
    least = min((row.recall.low for row in rows), default=0.0)
    return horizontal_bars(bars[:MOST_BARS], title=title, low=math.floor(least * 20) / 20 if least > 0.5 else 0, high=1)


def pair_rows(predictions: Predictions) -> list[tuple[str, str, int, int]]:
    """The most confused pairs: true class, predicted class, how many images, of how many of the true class."""
    totals = confusion_matrix(predictions).sum(axis=1)
    return [
        (predictions.classes[pair.true], predictions.classes[pair.predicted], pair.images, int(totals[pair.true]))
        for pair in confused_pairs(predictions, MOST_PAIRS)
    ]
