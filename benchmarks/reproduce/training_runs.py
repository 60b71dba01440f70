"""Start the runs that have no record yet, one after the other, and record them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.reproduce.records import agree, read_seed, record_of, write_record
from benchmarks.reproduce.rows import OWN_CONFIGS, ROOT, Row
from opsin.config import ConfigSource, RunConfig, compose
from opsin.config.target_refusal import TARGETS_VARIABLE
from opsin.errors import UserError
from opsin.evaluation.comparison.recipes import recipe_values
from opsin.runs.cpu_usage import CpuSample, others_cores
from opsin.runs.directory import RunDirectory
from opsin.runs.flat_keys import Scalar, flat_scalars
from opsin.runs.quoting import override

Outcome = Literal["done", "recorded", "failed", "needs a download"]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """Where runs read and write.

    Attributes:
        records: Folder of the records.
        data_dir: Folder of the images.
        work_dir: Folder of the run directories.
        downloads: Whether rows that need a download are run too.
        log: Function that shows a line.
    """

    records: Path
    data_dir: Path
    work_dir: Path
    downloads: bool = False
    log: Log = print

    def run_directory(self, row: Row, seed: int) -> RunDirectory:
        """Return the run directory of a row and a seed."""
        return RunDirectory(self.work_dir / row.name / f"seed{seed}")


def run_all(session: Session, rows: Sequence[Row], seeds: int | None = None) -> dict[tuple[str, int], Outcome]:
    """Run every seed of the rows that has no record; first the first seed of all rows.

    Args:
        session: Where runs read and write.
        rows: The rows.
        seeds: Number of seeds; None for that of each row.

    Returns:
        The outcome by row and seed.
    """
    most = max((seeds or row.seeds for row in rows), default=0)
    jobs = [(row, seed) for seed in range(most) for row in rows if seed < (seeds or row.seeds)]
    return {(row.name, seed): run_seed(session, row, seed) for row, seed in jobs}


def run_seed(session: Session, row: Row, seed: int) -> Outcome:
    """Run one seed of a row, unless it has a record of the same config; resume it if it was stopped before."""
    name, now = f"{row.name}, seed {seed}", config_of(row, seed, session.data_dir)
    recorded = read_seed(session.records, row.name, seed)
    if recorded and recorded.is_of(now):
        return "done"
    if row.downloads and not session.downloads:
        session.log(f"{name}: needs a download (--downloads)")
        return "needs a download"
    run = session.run_directory(row, seed)
    load: float | None = None
    if not _is_finished(run, now):
        session.log(f"{name}: {'resumes' if run.path.exists() else 'starts'}")
        before = CpuSample.now()
        if code := _train(session, row, seed, run):
            session.log(f"{name}: failed with exit code {code}, see {_log_of(run)}")
            return "failed"
        others = others_cores(before, CpuSample.now())
        load = None if others is None else round(others, 2)
    write_record(session.records, record_of(row, seed, run, load))
    session.log(f"{name}: recorded")
    return "recorded"


def config_of(row: Row, seed: int, data_dir: Path) -> dict[str, Scalar]:
    """Return every value that affects the trained network of a row, by dotted key."""
    source = ConfigSource.of([str(ROOT / OWN_CONFIGS)] if row.is_own else [])
    return recipe_of(compose(row.settings(seed, data_dir), source=source))


def recipe_of(composed: RunConfig) -> dict[str, Scalar]:
    """Return the values of a config that affect the trained network, by dotted key."""
    return recipe_values(flat_scalars(composed.tree))


def _is_finished(run: RunDirectory, now: Mapping[str, Scalar]) -> bool:
    """Return whether a run has finished with the current config; a run with another config is deleted."""
    if not run.config.exists():
        shutil.rmtree(run.path, ignore_errors=True)
        return False
    try:
        saved, status = recipe_of(RunConfig.load(run)), run.read_result().status
    except UserError:
        saved, status = {}, "failed"
    if not agree(saved, now) or status == "failed":
        shutil.rmtree(run.path)
        return False
    return status == "finished"


def _train(session: Session, row: Row, seed: int, run: RunDirectory) -> int:
    """Train in a process of its own, whose output goes to a file beside the run directory; return the exit code."""
    if run.config.exists():
        arguments = [override("resume", run.path)]
    else:
        places = [override("hydra.run.dir", run.path), override("output_dir", session.work_dir)]
        arguments = [*row.flags, *row.settings(seed, session.data_dir), *places]
    run.path.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({TARGETS_VARIABLE: "benchmarks"} if row.is_own else {})}
    with _log_of(run).open("a", encoding="utf-8") as log:
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            return process.wait()
        except KeyboardInterrupt:  # the run got the signal too, and saves a checkpoint to resume from
            process.wait()
            raise


def _log_of(run: RunDirectory) -> Path:
    return run.path.with_suffix(".log")
