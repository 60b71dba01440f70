"""What Hydra calls around the jobs of a multirun: failures kept on file, and a table at the end."""

import logging
import traceback
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from opsin.rundir import RunDirectory

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Prints one row per job of a multirun, the best first, and writes it to `sweep.csv`."""

    def __init__(self) -> None:
        self._jobs: list[tuple[list[str], RunDirectory, str | None]] = []
        self._monitor = ("val/loss", "min")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Remember a job; Hydra itself keeps only the first failure of a sweep."""
        self._monitor = (config.monitor.metric, config.monitor.mode)
        run = RunDirectory(Path(config.hydra.runtime.output_dir))
        error = None
        if job_return.status is JobStatus.FAILED:
            failure = job_return._return_value
            error = str(failure).splitlines()[0] if str(failure) else type(failure).__name__
            with (run.path / "error.txt").open("w", encoding="utf-8") as file:
                traceback.print_exception(failure, file=file)
        self._jobs.append((list(config.hydra.overrides.task), run, error))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        import csv

        from rich.console import Console
        from rich.table import Table

        metric, mode = self._monitor
        rows = []
        for words, run, error in self._jobs:
            result = run.read_result()
            metrics = result.get("metrics", {})
            rows.append((metrics.get(metric), words, metrics, result, run, error))
        worst = float("inf")
        sign = 1 if mode == "min" else -1
        rows.sort(key=lambda row: worst if row[0] is None else sign * row[0])
        shared = set.intersection(*(set(row[1]) for row in rows)) if len(rows) > 1 else set()
        header = ["overrides", metric, "val/acc", "test/acc", "parameters", "seconds", "run"]
        lines = [
            [
                " ".join(word for word in words if word not in shared),
                *(_number(metrics.get(name)) for name in (metric, "val/acc", "test/acc")),
                f"{result['parameters']['total']:,}" if "parameters" in result else "",
                f"{result['seconds']['total']:.0f}" if "seconds" in result else "",
                run.path.name if error is None else f"failed: {error}",
            ]
            for _, words, metrics, result, run, error in rows
        ]
        if not rows:
            return
        folder = rows[0][4].path.parent
        with (folder / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *lines])
        table = Table(*header, title=f"sweep by {metric}, {folder}")
        for line in lines:
            table.add_row(*line)
        Console().print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
