"""All metrics in one table: names, direction (higher or lower is better), splits and display names.

All code that compares metric values reads the direction from this table: best checkpoint, early stopping, plateau
schedule, pruning, sweep objectives, leaderboard and reports. A metric is named `SPLIT/NAME`, such as `val/acc`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opsin.errors import UserError, did_you_mean

SPLITS = ("train", "val", "test")
"""Splits in the order in which they are shown."""

MONITORED_SPLITS = ("train", "val")
"""Splits whose metrics may control training."""

RANKING_METRIC = "test/acc"
"""Metric by which runs are ranked, unless another one is chosen."""


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        name: Name without the split, such as `acc`.
        title: Display name in charts, tables and reports.
        higher_is_better: Direction.
        splits: Splits on which it is measured; empty for a quantity of a whole run, such as `parameters`.
        percent: Whether values lie in [0, 1] and are shown as percentages.
        logarithmic: Whether charts may use a logarithmic axis.
    """

    name: str
    title: str
    higher_is_better: bool
    splits: tuple[str, ...] = SPLITS
    percent: bool = False
    logarithmic: bool = False


_BUILT_IN = (
    Metric("loss", "loss", higher_is_better=False, logarithmic=True),
    Metric("acc", "accuracy", higher_is_better=True, percent=True),
    Metric("f1_macro", "F1 (macro)", higher_is_better=True, percent=True),
    Metric("auroc", "area under the ROC curve", higher_is_better=True),
    Metric("ece", "calibration error", higher_is_better=False, percent=True),
    Metric("parameters", "parameters", higher_is_better=False, splits=()),
    Metric("seconds", "training time", higher_is_better=False, splits=()),
)

_TABLE = {metric.name: metric for metric in _BUILT_IN}

ECE_BINS = 15
"""Number of bins of the expected calibration error, `ece`: of equal width, over the probability of the predicted class.

torchmetrics computes it during training (`opsin.training.metrics`), and `opsin.evaluation.calibration.reliability` for
saved predictions.
"""


def register_metric(
    name: str,
    *,
    higher_is_better: bool,
    title: str = "",
    splits: Sequence[str] = ("val", "test"),
    percent: bool = False,
) -> None:
    """Add a metric that your own callback logs. Call this in the module that defines the callback.

    The callback then logs it under its full name, for example `pl_module.log("val/top5", value)`.

    Args:
        name: Name without the split, such as `top5`.
        higher_is_better: Direction.
        title: Display name; the name if empty.
        splits: Splits on which the callback logs it.
        percent: Whether values lie in [0, 1] and are shown as percentages.

    Raises:
        UserError: The name or a split is not valid, or the name is registered with other properties.
    """
    if not name or "/" in name:
        raise UserError(f"register_metric: {name!r} must be a name without the split, such as 'top5'")
    wrong = [split for split in splits if split not in SPLITS]
    if wrong or not splits:
        raise UserError(f"register_metric: splits of {name} must be some of {', '.join(SPLITS)}, got {wrong}")
    metric = Metric(name, title or name, higher_is_better, tuple(splits), percent)
    if _TABLE.setdefault(name, metric) != metric:
        raise UserError(f"register_metric: {name} is registered already, as {_TABLE[name]}; choose another name")


def custom_metrics() -> tuple[Metric, ...]:
    """Return the registered metrics, for the result of a run."""
    return tuple(metric for metric in _TABLE.values() if metric not in _BUILT_IN)


def register_recorded(recorded: Iterable[Metric]) -> None:
    """Register the metrics that a run recorded by `custom_metrics`.

    Raises:
        UserError: Two runs, or a run and this process, define one name differently.
    """
    for metric in recorded:
        options = {key: getattr(metric, key) for key in ("higher_is_better", "title", "splits", "percent")}
        register_metric(metric.name, **options)


def metric_names(splits: Sequence[str] = SPLITS) -> list[str]:
    """Return the full names of all metrics that are measured on the given splits, by split."""
    return [f"{split}/{metric.name}" for split in splits for metric in _TABLE.values() if split in metric.splits]


def split_of(name: str) -> str:
    """Return the split of a full metric name; empty if the name has none, such as `lr`."""
    split, slash, _ = name.partition("/")
    return split if slash and split in SPLITS else ""


