"""Comparison of several runs: leaderboard, paired tests, differing config values, curves and prediction flips."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opsin.evaluation.comparison.leaderboard import Leaderboard, LeaderboardRow, leaderboard
from opsin.evaluation.comparison.paired_tests import PairwiseResult, RunPair, pairwise_results
from opsin.evaluation.comparison.recipes import REPEATS
from opsin.evaluation.comparison.row_names import UNNAMED_GROUPS
from opsin.evaluation.comparison.run_records import RunRecord, collect, with_tags
from opsin.evaluation.confidence_intervals import Interval
from opsin.runs.flat_keys import flat_scalars
from opsin.runs.metric_registry import RANKING_METRIC
from opsin.runs.result import ROUNDING_SETTINGS

ENVIRONMENT = (
    *(f"settings.{name}" for name in ROUNDING_SETTINGS),
    *("hardware.cpu", "hardware.cores", "hardware.gpus", "weights", "commit"),
    *(f"versions.{name}" for name in ("python", "torch", "torchvision", "lightning", "opsin")),
)
"""Keys of `result.json` besides the config that can explain different metrics."""


@dataclass(frozen=True)
class Flip:
    """An image that one of two runs classifies correctly and the other one does not.

    Attributes:
        position: Position of the image in its split.
        path: Origin of the image.
        target: True class.
        predicted: Classes that a and b predict.
        probabilities: Probabilities that a and b assign to their predicted class.
    """

    position: int
    path: str
    target: str
    predicted: tuple[str, str]
    probabilities: tuple[float, float]


@dataclass(frozen=True)
class Flips:
    """Prediction flips between two runs, sorted by the difference in the probability of the true class.

    Attributes:
        run_pair: The two runs.
        only_a: Images that only a classifies correctly, at most the requested number.
        only_b: Images that only b classifies correctly, at most the requested number.
    """

    run_pair: RunPair
    only_a: tuple[Flip, ...]
    only_b: tuple[Flip, ...]


@dataclass(frozen=True)
class Difference:
    """A key whose values differ between rows.

    Attributes:
        key: Dotted key.
        values: One value for each row, in their order; empty if the row has no value or null.
    """

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Comparison of several runs.

    Attributes:
        leaderboard: The ranked rows.
        pairwise: Paired tests of the best row of each group against every other row of the group.
        config: Config values that differ.
        environment: Hardware, versions and resolved `auto` settings that differ.
    """

    leaderboard: Leaderboard
    pairwise: tuple[PairwiseResult, ...]
    config: tuple[Difference, ...]
    environment: tuple[Difference, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; unknown values are null."""
        board = self.leaderboard
        return {
            "metric": board.metric,
            "higher_is_better": board.higher_is_better,
            "rows": [_row_dict(row) for row in board.rows],
            "groups": [{"name": g.name, "split": g.split, "images": g.count} for g in board.groups],
            "ranking_problems": board.ranking_problems(),
            "pairwise": [_pairwise_dict(result) for result in self.pairwise],
            "config": {difference.key: list(difference.values) for difference in self.config},
            "environment": {difference.key: list(difference.values) for difference in self.environment},
            "without_result": [
                {"run": str(record.run.path), "status": record.status, "reason": record.reason}
                for record in board.without_result
            ],
            "superseded": [str(record.run.path) for record in board.superseded],
            "without_metric": [str(record.run.path) for record in board.without_metric],
        }


def compare(paths: Sequence[str | Path], metric: str = RANKING_METRIC, tags: Sequence[str] = ()) -> Comparison:
    """Compare runs.

    Args:
        paths: Run directories, sweeps or folders of runs.
        metric: The metric that ranks them: `test/...` or `val/...`.
        tags: Only runs with all of these tags.

    Raises:
        UserError: A path contains no run, or no run has the tags or the metric.
    """
    board = leaderboard(with_tags(collect(paths), tags), metric)
    rows = board.rows
    config = _differences(rows, [_merged(row.runs, _choices_and_values) for row in rows])
    implied = {f"{difference.key}._target_" for difference in config}  # the option of the group implies the target
    config = tuple(difference for difference in config if difference.key not in implied)
    environment = [_merged(row.runs, lambda run: _environment(flat_scalars(asdict(run.result)))) for row in rows]
    return Comparison(board, tuple(pairwise_results(board)), config, _differences(rows, environment))


def flips(result: PairwiseResult, count: int) -> Flips:
    """Return the prediction flips between the first run pair of two rows, at most `count` in each direction."""
    pair = result.run_pairs[0]
    a, b = pair.a.predictions(result.split), pair.b.predictions(result.split)
    assert a is not None
    assert b is not None
    rows, of_a, of_b = np.arange(len(a)), a.probabilities, b.probabilities
    difference = np.abs(of_a[rows, a.targets] - of_b[rows, b.targets])
    found = []
    for mask in (a.correct & ~b.correct, ~a.correct & b.correct):
        chosen = np.flatnonzero(mask)
        chosen = chosen[np.argsort(-difference[chosen], kind="stable")][:count]
        found.append(
            tuple(
                Flip(
                    int(a.positions[i]),
                    a.paths[i],
                    a.classes[a.targets[i]],
                    (a.classes[a.predicted[i]], b.classes[b.predicted[i]]),
                    (float(of_a[i].max()), float(of_b[i].max())),
                )
                for i in chosen
            )
        )
    return Flips(pair, *found)


def curve(row: LeaderboardRow, metric: str) -> tuple[list[float], list[float]]:
    """Return the epochs and the metric at each, averaged over the runs of a row that reached the epoch."""
    by_epoch: dict[float, list[float]] = {}
    for run in row.runs:
        for epoch in run.history:
            if (value := epoch.get(metric)) is not None:
                by_epoch.setdefault(epoch.epoch, []).append(value)
    epochs = sorted(by_epoch)
    return epochs, [sum(by_epoch[epoch]) / len(by_epoch[epoch]) for epoch in epochs]


def _choices_and_values(run: RunRecord) -> dict[str, Any]:
    return {key: option for key, option in run.choices.items() if key not in UNNAMED_GROUPS} | dict(run.config)


def _environment(values: dict[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ENVIRONMENT if key in values}


def _merged(runs: Sequence[RunRecord], values: Callable[[RunRecord], Mapping[str, Any]]) -> dict[str, str]:
    """Return the values of several runs by key; different values of one key are joined by commas."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for key, value in values(run).items():
            if (text := str(value)) not in found.setdefault(key, []):
                found[key].append(text)
    return {key: ", ".join(texts) for key, texts in found.items()}


def _differences(rows: Sequence[LeaderboardRow], values: Sequence[Mapping[str, str]]) -> tuple[Difference, ...]:
    keys = sorted({key for row in values for key in row}, key=lambda key: ("." in key, key))  # config groups first
    found = [Difference(key, tuple(row.get(key, "") for row in values)) for key in keys]
    return tuple(difference for difference in found if len(rows) > 1 and len(set(difference.values)) > 1)


def _row_dict(row: LeaderboardRow) -> dict[str, Any]:
    return {
        "letter": row.letter,
        "name": row.name,
        "tags": list(row.tags),
        "rank": row.rank,
        "group": row.group,
        "runs": [str(run.run.path) for run in row.runs],
        "repetitions": [dict(zip(REPEATS, run.repetition, strict=True)) for run in row.runs],
        "metrics": {name: _interval_dict(interval) for name, interval in row.metrics.items()},
        "parameters": row.parameters,
        "trainable": row.trainable,
        "images_per_second": row.images_per_second,
        "seconds": row.seconds,
    }


def _pairwise_dict(result: PairwiseResult) -> dict[str, Any]:
    over_seeds = result.difference_over_seeds
    return {
        "a": result.a.letter,
        "b": result.b.letter,
        "better": result.better.letter if result.better else None,
        "conclusion": result.conclusion,
        "explanation": result.explanation,
        "split": result.split,
        "images": result.images,
        "accuracy": list(result.accuracy),
        "difference": _interval_dict(result.difference),
        "difference_over_seeds": _interval_dict(over_seeds) if over_seeds else None,
        "p": result.p,
        "p_adjusted": result.p_adjusted,
        "comparisons": result.comparisons,
        "run_pairs": [
            {"a": str(pair.a.run.path), "b": str(pair.b.run.path), **asdict(pair.test)} for pair in result.run_pairs
        ],
    }


def _interval_dict(interval: Interval) -> dict[str, float | None]:
    """Return an interval with null for NaN and infinity, which JSON does not have."""
    return {key: value if math.isfinite(value) else None for key, value in interval._asdict().items()}
