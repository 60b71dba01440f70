"""Console output of a sweep: a progress table while it runs, and a table of all trials at the end."""

import csv
import io
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.escaping import CSVLines
from opsin.runs.metric_registry import sort_key
from opsin.runs.metrics_csv import read_epochs
from opsin.runs.rich_console import TerminalConsole
from opsin.sweeps.best_run import TrialRow
from opsin.sweeps.outcomes import Outcome
from opsin.sweeps.runner import Running
from opsin.sweeps.search_space import Space
from opsin.sweeps.trials import Trial

MAX_PRINTED_ROWS = 30
"""Maximum number of printed rows; `sweep.csv` has all rows."""

PLAIN_WIDTH = 160
"""Width of the output in characters if it is not a terminal."""


def console() -> Console:
    """Return the console of a sweep, of a fixed width if the output is not a terminal."""
    found = TerminalConsole(highlight=False)
    return found if found.is_terminal else TerminalConsole(width=PLAIN_WIDTH, highlight=False)


class ProgressTable:
    """Progress of the runs: a live table on a terminal, and a line for each run that ends.

    Args:
        console: Console to print on.
        space: Search space of the sweep.
        metric: The monitored metric.
        objectives: Names of the values of an outcome.
        total: Number of trials.
        done: Number of trials that ended before this process started.
        slots: Number of devices that the jobs use at the same time.
    """

    def __init__(
        self,
        console: Console,
        space: Space,
        metric: str,
        objectives: Sequence[str],
        total: int,
        done: int,
        slots: int,
    ) -> None:
        self._console, self._space, self._metric, self._objectives = console, space, metric, objectives
        self._total, self._done, self._slots = total, done, slots
        self._started: dict[int, float] = {}
        self._durations: list[float] = []
        self._last_draw = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "ProgressTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Print the outcome of a trial."""
        self._done += 1
        if trial.number in self._started:
            self._durations.append(time.monotonic() - self._started.pop(trial.number))
        values = zip(self._objectives, outcome.values, strict=False)  # a failed or pruned trial has no values
        result = outcome.reason or " ".join(f"{name} {value:.6g}" for name, value in values)
        line = f"{self._done}/{self._total}  trial {trial.number} {outcome.state}  {result}"
        self.print_line(f"{line}  {self._space.display(trial.choices)}{self._time_left()}")

    def print_line(self, line: str) -> None:
        """Print a line above the live table."""
        self._console.print(line, soft_wrap=True)

    def update(self, running: Sequence[Running]) -> None:
        """Draw the running trials, at most four times per second."""
        for job in running:
            if not job.epochs_before:  # the duration of a resumed run is not that of a whole run
                self._started.setdefault(job.trial.number, job.since)
        if self._live and time.monotonic() - self._last_draw > 0.25:
            self._last_draw = time.monotonic()
            table = Table("trial", "overrides", "epoch", self._metric, "best", "time left", box=None)
            for job in running:
                table.add_row(str(job.trial.number), self._space.display(job.trial.choices), *self._progress(job))
            table.caption = f"{self._done} of {self._total} have ended{self._time_left()}"
            self._live.update(table, refresh=True)

    def _time_left(self) -> str:
        """Return the estimated time until the sweep ends, as text; empty before the first trial ends."""
        if not self._durations or self._done >= self._total:
            return ""
        seconds = statistics.mean(self._durations) * (self._total - self._done) / self._slots
        return f"  about {_duration(seconds)} left"

    def _progress(self, running: Running) -> tuple[str, str, str, str]:
        """Return the epoch, the last and the best value of the metric, and the time left of one run, as text."""
        run = running.job.run
        try:
            rows, settings = read_epochs(run.metrics), run.read_result().settings
        except UserError:  # a damaged file fails its run, and not the sweep
            return "", "", "", ""
        epochs = settings.max_epochs if settings else None
        values = [value for row in rows if (value := row.get(self._metric)) is not None]
        if not values:
            return f"0/{epochs or '?'}", "", "", ""
        best = min(values, key=partial(sort_key, self._metric))
        spent = time.monotonic() - running.since
        done = rows[-1].epoch
        trained = done - running.epochs_before  # negative while epochs after a checkpoint are repeated
        left = _duration(spent / trained * (epochs - done)) if epochs and trained > 0 else ""
        return f"{done:g}/{epochs or '?'}", f"{values[-1]:.4f}", f"{best:.4f}", left


def report_trials(rows: Sequence[TrialRow], objectives: Sequence[str], folder: Path, console: Console) -> None:
    """Print the table of trials and the reasons of failures, and write all rows to `sweep.csv`.

    Args:
        rows: Rows of all trials, sorted.
        objectives: Names of the objectives.
        folder: Directory of the sweep.
        console: Console to print on.
    """
    metrics = [name for name in ("val/acc", "test/acc") if name not in objectives]
    header = ["trial", "overrides", *objectives, *metrics, "epochs", "seconds", "state", "run"]

    def cells(row: TrialRow, overrides: str) -> list[str]:
        seconds = row.result.seconds.get("total")
        return [
            str(row.number),
            overrides,
            *([f"{value:.6g}" for value in row.values] or [""] * len(objectives)),
            *[row.metric(name) for name in metrics],
            "" if row.result.epochs is None else str(row.result.epochs),
            "" if seconds is None else f"{seconds:.0f}",
            row.state,
            row.run.path.name,
        ]

    text = io.StringIO()
    lines = [[*cells(row, row.overrides), row.reason] for row in rows]
    csv.writer(CSVLines(text)).writerows([[*header, "reason"], *lines])
    write_atomically(folder / "sweep.csv", text.getvalue())
    table = Table(*header, title=f"sweep by {objectives[0]}: {folder}", title_justify="left")
    for row in rows[:MAX_PRINTED_ROWS]:
        table.add_row(*cells(row, row.display))
    console.print(table)
    if len(rows) > MAX_PRINTED_ROWS:
        console.print(f"the best {MAX_PRINTED_ROWS} of {len(rows)} trials; all trials: {folder / 'sweep.csv'}")
    for row in rows:
        if row.state in ("failed", "missing"):
            console.print(f"{row.state}: {row.run.path.name}: {row.reason}", soft_wrap=True)


def _duration(seconds: float) -> str:
    """Return a duration as text, such as `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
