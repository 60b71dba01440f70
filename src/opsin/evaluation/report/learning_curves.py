"""Learning curves: one chart per metric with train and val, and the best epoch marked."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from opsin.runs.epochs import EpochRow
from opsin.runs.result import RunResult
from opsin.visualization.charts import Series, line_chart, small_multiples
from opsin.visualization.formatting import number, percent

SPLITS = ("train", "val")
FIRST = ("loss", "acc", "f1_macro", "auroc", "ece")
"""Order of the charts; other metrics follow."""

TITLES = {
    "loss": "loss",
    "acc": "accuracy",
    "f1_macro": "F1 (macro)",
    "auroc": "area under the ROC curve",
    "ece": "calibration error",
    "lr": "learning rate",
}
SHARES = ("acc", "f1_macro", "ece")
LOG_FROM = 20
"""The axis of the loss is logarithmic if the ratio of its largest and smallest value is above this."""


def best_epoch(rows: Sequence[EpochRow], result: RunResult, monitor: Mapping[str, Any]) -> int | None:
    """Return the epoch of the best checkpoint, as recorded, or by the monitored metric if the run has not ended."""
    if result.best_epoch:
        return result.best_epoch
    name, sign = monitor.get("metric"), -1 if monitor.get("mode") == "max" else 1
    values = [(row.get(str(name)), row.epoch) for row in rows]
    known = [(sign * value, epoch) for value, epoch in values if value is not None and math.isfinite(value)]
    return min(known, default=(0.0, None), key=lambda pair: pair[0])[1]


def learning_curves(rows: Sequence[EpochRow], best: int | None) -> Markup:
    """Return charts of all metrics by epoch."""
    names = list(dict.fromkeys(name.split("/", 1)[1] for row in rows for name in row.values if "/" in name))
    ordered = [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]
    charts = [_chart(rows, name, best) for name in ordered]
    epochs = [row.epoch for row in rows]
    rates = [row.get("lr") for row in rows]
    if any(rate is not None for rate in rates):
        charts.append(line_chart([Series("learning rate", epochs, rates)], title=TITLES["lr"], mark=best))
    return small_multiples(charts)


def _chart(rows: Sequence[EpochRow], name: str, best: int | None) -> Markup:
    epochs = [row.epoch for row in rows]
    series = [
        Series(split, epochs, [row.get(f"{split}/{name}") for row in rows], colour=i)
        for i, split in enumerate(SPLITS)
        if any(row.get(f"{split}/{name}") is not None for row in rows)
    ]
    values = [value for one in series for value in one.y if value is not None and value > 0]
    log = name == "loss" and bool(values) and max(values) > LOG_FROM * min(values)
    title = TITLES.get(name, name) + (" (logarithmic)" if log else "")
    return line_chart(series, title=title, log=log, mark=best, text=percent if name in SHARES else number)
