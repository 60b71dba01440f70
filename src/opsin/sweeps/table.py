"""What a person sees of a sweep: the runs under way, and in the end a row for each."""

import csv
import io
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from opsin.evaluation.comparison.run_records import REPEATS
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.epochs import read_epochs
from opsin.runs.metric_registry import sort_key
from opsin.runs.result import RunResult
from opsin.sweeps.runner import Running
from opsin.sweeps.search_space import Space
from opsin.sweeps.trials import Outcome, Trial, Trials

MOST_ROWS = 30
"""Rows that are printed of the last table; `sweep.csv` has them all."""

PLAIN_WIDTH = 160
"""Columns where there is no terminal that has a width."""


def console() -> Console:
    """Where a sweep prints; wide enough for a table where it is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(width=PLAIN_WIDTH, highlight=False)


class ProgressTable:
    """The runs under way: a live table on a terminal, elsewhere a line for each run that ends.

    Args:
        console: to print on.
        space: of the sweep.
        metric: the monitored one.
        total: how many trials there are.
        done: how many of them had ended before.
        slots: how many run at once.
    """

    def __init__(self, console: Console, space: Space, metric: str, total: int, done: int, slots: int) -> None:
        self._console, self._space, self._metric = console, space, metric
        self._total, self._done, self._slots = total, done, slots
        self._begun: dict[int, float] = {}
        self._took: list[float] = []
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "ProgressTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Tell what came of a trial."""
        self._done += 1
        if trial.number in self._begun:
            self._took.append(time.monotonic() - self._begun.pop(trial.number))
        said = outcome.reason or " ".join(f"{value:.6g}" for value in outcome.values)
        line = f"{self._done}/{self._total}  trial {trial.number} {outcome.state}  {said}"
        self.say(f"{line}  {self._space.shown(trial.choices)}{self._left()}")

    def say(self, line: str) -> None:
        """Print a line above what is drawn."""
        self._console.print(line, markup=False, soft_wrap=True)

    def watch(self, running: Sequence[Running]) -> None:
        """Draw what runs, a few times a second."""
        for job in running:
            self._begun.setdefault(job.trial.number, job.since)
        if self._live and time.monotonic() - self._drawn > 0.25:
            self._drawn = time.monotonic()
            table = Table("trial", "words", "epoch", self._metric, "best", "time left", box=None)
            for job in running:
                table.add_row(str(job.trial.number), self._space.shown(job.trial.choices), *self._progress(job))
            table.caption = f"{self._done} of {self._total} have ended{self._left()}"
            self._live.update(table, refresh=True)

    def _left(self) -> str:
        if not self._took or self._done >= self._total:
            return ""
        seconds = statistics.mean(self._took) * (self._total - self._done) / self._slots
        return f"  about {_duration(seconds)} left"

    def _progress(self, running: Running) -> tuple[str, str, str, str]:
        """Epoch, the metric there, its best, and the time left, of one run."""
        run = running.job.run
        rows, settings = read_epochs(run.metrics), run.read_result().settings
        epochs = settings.max_epochs if settings else None
        values = [value for row in rows if (value := row.get(self._metric)) is not None]
        if not values:
            return f"0/{epochs or '?'}", "", "", ""
        best = min(values, key=partial(sort_key, self._metric))
        spent = time.monotonic() - running.since
        left = _duration(spent / len(rows) * (epochs - len(rows))) if epochs else ""
        return f"{len(rows)}/{epochs or '?'}", f"{values[-1]:.4f}", f"{best:.4f}", left


@dataclass(frozen=True)
class TrialRow:
    """A trial in the last table.

    Attributes:
        number: of the trial.
        words: that tell it apart.
        shown: the same for people, numbers rounded.
        recipe: the words without those of REPEATS.
        state: complete, pruned, failed, running or waiting.
        values: of the objectives; empty unless it is complete.
        reason: why it failed.
        run: its directory.
        result: what that says.
    """

    number: int
    words: str
    shown: str
    recipe: str
    state: str
    values: tuple[float, ...]
    reason: str
    run: RunDirectory
    result: RunResult

    def metric(self, name: str) -> str:
        """A metric, as text; empty where there is none."""
        value = self.result.metrics.get(name)
        return "" if value is None else f"{value:.4f}"


def read_rows(folder: Path, objectives: Sequence[str], trials: Trials, space: Space) -> list[TrialRow]:
    """Every trial of a sweep, the best first; of several objectives, by the first."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    rows = []
    for trial in trials.all():
        run = RunDirectory(folder / str(trial.user_attrs.get("run", "none")))
        state = states.get(trial.state.name, trial.state.name.lower())
        known = len(trial.params) == len(space.dimensions)  # not of one that was killed while it was claimed
        words = space.varied(trial.params) if known else ""
        shown = space.shown(trial.params) if known else ""
        recipe = space.varied(trial.params, without=REPEATS) if known else ""
        values = tuple(trial.values) if state == "complete" else ()
        reason = str(trial.user_attrs.get("reason", ""))
        rows.append(TrialRow(trial.number, words, shown, recipe, state, values, reason, run, run.read_result()))
    return sorted(rows, key=lambda row: (sort_key(objectives[0], row.values[0] if row.values else None), row.number))


def tell(rows: Sequence[TrialRow], objectives: Sequence[str], folder: Path, console: Console) -> None:
    """Print the table and the reasons of what failed, and write all rows to `sweep.csv`."""
    metrics = [name for name in ("val/acc", "test/acc") if name not in objectives]
    header = ["trial", "words", *objectives, *metrics, "epochs", "seconds", "state", "run"]

    def cells(row: TrialRow, words: str) -> list[str]:
        seconds = row.result.seconds.get("total")
        return [
            str(row.number),
            words,
            *([f"{value:.6g}" for value in row.values] or [""] * len(objectives)),
            *[row.metric(name) for name in metrics],
            "" if row.result.epochs is None else str(row.result.epochs),
            "" if seconds is None else f"{seconds:.0f}",
            row.state,
            row.run.path.name,
        ]

    written = io.StringIO()
    lines = [[*cells(row, row.words), row.reason] for row in rows]
    csv.writer(written, lineterminator="\n").writerows([[*header, "reason"], *lines])
    write_atomically(folder / "sweep.csv", written.getvalue())
    table = Table(*header, title=f"sweep by {objectives[0]}: {folder}", title_justify="left")
    for row in rows[:MOST_ROWS]:
        table.add_row(*cells(row, row.shown))
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"the best {MOST_ROWS} of {len(rows)}; all are in {folder / 'sweep.csv'}")
    for row in rows:
        if row.state == "failed":
            console.print(f"failed: {row.run.path.name}: {row.reason}", markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
