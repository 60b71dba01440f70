"""Runs in order: those that differ by the seed only as one row, ranked among those measured on the same images."""

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opsin.errors import UserError
from opsin.evaluation.comparison.row_names import letter, names
from opsin.evaluation.comparison.run_records import RunRecord, read_record
from opsin.evaluation.confidence_intervals import Interval, t_interval
from opsin.runs.directory import RunDirectory


@dataclass(frozen=True)
class LeaderboardRow:
    """A recipe: the runs of one config, which differ by seed or fold only.

    Attributes:
        letter: A for the best; unique in a leaderboard.
        name: What sets it apart from the other rows, in words of the command line.
        runs: At least one, by seed and fold; each repetition once.
        metrics: Mean over the runs, with its 95 % interval by Student's t (NaN ends where there is one run).
        rank: From 1, among the rows of the same images; None: it cannot be ranked.
        board: Which images it was measured on: an index of `Leaderboard.boards`; None: that is not known.
    """

    letter: str
    name: str
    runs: tuple[RunRecord, ...]
    metrics: dict[str, Interval]
    rank: int | None = None
    board: int | None = None

    @property
    def parameters(self) -> int | None:
        """Number of parameters of the network, frozen ones included."""
        counts = self.runs[0].result.parameters
        return counts.total if counts else None

    @property
    def trainable(self) -> int | None:
        """Parameters that trained when the run began."""
        counts = self.runs[0].result.parameters
        return counts.trainable if counts else None

    @property
    def images_per_second(self) -> float | None:
        """Training images per second, the mean over the runs."""
        return _mean(run.result.throughput for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Wall time of a run, the mean over the runs."""
        return _mean(run.result.seconds.get("total") for run in self.runs)

    @property
    def repeats(self) -> str:
        """How often the recipe was run, in words: `3 seeds`, `5 folds`, `1 run`."""
        kinds = [len({run.repetition[i] for run in self.runs}) for i in (0, 1)]
        if len(self.runs) == 1:
            return "1 run"
        one_kind = "seeds" if kinds[1] == 1 else "folds" if kinds[0] == 1 else "runs"
        return f"{len(self.runs)} {one_kind}"


@dataclass(frozen=True)
class ComparableGroup:
    """What rows of one rank order were measured on.

    Attributes:
        name: Of the dataset.
        split: test or val.
        count: Of images that one run was measured on.
        images: Digests, one for each division of the images among the runs.
        seeds: By which they were carved out of the training images; empty where the dataset brings them.
    """

    name: str
    split: str
    count: int
    images: frozenset[str]
    seeds: tuple[Any, ...] = ()

    @property
    def described(self) -> str:
        """Which images these are, in words."""
        carved = f", carved by seed {', '.join(map(str, self.seeds))}" if self.seeds else ""
        return f"{self.count:,} images{carved}"


@dataclass(frozen=True)
class Leaderboard:
    """Runs in order.

    Attributes:
        metric: What ranks them, such as `test/acc`.
        mode: min or max: whether less or more of it is better.
        rows: By board, the best first; those that cannot be ranked last.
        boards: Of more than one, rows are ranked only within each.
        others: Runs without a result: failed, interrupted or damaged.
        repeated: Finished runs that repeat config, seed and fold of a newer one, which counts instead.
    """

    metric: str
    mode: str
    rows: tuple[LeaderboardRow, ...]
    boards: tuple[ComparableGroup, ...]
    others: tuple[RunRecord, ...]
    repeated: tuple[RunRecord, ...] = field(default=())

    @property
    def split(self) -> str:
        """The split of the metric: test or val."""
        return self.metric.split("/")[0]

    def on(self, board: int | None) -> list[LeaderboardRow]:
        """The rows measured on one board; of None those whose images are not known."""
        return [row for row in self.rows if row.board == board]

    def refusals(self) -> list[str]:
        """Why not all rows stand in one order: one sentence for each cause, with the way out."""
        said = []
        if len(self.boards) > 1:
            said.append(self._other_images())
        said.extend(self._unknown(row) for row in self.rows if row.rank is None)
        return said

    def _other_images(self, most: int = 5) -> str:
        sides = [
            f"{', '.join(row.letter for row in self.on(i))} on {board.name} ({board.described})"
            for i, board in enumerate(self.boards)
        ]
        more = [f"and {len(sides) - most} more"] if len(sides) > most else []
        way_out = (
            f" Carved {self.split} images are the same where every recipe has the same seeds, or all runs have the "
            "same datamodule.split_seed."
        )
        return (
            f"Not ranked together, because their {self.split} images differ: {'; '.join(sides[:most] + more)}. "
            "A number on other images says nothing about which is better."
        ) + way_out * any(board.seeds for board in self.boards)

    def _unknown(self, row: LeaderboardRow) -> str:
        if self.metric not in row.metrics:
            return f"{row.letter} ({row.name}) is not ranked: it has no {self.metric}."
        lacking = next(run for run in row.runs if run.images(self.split) is None)
        return (
            f"{row.letter} ({row.name}) is not ranked: which {self.split} images it was measured on is not known, "
            f"because no predictions were kept: python scripts/evaluate.py {lacking.run.path} --split {self.split} "
            "makes them."
        )


def leaderboard(runs: Iterable[RunDirectory | RunRecord], metric: str = "test/acc") -> Leaderboard:
    """Put runs in order.

    Args:
        runs: In any state; those without a result are listed, and not ranked.
        metric: `test/...` or `val/...`, as in `result.json`.

    Raises:
        UserError: No finished run has such a metric.
    """
    records = [run if isinstance(run, RunRecord) else read_record(run) for run in runs]
    finished = [record for record in records if record.metrics]
    others = tuple(record for record in records if not record.metrics)
    _check_metric(metric, finished)
    groups, repeated = _grouped(finished, metric.split("/")[0])
    mode = "min" if metric.endswith(("/loss", "/ece")) else "max"
    sign = 1 if mode == "min" else -1
    rows = [LeaderboardRow("", "", group, _metrics(group)) for group in groups]
    rows, boards = _boarded(rows, metric)

    def order(row: LeaderboardRow) -> tuple[float, float, str]:
        place = len(boards) if row.board is None else row.board
        value = row.metrics[metric].estimate if metric in row.metrics else math.nan
        return place, math.inf if math.isnan(value) else value * sign, row.name

    ranked: list[LeaderboardRow] = []
    for i, row in enumerate(sorted(_named(rows), key=order)):
        before = [r for r in ranked if r.board == row.board and r.board is not None]
        tied = before and before[-1].metrics[metric].estimate == row.metrics[metric].estimate
        rank = None if row.board is None else before[-1].rank if tied else len(before) + 1
        ranked.append(replace(row, letter=letter(i), rank=rank))
    return Leaderboard(metric, mode, tuple(ranked), tuple(boards), others, tuple(repeated))


def _check_metric(metric: str, finished: Sequence[RunRecord]) -> None:
    if not finished:  # there is nothing to rank, only something to list
        return
    known = sorted({name for run in finished for name in run.metrics if not name.startswith("train/")})
    if metric not in known:
        near = difflib.get_close_matches(metric, known, n=1)
        hint = f": did you mean {near[0]}?" if near else "."
        raise UserError(f"--metric {metric}: no finished run has it{hint} There are {', '.join(known)}.")


def _grouped(records: Sequence[RunRecord], split: str) -> tuple[list[tuple[RunRecord, ...]], list[RunRecord]]:
    """Runs of one config together, and those that only repeat another run.

    Images that the dataset brings have to be the same too: files may have changed between two runs.
    """
    groups: dict[Any, dict[tuple[Any, ...], RunRecord]] = {}
    repeated = []
    for record in sorted(records, key=lambda record: record.run.result.stat().st_mtime, reverse=True):
        images = None if _is_carved(record, split) else record.images(split)
        group = groups.setdefault((frozenset(record.config.items()), images), {})
        if group.setdefault(record.repetition, record) is not record:
            repeated.append(record)
    return [tuple(group[key] for key in sorted(group, key=_repetition_order)) for group in groups.values()], repeated


def _repetition_order(repetition: tuple[Any, ...]) -> tuple[float, ...]:
    return tuple(-1.0 if value is None else float(value) for value in repetition)


def _metrics(runs: Sequence[RunRecord]) -> dict[str, Interval]:
    """Every metric that all runs have, over the runs."""
    shared = set.intersection(*(set(run.metrics) for run in runs))
    return {name: t_interval([run.metrics[name] for run in runs]) for name in sorted(shared)}


def _boarded(rows: Sequence[LeaderboardRow], metric: str) -> tuple[list[LeaderboardRow], list[ComparableGroup]]:
    """Rows with the images that they were measured on."""
    split = metric.split("/")[0]
    boards: list[ComparableGroup] = []
    placed: list[LeaderboardRow] = []
    for row in rows:
        digests = {run.images(split) for run in row.runs}
        known = frozenset(digest for digest in digests if digest is not None)
        if None in digests or metric not in row.metrics:
            placed.append(row)
            continue
        place = next((i for i, board in enumerate(boards) if board.images == known), None)
        if place is None:
            data = row.runs[0].result.data
            name = data.name if data else "unknown data"
            boards.append(ComparableGroup(name, split, row.runs[0].count(split), known, _carved_by(row, split)))
            place = len(boards) - 1
        placed.append(replace(row, board=place))
    by_rows = sorted(range(len(boards)), key=lambda i: -sum(row.board == i for row in placed))
    placed = [row if row.board is None else replace(row, board=by_rows.index(row.board)) for row in placed]
    return placed, [boards[i] for i in by_rows]


def _named(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """Rows with names that set them apart from the others of their board."""
    named = []
    for board in dict.fromkeys(row.board for row in rows):
        own = [row for row in rows if row.board == board]
        found = names([row.runs[0] for row in own])
        named += [replace(row, name=name) for row, name in zip(own, found, strict=True)]
    return named


def _carved_by(row: LeaderboardRow, split: str) -> tuple[Any, ...]:
    seeds = {run.config.get("datamodule.split_seed", run.repetition[0]) for run in row.runs}
    return tuple(sorted(seeds, key=str)) if _is_carved(row.runs[0], split) else ()


def _is_carved(run: RunRecord, split: str) -> bool:
    return run.result.data is not None and run.result.data.origin.get(split) == "carved"


def _mean(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
