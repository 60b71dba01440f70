"""Checks that compare the files of a run with its digests and with each other; they need no images."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from opsin.commands.verify.checkpoint_contents import callback_state, read_checkpoint, training_record
from opsin.commands.verify.checks import Check, compared, missing
from opsin.config import RunConfig
from opsin.config.resume_rules import changed_values, changes_without_training
from opsin.errors import UserError
from opsin.inference.opened_run import OpenedRun
from opsin.runs.digests import DIGESTS, changed_files, read_digests
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import metric_row, sort_key
from opsin.runs.metrics_csv import read_epochs
from opsin.runs.result import RunResult
from opsin.training.plan import with_defaults
from opsin.training.precision import LIGHTNING_PRECISION
from opsin.training.resume_check import average_refusal

DATA_FACTS = ("fingerprint", "dataset", "classes", "image_size", "mean", "std", "channels")
"""Facts of the data that checkpoints and result.json share and that do not change during a run."""

KINDS = {
    "config.yaml": "config",
    "overrides.yaml": "config",
    "checkpoints": "checkpoints",
    "predictions": "predictions",
}
"""Check of the digests by file or folder; other files belong to the result."""


def check_digests(run: RunDirectory) -> list[Check]:
    """Compare the files of a run with the digests that it recorded at its end: one check per kind of file."""
    try:
        digests = read_digests(run.path)
    except UserError as error:
        return [Check("digests", "differs", str(error))]
    if digests is None:
        return [missing("digests", f"{DIGESTS} is missing: it was removed, or another version wrote the run")]
    changed = changed_files(run.path, digests)
    checks = []
    for kind in ("config", "result", "checkpoints", "predictions"):
        names = [name for name in digests.files if KINDS.get(name.split("/")[0], "result") == kind]
        found = {name: changed[name] for name in names if name in changed}
        differences = [f"{name} has changed" for name, state in found.items() if state == "changed"]
        gone = [f"{name} is {state}" for name, state in found.items() if state != "changed"]
        check = compared(f"digests: {kind}", differences, f"{len(names)} files as recorded")
        if gone and not differences:
            check = missing(check.name, "; ".join(gone))
        checks.append(check)
    return checks


def check_records(opened: OpenedRun, result: RunResult) -> Check:
    """Compare result.json, config.yaml and metrics.csv with what the checkpoints hold."""
    run = opened.directory
    states = {}
    for file in (run.best, run.last):
        try:
            states[file.name] = read_checkpoint(file)
        except FileNotFoundError:
            return missing("records", f"{file.name} is missing")
        except Exception as error:  # a damaged file raises anything
            return Check("records", "differs", f"{file.name} is damaged ({type(error).__name__})")
    try:
        differences = list(_differences(opened, result, states))
    except (UserError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return Check("records", "differs", f"a file is damaged ({type(error).__name__}: {error})")
    return compared("records", differences, "result.json, config.yaml and metrics.csv agree with the checkpoints")


def _differences(opened: OpenedRun, result: RunResult, states: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield all differences, given the checkpoints by name."""
    try:
        opened.network  # noqa: B018 - built from the config, and filled from best.ckpt
        yield from _differences_of_config(opened.config, states["last.ckpt"])
    except UserError as error:
        yield str(error)
    for name, state in states.items():
        yield from _differences_of_data(name, state, result)
        yield from _differences_of_best(name, states, result)
    yield from _differences_of_settings(opened, result)
    yield from _differences_of_epochs(opened.directory, result)


def _differences_of_data(name: str, state: Mapping[str, Any], result: RunResult) -> list[str]:
    facts = state.get("opsin", {}).get("data", {})
    return [
        f"data.{key} differs between result.json and {name}"
        for key in DATA_FACTS
        if _as_list(facts.get(key)) != _as_list(getattr(result.data, key))
    ]


def _differences_of_best(name: str, states: Mapping[str, Mapping[str, Any]], result: RunResult) -> list[str]:
    """Compare the best epoch: each checkpoint records the best one until then."""
    state = states[name]
    best = callback_state(state, "Checkpoints")
    recorded = {n: value for n, value in result.metrics.items() if not n.startswith("test/")}
    monitor = result.monitor
    measured = best.get("metrics", {})
    pairs = {n: (recorded.get(n), measured.get(n)) for n in dict.fromkeys([*recorded, *measured])}
    pairs["best_epoch"] = (result.best_epoch, best.get("epoch"))
    if monitor:
        pairs["monitor.best"] = (monitor.best, best.get("value"))
        pairs[f"monitor.metric {monitor.metric}"] = (monitor.best, measured.get(monitor.metric))
    if name == "last.ckpt":
        pairs["epochs"] = (result.epochs, best.get("epochs"))
    # NaN, which repr shows, equals itself here
    found = [f"{key} is {a} in result.json and {b} in {name}" for key, (a, b) in pairs.items() if repr(a) != repr(b)]
    if (step := states["best.ckpt"].get("global_step")) != best.get("step"):
        found.append(f"best.ckpt is from step {step}, and {name} records step {best.get('step')} as the best")
    return found


def _differences_of_config(config: RunConfig, state: Mapping[str, Any]) -> list[str]:
    """Compare config.yaml with the config of the last training step; some values may change afterwards."""
    record = training_record(state)
    trained = config.with_text(record.config)
    changes, tree = changed_values(config, trained), with_defaults(config.tree)
    wrong = [
        key
        for key, change in changes.items()
        if average_refusal(key, change) or not changes_without_training(key, change[1], tree, changes)
    ]
    return [f"{key} is {changes[key][1]} in config.yaml and was {changes[key][0]} in training" for key in wrong]


def _differences_of_settings(opened: OpenedRun, result: RunResult) -> list[str]:
    """Compare the settings in result.json with the config, where the config sets them."""
    options, settings = opened.plan.trainer, result.settings
    if settings is None:
        return ["result.json has no settings"]
    precision = str(options.precision)
    pairs = {
        "precision": (LIGHTNING_PRECISION.get(precision, precision), settings.precision),
        "threads": (options.threads, settings.threads),
        "max_epochs": (options.max_epochs, settings.max_epochs),
        "compile": (options.compile, settings.compile),
        "deterministic": (options.deterministic, settings.deterministic),
        "batch_size": (opened.plan.data.batch_size, settings.batch_size),
    }
    chosen = {key: pair for key, pair in pairs.items() if getattr(options, key, None) != "auto"}
    return [f"settings.{key} is {b} in result.json and {a} in config.yaml" for key, (a, b) in chosen.items() if a != b]


def _differences_of_epochs(run: RunDirectory, result: RunResult) -> list[str]:
    """Compare the best epoch with metrics.csv, if the run has one: its metrics, and that no other epoch is better."""
    every = read_epochs(run.metrics)
    rows = [row for row in every if row.epoch == result.best_epoch]
    found = [
        f"{name} is {value} in result.json and {rows[0].values[name]} in metrics.csv"
        for name, value in result.metrics.items()
        if rows and name in rows[0].values and repr(rows[0].values[name]) != repr(value)
    ]
    if (monitor := result.monitor) and metric_row(monitor.metric):
        key = functools.partial(sort_key, monitor.metric)
        found += [
            f"{monitor.metric} is better after epoch {row.epoch} in metrics.csv than after the best epoch, "
            f"{result.best_epoch}"
            for row in every
            if key(row.get(monitor.metric)) < key(monitor.best)
        ]
    return found


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
