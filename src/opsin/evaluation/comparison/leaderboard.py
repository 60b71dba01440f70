"""Leaderboard of runs: seeds of one config share a row, and rows measured on the same images share a ranking."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opsin.errors import UserError
from opsin.evaluation.comparison.recipes import is_carved, recipes
from opsin.evaluation.comparison.row_names import letter, row_names
from opsin.evaluation.comparison.run_records import RunRecord, read_record
from opsin.evaluation.confidence_intervals import Interval, interval_over_runs
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import (
    RANKING_METRIC,
    changed_loss,
    higher_is_better,
    metric_names,
    register_recorded,
    sort_key,
    split_of,
    unknown_metric,
)
from opsin.runs.quoting import opsin_command


@dataclass(frozen=True)
class LeaderboardRow:
    """A recipe: the runs of one config, which differ only in seed or fold.

    Attributes:
        letter: A for the best row; unique in a leaderboard.
        name: The overrides that distinguish this row from the others.
        runs: At least one run, sorted by seed and fold; each repetition once.
        metrics: Mean over the runs with its 95 % interval by Student's t (the ends are NaN for a single run).
        rank: From 1, among the rows measured on the same images; None if the row cannot be ranked.
        group: Index into `Leaderboard.groups`; None if it is unknown which images the row was measured on.
    """

    letter: str
    name: str
    runs: tuple[RunRecord, ...]
    metrics: dict[str, Interval]
    rank: int | None = None
    group: int | None = None

    @property
    def parameters(self) -> int | None:
        """Number of parameters, including frozen ones."""
        counts = self.runs[0].result.parameters
        return counts.total if counts else None

    @property
    def trainable(self) -> int | None:
        """Number of parameters that were trainable when the run began."""
        counts = self.runs[0].result.parameters
        return counts.trainable if counts else None

    @property
    def images_per_second(self) -> float | None:
        """Training images per second, averaged over the runs."""
        return _mean(run.result.throughput for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Wall time of a run, averaged over the runs."""
        return _mean(run.result.seconds.get("total") for run in self.runs)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the runs, each once."""
        return tuple(dict.fromkeys(tag for run in self.runs for tag in run.result.tags))

    @property
    def repetitions(self) -> str:
        """Number of runs as text: `3 seeds`, `5 folds`, `1 run`."""
        seeds, folds = (len({run.repetition[i] for run in self.runs}) for i in (0, 1))
        if len(self.runs) == 1:
            return "1 run"
        unit = "seeds" if folds == 1 else "folds" if seeds == 1 else "runs"
        return f"{len(self.runs)} {unit}"


@dataclass(frozen=True)
class ComparableGroup:
    """The images that the rows of one ranking were measured on.

    Attributes:
        name: Name of the dataset.
        split: test or val.
        count: Number of images that one run was measured on.
        digests: Digests of the images, one for each way in which the dataset was split.
        split_seeds: Seeds of the splits if the images were split off the training images; empty if the dataset
            comes with this split.
    """

    name: str
    split: str
    count: int
    digests: frozenset[str]
    split_seeds: tuple[Any, ...] = ()

    @property
    def description(self) -> str:
        """Number of images, and the seeds that selected them."""
        seeds = ", ".join(map(str, self.split_seeds))
        plural = "s" if len(self.split_seeds) > 1 else ""
        return f"{self.count:,} images" + (f", split off by seed{plural} {seeds}" if seeds else "")


@dataclass(frozen=True)
class Leaderboard:
    """Ranked runs.

    Attributes:
        metric: The metric that ranks the rows, such as `test/acc`.
        rows: Sorted by group, then best first; rows that cannot be ranked come last.
        groups: The sets of images that rows were measured on; rows are ranked within a group only.
        without_result: Runs that failed, were pruned or interrupted, or cannot be read.
        superseded: Finished runs with the config, seed and fold of another run, the newest that has the metric.
        without_metric: Finished runs that do not have the metric, while other runs of their recipe have it.
    """

    metric: str
    rows: tuple[LeaderboardRow, ...]
    groups: tuple[ComparableGroup, ...]
    without_result: tuple[RunRecord, ...]
    superseded: tuple[RunRecord, ...] = field(default=())
    without_metric: tuple[RunRecord, ...] = field(default=())

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric."""
        return higher_is_better(self.metric)

    @property
    def split(self) -> str:
        """The split of the metric: test or val."""
        return split_of(self.metric)

    def ignored(self) -> list[tuple[RunRecord, str]]:
        """Return the finished runs that are in no row, each with the reason."""
        newer = f"another run has the same config and seed, and only the newest of them with {self.metric} counts"
        lacks = f"it has no {self.metric}, unlike other runs of its recipe"
        return [(run, newer) for run in self.superseded] + [(run, lacks) for run in self.without_metric]

    def rows_in(self, group: int | None) -> list[LeaderboardRow]:
        """Return the rows of one group; for None, the rows whose images are unknown."""
        return [row for row in self.rows if row.group == group]

    def ranking_problems(self) -> list[str]:
        """Return one sentence for each reason why the rows do not form a single ranking, and how to fix it."""
        different = [self._different_images()] if len(self.groups) > 1 else []
        return [*different, *self._different_losses(), *(self._unranked(row) for row in self.rows if row.rank is None)]

    def _different_losses(self) -> list[str]:
        groups = [[run.config for row in self.rows_in(i) for run in row.runs] for i in range(len(self.groups))]
        keys = list(dict.fromkeys(key for configs in groups for key in changed_loss(self.metric, configs)))
        if not keys:
            return []
        other = f"{self.split}/acc"
        return [
            f"{self.metric} does not show which row is better, because the rows measure different losses "
            f"({', '.join(keys)}). Rank by another metric: --metric {other} (in Python, metric={other!r})."
        ]

    def _different_images(self) -> str:
        most = 5
        groups = [
            f"{', '.join(row.letter for row in self.rows_in(i))} on {group.name} ({group.description})"
            for i, group in enumerate(self.groups)
        ]
        more = [f"and {len(groups) - most} more"] if len(groups) > most else []
        way_out = (
            f" Use the same seeds for every recipe, or the same datamodule.split_seed for all runs, to get the same "
            f"{self.split} images."
        )
        return (
            f"Not ranked together, because the {self.split} images differ: {'; '.join(groups[:most] + more)}. "
            "Metrics on different images do not show which row is better."
        ) + way_out * any(group.split_seeds for group in self.groups)

    def _unranked(self, row: LeaderboardRow) -> str:
        if self.metric not in row.metrics:
            on_val = self.metric.replace("test/", "val/")
            option = f"--metric {on_val} (in Python, metric={on_val!r})"
            way_out = f" Rank all by {on_val}, which it has: {option}." * (on_val in row.metrics)
            return f"{row.letter} ({row.name}) is not ranked: it has no {self.metric}.{way_out}"
        run = next(run for run in row.runs if run.images_digest(self.split) is None)
        return (
            f"{row.letter} ({row.name}) is not ranked: its {self.split} predictions were not saved, so it is unknown "
            f"which images it was measured on. Create them with: "
            + opsin_command("evaluate", run.run.path, "--split", self.split)
        )


