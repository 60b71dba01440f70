"""Several runs side by side: the leaderboard, its verdicts, what differs, the curves, and the images that flipped."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opsin.evaluation.comparison.leaderboard import Leaderboard, LeaderboardRow, leaderboard
from opsin.evaluation.comparison.paired_tests import PairwiseResult, RunPair, verdicts
from opsin.evaluation.comparison.row_names import QUIET
from opsin.evaluation.comparison.run_records import REPEATS, RunRecord, collect, flat
from opsin.evaluation.confidence_intervals import Interval

AROUND = (
    *(f"settings.{name}" for name in ("accelerator", "devices", "precision", "channels_last", "compile", "threads")),
    *("hardware.cpu", "hardware.cores", "hardware.gpus", "weights", "commit"),
    *(f"versions.{name}" for name in ("python", "torch", "torchvision", "lightning", "opsin")),
)
"""What else than the config can make numbers differ: keys of `result.json`."""


@dataclass(frozen=True)
class Flip:
    """An image that one of two runs tells rightly and the other wrongly.

    Attributes:
        position: Of the image in its split.
        path: Where it comes from.
        target: Its class.
        said: What a and what b take it for.
        probabilities: That a and that b give to what they take it for.
    """

    position: int
    path: str
    target: str
    said: tuple[str, str]
    probabilities: tuple[float, float]


@dataclass(frozen=True)
class Flips:
    """The images of one duel that flipped, those first on which the two runs are furthest apart.

    Attributes:
        duel: Of which runs.
        only_a: Right with a alone; at most as many as were asked for.
        only_b: Likewise.
    """

    duel: RunPair
    only_a: tuple[Flip, ...]
    only_b: tuple[Flip, ...]


@dataclass(frozen=True)
class Difference:
    """A key whose values differ between rows.

    Attributes:
        key: Dotted.
        values: One for each row, in their order; what a row lacks or has as null is empty.
    """

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        leaderboard: The rows.
        verdicts: The best row of each board against each other row of it.
        config: Keys of the config that differ.
        around: What else differs: hardware, versions, what `auto` became.
    """

    leaderboard: Leaderboard
    verdicts: tuple[PairwiseResult, ...]
    config: tuple[Difference, ...]
    around: tuple[Difference, ...]

    def facts(self) -> dict[str, Any]:
        """Everything as plain values, for JSON; what is not known is null."""
        board = self.leaderboard
        return {
            "metric": board.metric,
            "mode": board.mode,
            "rows": [_row_facts(row) for row in board.rows],
            "boards": [{"name": b.name, "split": b.split, "images": b.count} for b in board.boards],
            "refusals": board.refusals(),
            "verdicts": [_verdict_facts(verdict) for verdict in self.verdicts],
            "config": {difference.key: list(difference.values) for difference in self.config},
            "around": {difference.key: list(difference.values) for difference in self.around},
            "others": [{"run": str(r.run.path), "status": r.status, "reason": r.reason} for r in board.others],
            "repeated": [str(run.run.path) for run in board.repeated],
        }


def compare(places: Sequence[str | Path], metric: str = "test/acc") -> Comparison:
    """Compare runs.

    Args:
        places: Run directories, sweeps or folders of runs.
        metric: What ranks them: `test/...` or `val/...`.

    Raises:
        UserError: A place holds no run, or no run has the metric.
    """
    board = leaderboard(collect(places), metric)
    rows = board.rows
    config = _differences(rows, [_merged(row.runs, _choices_and_values) for row in rows])
    named = {f"{difference.key}._target_" for difference in config}  # what the choice of the part says already
    config = tuple(difference for difference in config if difference.key not in named)
    around = [_merged(row.runs, lambda run: _known(flat(asdict(run.result)))) for row in rows]
    return Comparison(board, tuple(verdicts(board)), config, _differences(rows, around))


