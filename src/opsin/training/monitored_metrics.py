"""Checks of every metric that a config names, before anything is loaded, and again once the data are known.

A metric is named by `monitor.metric`, by callbacks (Opsin's, Lightning's and the user's) and by the plateau schedule.
Whether lower or higher is better follows from the metric (`opsin.runs.metric_registry`).
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from opsin.config.run_config import ConfigOrigin
from opsin.errors import UserError
from opsin.runs.metric_registry import check_measured, check_monitored, higher_is_better, mode, split_of
from opsin.training.permitted_targets import CALLBACKS

if TYPE_CHECKING:
    from opsin.data import ImageDataModule

LIGHTNING_COUNTERS = ("epoch", "step")
"""Values that Lightning's ModelCheckpoint can monitor besides metrics; both directions make sense."""


def resolve_directions(tree: Mapping[str, Any], origin: ConfigOrigin) -> dict[str, Any]:
    """Check every monitored metric of a config, and fill in the `mode` of callbacks that take one.

    Args:
        tree: The composed config: plain, resolved values.
        origin: Where values were set, for messages.

    Returns:
        The config; callbacks that have a parameter `mode` get the direction of their metric.

    Raises:
        UserError: A metric does not exist, may not be monitored, is never measured, or has the wrong direction.
    """
    callbacks = dict(tree.get("callbacks") or {})
    calls = {f"callbacks.{name}": _target(section) for name, section in _callbacks(tree)}  # registers a user's metrics
    for path, section in _monitoring_sections(tree):
        key, name = _metric_of(path, section)
        if name is None or (path in calls and name in LIGHTNING_COUNTERS):
            continue
        try:
            check_monitored(name, key)
            check_measured(name, key, tree.get("trainer") or {})
            if _takes_mode(calls.get(path)):
                _check_mode(name, f"{path}.mode", section.get("mode"))
                callbacks[path.removeprefix("callbacks.")] = {**section, "mode": mode(name)}
            elif "mode" in section:
                raise UserError(f"{path}.mode cannot be set: {_direction(name)}; remove it")
        except UserError as error:
            where = origin.of(key)
            raise UserError(f"{error}  [set {where}]" if where else str(error)) from None
    return {**tree, "callbacks": callbacks}


def check_measurable(tree: Mapping[str, Any], data: "ImageDataModule") -> None:
    """Check that the data allow every monitored metric to be measured.

    Args:
        tree: The composed config.
        data: The datamodule after `setup("fit")`.

    Raises:
        UserError: The area under the ROC curve is monitored on a split that has images of one class only.
    """
    counts: Mapping[str, list[int]] = data.facts()["class_counts"]
    for place, name in _monitored(tree):
        split = split_of(name)
        if name == f"{split}/auroc" and sum(count > 0 for count in counts[split]) < 2:
            raise UserError(
                f"{place}={name} is never measured: the {split} images are all of one class. "
                f"Monitor {split}/loss, or give every class {split} images"
            )


def _monitored(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return every key of a config that names a metric, with the metric."""
    found = [_metric_of(path, section) for path, section in _monitoring_sections(tree)]
    return [(key, name) for key, name in found if name is not None]


def _metric_of(path: str, section: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the key that names a metric in a section, and the metric; None if no key does."""
    key = "metric" if path == "monitor" else "monitor"
    name = section.get(key)
    return f"{path}.{key}", name if isinstance(name, str) else None


def _monitoring_sections(tree: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in ("monitor", "scheduler"):
        if isinstance(tree.get(path), Mapping):
            yield path, tree[path]
    yield from ((f"callbacks.{name}", section) for name, section in _callbacks(tree))


def _callbacks(tree: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    section = tree.get("callbacks")
    items = section.items() if isinstance(section, Mapping) else ()
    return [(str(name), item) for name, item in items if isinstance(item, Mapping)]


def _target(section: Mapping[str, Any]) -> Callable[..., Any] | None:
    with contextlib.suppress(UserError):  # the validation reports a target that is not allowed
        return CALLBACKS.resolve(section.get("_target_"))
    return None


def _takes_mode(call: Callable[..., Any] | None) -> bool:
    return call is not None and "mode" in inspect.signature(call).parameters


def _check_mode(name: str, place: str, given: Any) -> None:
    if given is not None and given != mode(name):
        raise UserError(
            f"{place}={given} is wrong for {name}: {_direction(name)}; set {place}={mode(name)} or remove it"
        )


def _direction(name: str) -> str:
    better = "higher" if higher_is_better(name) else "lower"
    return f"the direction follows from the metric ({name}: {better} is better)"
