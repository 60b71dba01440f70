"""Conclusions from records, as sentences: against the figure of a lecture, and between rows.

A lecture states the result of one run. Its figure is compared with the prediction interval of one further run of ours,
which is wider than the interval of our mean. If the lecture has other test images, the interval also covers the choice
of both samples of images.

Two rows are compared with the rule of `opsin.evaluation.significance`: a difference counts if Student's t over seeds
and the bootstrap over the same images both find it. p is not adjusted: each comparison is one question that was asked
before the runs.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from benchmarks.reproduce.records import Record
from benchmarks.reproduce.rows import Figure
from opsin.evaluation.comparison.paired_tests import p_text
from opsin.evaluation.confidence_intervals import CONFIDENCE, Interval, accuracy_interval, interval_over_runs
from opsin.evaluation.significance import CorrectPair, accuracy_difference, excludes_zero, is_significant, t_test

ACCURACY = "test/acc"


def mean_accuracy(records: Sequence[Record]) -> Interval:
    """Return the mean test accuracy over seeds with its 95 % interval; of one run the interval over its images."""
    if len(records) == 1:
        correct = records[0].test_correct
        return accuracy_interval(int(correct.sum()), len(correct))
    return _of_accuracies(interval_over_runs([record.metrics[ACCURACY] for record in records]))


def _of_accuracies(interval: Interval) -> Interval:
    """Return an interval without the values that no accuracy has; Student's t does not know the limits."""
    return Interval(interval.estimate, max(0.0, interval.low), min(1.0, interval.high))


def further_run(records: Sequence[Record], figure: Figure) -> Interval:
    """Return the mean test accuracy with the 95 % prediction interval of one further run on the images of a lecture.

    Args:
        records: Runs of at least two seeds.
        figure: Figure of the lecture; an unknown number of test images is taken as equal to ours.
    """
    values = np.array([record.metrics[ACCURACY] for record in records])
    count, images, mean = len(values), records[0].counts["test"], float(values.mean())
    between_runs = max(float(values.var(ddof=1)), images**-2) * (1 + 1 / count)
    of_images = 0.0
    if figure.images != "same":
        theirs = images if figure.images == "unknown" else figure.images
        ours = sum(record.counts["test"] for record in {record.images: record for record in records}.values())
        of_images = mean * (1 - mean) * (1 / theirs + 1 / ours)
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * math.sqrt(between_runs + of_images)
    return _of_accuracies(Interval(mean, mean - margin, mean + margin))


def against_figure(records: Sequence[Record], figure: Figure) -> str:
    """Return whether the runs agree with the figure of a lecture."""
    if figure.is_minimum:
        interval, limit = mean_accuracy(records), f"{100 * figure.low:g} %"
        if interval.low > figure.low:
            return f"Confirmed: the 95 % interval of the mean lies above {limit}."
        if interval.high < figure.low:
            return f"Contradicted: the 95 % interval of the mean lies below {limit}."
        return f"Not distinguishable from {limit}: the 95 % interval of the mean contains it."
    if len(records) == 1:
        return f"One run is not enough to test the stated {figure.text}."
    further = further_run(records, figure)
    expected = f"a further run is expected between {percent(further.low)} and {percent(further.high)}"
    if further.low > figure.high:
        return f"Higher than the stated {figure.text}: {expected}."
    if further.high < figure.low:
        return f"Lower than the stated {figure.text}: {expected}."
    return f"Not distinguishable from the stated {figure.text}: {expected}."


def between_rows(records: Sequence[Record], other: str, others: Sequence[Record]) -> str:
    """Return whether two rows differ in test accuracy, by their runs with the same seed on the same images.

    Args:
        records: Records of the row.
        other: Name of the other row.
        others: The records of the other row.

    Returns:
        A sentence; empty if no two runs have the same seed and test images.
    """
    by_seed = {(record.seed, record.images): record for record in others}
    both = [(a, by_seed[a.seed, a.images]) for a in records if (a.seed, a.images) in by_seed]
    if not both:
        return ""
    found = accuracy_difference([CorrectPair(a.images, a.test_correct, b.test_correct) for a, b in both], paired=True)
    parts = [f"over {found.images:,} images {points(found.over_images)}"]
    if found.over_runs:
        parts.append(f"over {len(both)} seeds {points(found.over_runs)}")
    test = "McNemar's test of one pair of runs" if len(both) == 1 else "paired t test"
    numbers = f"95 % interval {', '.join(parts)}; {p_text(found.p)}, {test}"
    gain = 100 * found.over_images.estimate
    if not is_significant(found.p, len(both), found.over_images):
        return f"Not distinguishable from `{other}`: {gain:+z.2f} points ({numbers})."
    return f"{'Better' if gain > 0 else 'Worse'} than `{other}` by {abs(gain):.2f} points ({numbers})."


