"""What Hydra calls around the jobs of a multirun: failures kept on file, and a table at the end."""

import atexit
import csv
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from opsin.rundir import RunDirectory


@dataclass(frozen=True)
class Job:
    """One job of a multirun that has ended; `error` is None unless it failed."""

    words: list[str]
    run: RunDirectory
    error: str | None

    def row(self, metrics: list[str], shared: set[str]) -> list[str]:
        """Its row of the table."""
        result = self.run.read_result()
        values = result.get("metrics", {})
        seconds = f"{result['seconds']['total']:.0f}" if "seconds" in result else ""
        words = " ".join(word for word in self.words if word not in shared)
        numbers = [f"{values[name]:.4f}" if name in values else "" for name in metrics]
        return [words, *numbers, seconds, self.run.path.name]


class SweepTable(Callback):
    """Prints one row per job of a multirun, the best first, and writes them to `sweep.csv`."""

    def __init__(self) -> None:
        self._jobs: list[Job] | None = None
        self._monitor = ("val/loss", "min")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin to remember jobs; a single run has no table."""
        self._jobs = []
        atexit.register(self._print)  # Hydra skips on_multirun_end where a job has failed

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember a job, and write down why it failed: Hydra itself tells only of the first failure of a sweep."""
        if self._jobs is None:
            return
        self._monitor = (config.monitor.metric, config.monitor.mode)
        run, error = RunDirectory(Path(config.hydra.runtime.output_dir)), None
        if job_return.status is JobStatus.FAILED:
            failure = job_return._return_value
            error = str(failure) or type(failure).__name__
            run.path.mkdir(parents=True, exist_ok=True)
            with (run.path / "error.txt").open("w", encoding="utf-8") as file:
                traceback.print_exception(failure, file=file)
        self._jobs.append(Job(list(config.hydra.overrides.task), run, error))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        self._print()

    def _print(self) -> None:
        jobs, self._jobs = self._jobs, None
        if not jobs:
            return
        from rich.console import Console
        from rich.table import Table

        metric, mode = self._monitor
        shared = set.intersection(*(set(job.words) for job in jobs)) if len(jobs) > 1 else set()
        names = list(dict.fromkeys([metric, "val/acc", "test/acc"]))
        header = ["overrides", *names, "seconds", "run"]
        rows = [job.row(names, shared) for job in sorted(jobs, key=lambda job: _rank(job, metric, mode))]
        folder = jobs[0].run.path.parent
        with (folder / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        console = Console()
        table = Table(*header, title=f"sweep by {metric}: {folder}", title_justify="left")
        for row in rows:
            table.add_row(*row)
        (console if console.is_terminal else Console(width=160)).print(table)
        for job in jobs:
            if job.error:
                console.print(f"failed: {job.run.path.name}: {job.error}", markup=False, soft_wrap=True)


def _rank(job: Job, metric: str, mode: str) -> float:
    value = job.run.read_result().get("metrics", {}).get(metric)
    if value is None:
        return float("inf")
    return float(value) if mode == "min" else -float(value)