def metric_row(name: str) -> Metric | None:
    """Return the row of a metric by its full name or its name without the split; None if it is not registered."""
    split = split_of(name)
    metric = _TABLE.get(name.removeprefix(f"{split}/"))
    return metric if metric and (not split or split in metric.splits) else None


def metric_title(name: str) -> str:
    """Return the display name of a metric without its split; an unregistered name stays as it is."""
    metric = metric_row(name)
    return metric.title if metric else name.removeprefix(f"{split_of(name)}/")


def is_percentage(name: str) -> bool:
    """Return whether values of a metric are shown as percentages."""
    metric = metric_row(name)
    return metric is not None and metric.percent


def is_logarithmic(name: str) -> bool:
    """Return whether charts of a metric may use a logarithmic axis."""
    metric = metric_row(name)
    return metric is not None and metric.logarithmic


def higher_is_better(name: str) -> bool:
    """Return the direction of a metric.

    Raises:
        UserError: The metric is not registered.
    """
    metric = metric_row(name)
    if metric is None:
        raise UserError(unknown_metric(name))
    return metric.higher_is_better


def mode(name: str) -> Literal["min", "max"]:
    """Return `max` if higher is better, else `min` (the names that Lightning and torch use)."""
    return "max" if higher_is_better(name) else "min"


def sort_key(name: str, value: float | None) -> float:
    """Return a number that sorts values of a metric from best to worst; None, NaN and infinity come last."""
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if higher_is_better(name) else value


def changed_loss(name: str, configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys by which some configs measure a loss differently; their values of it cannot be compared.

    The loss of train and val has the terms of a teacher, if there is one; the loss of test has not.

    Args:
        name: Full name of the metric; no key changes another metric than the loss.
        configs: Values of each config by dotted key.
    """
    split, _, last = name.partition("/")
    if last != "loss":
        return []
    defined = [
        {
            key: value
            for key, value in config.items()
            if key.startswith("loss.")
            or (split != "test" and config.get("model.teacher") and key.startswith(("distillation.", "model.teacher")))
        }
        for config in configs
    ]
    return sorted({key for one in defined for key in one if any(other.get(key) != one[key] for other in defined)})


def check_monitored(name: str, place: str, others: Sequence[str] = ()) -> None:
    """Check that training may depend on a metric.

    Args:
        name: Full name of the metric.
        place: The key that names it, for the message.
        others: Names that are valid there besides metrics, for the message.

    Raises:
        UserError: There is no such metric, or it is measured on the test images.
    """
    if split_of(name) == "test":
        raise UserError(
            f"{place}={name}: metrics of the test images cannot be monitored, because the test images are read once, "
            f"after training; use {name.replace('test/', 'val/', 1)}"
        )
    if metric_row(name) is None or not split_of(name):
        raise UserError(f"{place}={name}: {unknown_metric(name, [*metric_names(MONITORED_SPLITS), *others])}")


def check_measured(name: str, place: str, trainer: Mapping[str, Any]) -> None:
    """Check that a run validates at least once if a metric is measured on the validation images.

    Args:
        name: Full name of the metric.
        place: The key that names it, for the message.
        trainer: Options of the trainer.

    Raises:
        UserError: The trainer options leave out every validation.
    """
    if split_of(name) != "val":
        return
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    cause = ""
    if trainer.get("limit_val_batches") == 0:
        cause = "trainer.limit_val_batches=0 turns validation off; raise it"
    elif isinstance(every, int) and isinstance(epochs, int) and every > epochs >= 1:
        cause = f"trainer.check_val_every_n_epoch={every} is above trainer.max_epochs={epochs}; lower it"
    if cause:
        raise UserError(f"{place}={name} is never measured: {cause}, or use a metric of train/")


def unknown_metric(name: str, known: Sequence[str] | None = None) -> str:
    """Return the message for a name that is not in the table, with the nearest name."""
    known = metric_names() if known is None else known
    by_title = {f"{split_of(full)}/{metric_title(full)}": full for full in known if split_of(full)}
    hint = did_you_mean(name, [*known, *by_title])  # val/accuracy suggests val/acc
    for title, full in by_title.items():
        hint = hint.replace(f" {title}?", f" {full}?")
    return (
        f"there is no metric {name}{hint or '.'} Known metrics: {', '.join(known)}. "
        "A metric of your own callback needs opsin.runs.metric_registry.register_metric."
    )