def metric_difference(metric: str, records: Sequence[Record], others: Sequence[Record]) -> tuple[Interval, int] | None:
    """Return a metric of a row minus that of another row with its 95 % interval, paired by seed.

    Returns:
        The interval and the number of common seeds; None for fewer than two.
    """
    by_seed = {record.seed: record.metrics[metric] for record in others}
    both = [(record.metrics[metric], by_seed[record.seed]) for record in records if record.seed in by_seed]
    if len(both) < 2:
        return None
    own, theirs = np.array(both).T
    return t_test(own, theirs, True, 1e-6)[0], len(both)


def gap(records: Sequence[Record]) -> str:
    """Return whether the networks learn, and whether they overfit in the last epochs.

    The rise of the validation loss is measured from the epoch with the lowest mean loss of the other seeds, so that the
    choice of the epoch does not bias it.
    """
    if len(records) < 2:
        return ""
    differences = [_last(record, "train/acc") - _last(record, "val/acc") for record in records]
    final = interval_over_runs(differences)
    rise = interval_over_runs(rises(records))
    overfits = rise.low > 0 and final.low > 0
    verdict = "It overfits" if overfits else "Overfitting is not distinguishable"
    return (
        f"{verdict}: in the last epoch, training accuracy minus validation accuracy is {100 * final.estimate:+z.1f} "
        f"points (95 % interval {100 * final.low:+z.1f} to {100 * final.high:+z.1f}), and the validation loss minus "
        f"its lowest value is {rise.estimate:+z.3f} ({rise.low:+z.3f} to {rise.high:+z.3f})."
    )


def gap_between(records: Sequence[Record], other: str, others: Sequence[Record]) -> str:
    """Return whether the gap between training and validation accuracy differs from that of another row."""
    by_seed = {record.seed: record for record in others}
    both = [(record, by_seed[record.seed]) for record in records if record.seed in by_seed]
    if len(both) < 2:
        return ""
    own, theirs = (
        np.array([_last(pair[side], "train/acc") - _last(pair[side], "val/acc") for pair in both]) for side in (0, 1)
    )
    difference, p = t_test(own, theirs, True, 1 / both[0][0].counts["val"])
    size = f"{100 * difference.estimate:+z.1f} points (95 % interval {points(difference)}, {p_text(p)})"
    if not excludes_zero(difference):
        return f"Its gap is not distinguishable from that of `{other}`: {size}."
    return f"Its gap is {'smaller' if difference.high < 0 else 'larger'} than that of `{other}`: {size}."


def divergence(records: Sequence[Record]) -> str:
    """Return the rise of the training loss if it ends above that of the first epoch with every seed."""
    losses = [[loss for loss in record.curves["train/loss"] if loss is not None] for record in records]
    if not all(curve and curve[-1] > curve[0] for curve in losses):
        return ""
    first, last, highest = np.mean([(curve[0], curve[-1], max(curve)) for curve in losses], axis=0)
    return (
        f"Training diverges: the training loss rises from {first:.3g} in the first epoch to {last:.3g} in the last "
        f"(highest: {highest:.3g})."
    )


def rises(records: Sequence[Record]) -> list[float]:
    """Return the rise of the validation loss of each seed, from the best epoch of the other seeds to the last epoch."""
    epochs = min(len(record.curves["val/loss"]) for record in records)
    losses = np.array([record.curves["val/loss"][:epochs] for record in records], float)
    found = []
    for i in range(len(records)):
        best = int(np.delete(losses, i, axis=0).mean(axis=0).argmin())
        found.append(float(losses[i, -1] - losses[i, best]))
    return found


def _last(record: Record, metric: str) -> float:
    value = record.curves[metric][-1]
    assert value is not None
    return value


def percent(value: float, places: int = 2) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.{places}f} %"


def points(interval: Interval) -> str:
    """Return the ends of an interval of a difference in percentage points."""
    return f"{100 * interval.low:+z.2f} to {100 * interval.high:+z.2f}"
