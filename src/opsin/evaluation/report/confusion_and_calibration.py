"""Sections of a report made from predictions: confusion, classes and calibration, as charts and table rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from opsin.evaluation.calibration import calibrate, negative_log_likelihood, reliability, temperature_scaled
from opsin.evaluation.confusion import class_table, confused_pairs, confusion_matrix
from opsin.runs.metric_registry import ECE_BINS
from opsin.runs.predictions import Predictions
from opsin.runs.result import Calibration
from opsin.visualization.charts import Bar, horizontal_bars, reliability_bars
from opsin.visualization.confusion_matrix_svg import confusion_chart
from opsin.visualization.formatting import split_name

MAX_BARS = 15
MAX_PAIRS = 10


@dataclass(frozen=True)
class CalibrationSection:
    """Calibration before and after temperature scaling.

    Attributes:
        split: Split on which the calibration is evaluated.
        temperature: Temperature fitted on val; None if it is 1 or cannot be evaluated on test.
        reason: Why the temperature is 1; None otherwise.
        recorded: Whether the run recorded the temperature; otherwise it was fitted for this section.
        ece: Expected calibration error without temperature scaling, then with it.
        nll: Cross-entropy in nats without temperature scaling, then with it.
        charts: Reliability diagrams without temperature scaling, then with it.
        bins: Number of bins of the ECE and of the diagrams.
    """

    split: str
    temperature: float | None
    ece: tuple[float, ...]
    nll: tuple[float, ...]
    charts: tuple[Markup, ...]
    reason: str | None = None
    recorded: bool = True
    bins: int = ECE_BINS

    @property
    def interpretation(self) -> str:
        """The meaning of the temperature in one sentence."""
        if self.temperature is None:
            return ""
        if abs(self.temperature - 1) < 0.05:
            return "A temperature near 1 means that the network is well calibrated."
        if self.temperature > 1:
            return "A temperature above 1 means that the network is overconfident."
        return "A temperature below 1 means that the network is underconfident."


def calibration_section(
    predictions: Mapping[str, Predictions], recorded: Calibration | None = None
) -> CalibrationSection:
    """Evaluate calibration on test, before and after temperature scaling fitted on val; without test, on val only.

    Args:
        predictions: Predictions of val, of test or of both, by split.
        recorded: The temperature that the run recorded; None fits it.
    """
    evaluated = predictions.get("test") or predictions["val"]
    known = recorded
    if known is None and "val" in predictions:
        known = calibrate(predictions["val"].logits, predictions["val"].targets)
    shown = known is not None and known.reason is None and evaluated.split == "test"
    temperature = known.temperature if known and shown else None
    ece, nll, charts = [], [], []
    titles = ((1.0, "Without temperature scaling"), (temperature, f"With temperature {temperature or 0:.2f}"))
    for value, title in titles:
        if value is None:
            continue
        bins = reliability(temperature_scaled(evaluated.logits, value), evaluated.targets)
        ece.append(bins.ece)
        nll.append(negative_log_likelihood(evaluated.logits / value, evaluated.targets))
        charts.append(
            reliability_bars(bins.confidence.tolist(), bins.accuracy.tolist(), bins.counts.tolist(), title=title)
        )
    reason = known.reason if known else None
    return CalibrationSection(
        evaluated.split, temperature, tuple(ece), tuple(nll), tuple(charts), reason, recorded is not None
    )


def confusion_matrix_chart(predictions: Predictions) -> Markup:
    """Return the confusion matrix as a chart."""
    title = f"Confusion matrix of {len(predictions):,} {split_name(predictions.split)} images"
    return confusion_chart(confusion_matrix(predictions), predictions.classes, title=title)


def recall_bars(predictions: Predictions) -> Markup:
    """Return the recall of each class as a bar chart, lowest first."""
    rows = sorted((row for row in class_table(predictions) if row.count), key=lambda row: row.recall.estimate)
    bars = [
        Bar(row.name, row.recall.estimate, row.recall.low, row.recall.high, f"{row.count:,} images") for row in rows
    ]
    title = "Recall by class" if len(bars) <= MAX_BARS else f"The {MAX_BARS} lowest recalls of {len(bars)} classes"
    lowest = min((row.recall.low for row in rows), default=0.0)
    start = math.floor(lowest * 20) / 20 if lowest > 0.5 else 0
    return horizontal_bars(bars[:MAX_BARS], title=title, low=start)


def confused_pair_rows(predictions: Predictions) -> list[tuple[str, str, int, int]]:
    """Return the most confused pairs: true class, predicted class, images, and images of the true class."""
    totals = confusion_matrix(predictions).sum(axis=1)
    return [
        (predictions.classes[pair.true], predictions.classes[pair.predicted], pair.images, int(totals[pair.true]))
        for pair in confused_pairs(predictions, MAX_PAIRS)
    ]
