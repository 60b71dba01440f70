"""Learning curves: one chart per metric with train and val, and the best epoch marked."""

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from opsin.runs.directory import RunDirectory
from opsin.visualization.charts import Series, line_chart, small_multiples
from opsin.visualization.formatting import number, percent

Row = Mapping[str, float | None]

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


def read_epochs(run: RunDirectory) -> list[Row]:
    """The rows of `metrics.csv`; none before the first epoch has ended. What an epoch lacks is None."""
    try:
        text = run.metrics.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [{name: _value(cell) for name, cell in row.items() if name} for row in csv.DictReader(text.splitlines())]


def best_epoch(rows: Sequence[Row], result: Mapping[str, Any], monitor: Mapping[str, Any]) -> int | None:
    """Return the epoch of the best checkpoint, as recorded, or by the monitored metric if the run has not ended."""
    if result.get("best_epoch"):
        return int(result["best_epoch"])
    name, sign = monitor.get("metric"), -1 if monitor.get("mode") == "max" else 1
    values = [(row.get(str(name)), row["epoch"]) for row in rows]
    known = [(sign * value, epoch) for value, epoch in values if value is not None and math.isfinite(value)]
    found = min(known, default=(0.0, None), key=lambda pair: pair[0])[1]
    return None if found is None else int(found)


def learning_curves(rows: Sequence[Row], best: int | None) -> Markup:
    """Return charts of all metrics by epoch."""
    names = list(dict.fromkeys(name.split("/", 1)[1] for row in rows for name in row if "/" in name))
    ordered = [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]
    charts = [_chart(rows, name, best) for name in ordered]
    epochs = [row["epoch"] or 0 for row in rows]
    rates = [row.get("lr") for row in rows]
    if any(rate is not None for rate in rates):
        charts.append(line_chart([Series("learning rate", epochs, rates)], title=TITLES["lr"], mark=best))
    return small_multiples(charts)


def _chart(rows: Sequence[Row], name: str, best: int | None) -> Markup:
    epochs = [row["epoch"] or 0 for row in rows]
    series = [
        Series(split, epochs, [row.get(f"{split}/{name}") for row in rows], color=i)
        for i, split in enumerate(SPLITS)
        if any(row.get(f"{split}/{name}") is not None for row in rows)
    ]
    values = [value for one in series for value in one.y if value is not None and value > 0]
    log = name == "loss" and bool(values) and max(values) > LOG_FROM * min(values)
    title = TITLES.get(name, name) + (" (logarithmic)" if log else "")
    return line_chart(series, title=title, log=log, mark=best, text=percent if name in SHARES else number)


def _value(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None
