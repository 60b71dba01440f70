"""Learning curves: one chart per metric with train and val, and the best epoch marked."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from opsin.runs.metric_registry import (
    MONITORED_SPLITS,
    is_logarithmic,
    is_percentage,
    metric_names,
    metric_row,
    metric_title,
    sort_key,
)
from opsin.runs.metrics_csv import EpochRow, measured
from opsin.runs.result import RunResult
from opsin.visualization.charts import Series, line_chart, small_multiples
from opsin.visualization.formatting import number, percent

LOG_FROM = 20
"""The axis of the loss is logarithmic if the ratio of its largest and smallest value is above this."""


def best_epoch(rows: Sequence[EpochRow], result: RunResult, metric: str | None) -> float | None:
    """Return the epoch of the best checkpoint, as recorded, or by the monitored metric if the run has not ended."""
    if result.best_epoch:
        return result.best_epoch
    if metric is None or metric_row(metric) is None:
        return None
    best, epoch = min(((sort_key(metric, row.get(metric)), row.epoch) for row in rows), default=(math.inf, None))
    return None if epoch is None or math.isinf(best) else epoch


def learning_curves(rows: Sequence[EpochRow], best: float | None) -> Markup:
    """Return charts of all metrics by epoch."""
    names = list(dict.fromkeys(name.split("/", 1)[1] for row in rows for name in row.values if "/" in name))
    order = [name.split("/", 1)[1] for name in metric_names()]
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    charts = [_chart(rows, name, best) for name in names]
    epochs = [row.epoch for row in rows]
    rates = [row.get("lr") for row in rows]
    if any(rate is not None for rate in rates):
        charts.append(line_chart([Series("learning rate", epochs, rates)], title="learning rate", mark=best))
    return small_multiples(charts)


def _chart(rows: Sequence[EpochRow], name: str, best: float | None) -> Markup:
    points = {split: measured(rows, f"{split}/{name}") for split in MONITORED_SPLITS}
    series = [Series(split, *points[split], color=i) for i, split in enumerate(MONITORED_SPLITS) if points[split][0]]
    values = [value for one in series for value in one.y if value is not None and value > 0]
    log = is_logarithmic(name) and bool(values) and max(values) > LOG_FROM * min(values)
    title = metric_title(name) + (" (logarithmic)" if log else "")
    return line_chart(series, title=title, log=log, mark=best, text=percent if is_percentage(name) else number)