def leaderboard(runs: Iterable[RunDirectory | RunRecord], metric: str = RANKING_METRIC) -> Leaderboard:
    """Rank runs by a metric.

    Args:
        runs: Runs in any state; those without a result are listed but not ranked.
        metric: `test/...` or `val/...`, as in `result.json`.

    Raises:
        UserError: No finished run has the metric.
    """
    records = [run if isinstance(run, RunRecord) else read_record(run) for run in runs]
    finished = [record for record in records if record.metrics]
    without_result = tuple(record for record in records if not record.metrics)
    _check_metric(metric, finished)
    found, superseded = recipes(finished, metric)
    counted = [tuple(run for run in runs if metric in run.metrics) or runs for runs in found]
    without_metric = [run for runs, kept in zip(found, counted, strict=True) for run in runs if run not in kept]
    rows, groups = _grouped([LeaderboardRow("", "", runs, _metrics(runs)) for runs in counted], metric)

    def order(row: LeaderboardRow) -> tuple[float, float, str]:
        group = len(groups) if row.group is None else row.group
        value = row.metrics[metric].estimate if metric in row.metrics else None
        return group, sort_key(metric, value), row.name

    ranked: list[LeaderboardRow] = []
    for i, row in enumerate(sorted(_named(rows), key=order)):
        before = [r for r in ranked if r.group == row.group and r.group is not None]
        tied = before and before[-1].metrics[metric].estimate == row.metrics[metric].estimate
        rank = None if row.group is None else before[-1].rank if tied else len(before) + 1
        ranked.append(replace(row, letter=letter(i), rank=rank))
    return Leaderboard(metric, tuple(ranked), tuple(groups), without_result, tuple(superseded), tuple(without_metric))


def _check_metric(metric: str, finished: Sequence[RunRecord]) -> None:
    for run in finished:
        register_recorded(run.result.custom_metrics)
    if metric not in (known := metric_names(("test", "val"))):
        raise UserError(f"metric {metric}: {unknown_metric(metric, known)}")
    if finished and not any(metric in run.metrics for run in finished):
        available = sorted({name for run in finished for name in run.metrics} & set(known))
        raise UserError(f"metric {metric}: no finished run has this metric. Available: {', '.join(available)}")


def _metrics(runs: Sequence[RunRecord]) -> dict[str, Interval]:
    """Return the mean and interval of every metric that all runs have."""
    shared = set.intersection(*(set(run.metrics) for run in runs))
    return {name: interval_over_runs([run.metrics[name] for run in runs]) for name in sorted(shared)}


def _grouped(rows: Sequence[LeaderboardRow], metric: str) -> tuple[list[LeaderboardRow], list[ComparableGroup]]:
    """Assign each row to the group of rows measured on the same images; the largest group comes first."""
    split = split_of(metric)
    groups: list[ComparableGroup] = []
    assigned: list[LeaderboardRow] = []
    for row in rows:
        digests = {run.images_digest(split) for run in row.runs}
        known = frozenset(digest for digest in digests if digest is not None)
        if None in digests or metric not in row.metrics:
            assigned.append(row)
            continue
        index = next((i for i, group in enumerate(groups) if group.digests == known), None)
        if index is None:
            data = row.runs[0].result.data
            name = data.name if data else "unknown data"
            groups.append(ComparableGroup(name, split, row.runs[0].image_count(split), known, _split_seeds(row, split)))
            index = len(groups) - 1
        assigned.append(replace(row, group=index))
    by_rows = sorted(range(len(groups)), key=lambda i: -sum(row.group == i for row in assigned))
    assigned = [row if row.group is None else replace(row, group=by_rows.index(row.group)) for row in assigned]
    return assigned, [groups[i] for i in by_rows]


def _named(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """Return the rows with names that distinguish them within their group."""
    named = []
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        found = row_names([row.runs[0] for row in members])
        named += [replace(row, name=name) for row, name in zip(members, found, strict=True)]
    return named


def _split_seeds(row: LeaderboardRow, split: str) -> tuple[Any, ...]:
    seeds = {run.config.get("datamodule.split_seed", run.repetition[0]) for run in row.runs}
    return tuple(sorted(seeds, key=str)) if is_carved(row.runs[0], split) else ()


def _mean(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