def flips(verdict: PairwiseResult, count: int = 12) -> Flips:
    """The images of the first duel of a verdict that flipped, at most so many each way."""
    duel = verdict.duels[0]
    a, b = duel.a.predictions(verdict.split), duel.b.predictions(verdict.split)
    assert a is not None
    assert b is not None
    everything = np.arange(len(a))
    apart = np.abs(a.probabilities[everything, a.targets] - b.probabilities[everything, b.targets])
    found = []
    for mask in (a.correct & ~b.correct, ~a.correct & b.correct):
        chosen = np.flatnonzero(mask)
        chosen = chosen[np.argsort(-apart[chosen], kind="stable")][:count]
        found.append(
            tuple(
                Flip(
                    int(a.positions[i]),
                    a.paths[i],
                    a.classes[a.targets[i]],
                    (a.classes[a.predicted[i]], b.classes[b.predicted[i]]),
                    (float(a.probabilities[i].max()), float(b.probabilities[i].max())),
                )
                for i in chosen
            )
        )
    return Flips(duel, *found)


def curve(row: LeaderboardRow, metric: str) -> tuple[list[float], list[float]]:
    """A metric by epoch, the mean over the runs of a row that came to that epoch."""
    by_epoch: dict[float, list[float]] = {}
    for run in row.runs:
        for epoch in run.history:
            if (value := epoch.get(metric)) is not None:
                by_epoch.setdefault(epoch.epoch, []).append(value)
    epochs = sorted(by_epoch)
    return epochs, [sum(by_epoch[epoch]) / len(by_epoch[epoch]) for epoch in epochs]


def _choices_and_values(run: RunRecord) -> dict[str, Any]:
    return {key: option for key, option in run.choices.items() if key not in QUIET} | dict(run.config)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in AROUND if key in values}


def _merged(runs: Sequence[RunRecord], values: Callable[[RunRecord], Mapping[str, Any]]) -> dict[str, str]:
    """Values of several runs by key; those of one key that differ stand beside each other."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for key, value in values(run).items():
            if (text := str(value)) not in found.setdefault(key, []):
                found[key].append(text)
    return {key: ", ".join(texts) for key, texts in found.items()}


def _differences(rows: Sequence[LeaderboardRow], values: Sequence[Mapping[str, str]]) -> tuple[Difference, ...]:
    keys = sorted({key for of_row in values for key in of_row}, key=lambda key: ("." in key, key))  # parts first
    found = [Difference(key, tuple(of_row.get(key, "") for of_row in values)) for key in keys]
    return tuple(difference for difference in found if len(rows) > 1 and len(set(difference.values)) > 1)


def _row_facts(row: LeaderboardRow) -> dict[str, Any]:
    return {
        "letter": row.letter,
        "name": row.name,
        "rank": row.rank,
        "board": row.board,
        "runs": [str(run.run.path) for run in row.runs],
        "repetitions": [dict(zip(REPEATS, run.repetition, strict=True)) for run in row.runs],
        "metrics": {name: _interval_facts(interval) for name, interval in row.metrics.items()},
        "parameters": row.parameters,
        "trainable": row.trainable,
        "images_per_second": row.images_per_second,
        "seconds": row.seconds,
    }


def _verdict_facts(verdict: PairwiseResult) -> dict[str, Any]:
    return {
        "a": verdict.a.letter,
        "b": verdict.b.letter,
        "better": verdict.better.letter if verdict.better else None,
        "answer": verdict.answer,
        "reasons": verdict.reasons,
        "split": verdict.split,
        "images": verdict.images,
        "accuracy": list(verdict.accuracy),
        "gain": _interval_facts(verdict.gain),
        "over_seeds": _interval_facts(verdict.over_seeds) if verdict.over_seeds else None,
        "p": verdict.p,
        "p_adjusted": verdict.adjusted,
        "comparisons": verdict.comparisons,
        "duels": [
            {"a": str(duel.a.run.path), "b": str(duel.b.run.path), **asdict(duel.test)} for duel in verdict.duels
        ],
    }


def _interval_facts(interval: Interval) -> dict[str, float | None]:
    """An interval with null for what is not known: NaN is no JSON."""
    return {key: value if math.isfinite(value) else None for key, value in interval._asdict().items()}
