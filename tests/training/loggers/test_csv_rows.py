"""The CSV logger of a resumed run keeps the rows of the earlier process."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from opsin.runs.directory import RunDirectory
from opsin.training.loggers import CSV


def logged(run: RunDirectory, values: Sequence[dict[str, float]], first: int = 0, resume: int | None = None) -> None:
    """Log values at successive steps, as the process of a run does."""
    logger = CSV(run, resume)
    for step, metrics in enumerate(values, first):
        logger.log_metrics(metrics, step)
    logger.save()


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / "csv" / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if cell} for row in csv.DictReader(file)]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path)
    logged(found, [{"train/loss": 0.5}, {"train/loss": 0.25, "val/loss": 1.0}, {"train/loss": 0.125}])
    return found


@pytest.mark.parametrize("step", [3, 2, 1])
def test_a_resume_that_fails_before_its_first_row_keeps_the_earlier_rows(run: RunDirectory, step: int) -> None:
    before = rows(run)
    CSV(run, step)
    assert rows(run) == before[:step]


@pytest.mark.parametrize("step", [3, 2, 1, 0])
def test_a_resumed_run_ends_with_the_file_of_an_uninterrupted_one(run: RunDirectory, step: int, tmp_path: Path) -> None:
    file, values = tmp_path / "csv" / "metrics.csv", [{"train/loss": 0.75, "val/acc": 0.5}, {"train/loss": 0.5}]
    kept = [{"train/loss": 0.5}, {"train/loss": 0.25, "val/loss": 1.0}, {"train/loss": 0.125}][:step]
    logged(run, values, step, resume=step)
    whole = RunDirectory(tmp_path / "whole")
    logged(whole, [*kept, *values])
    assert file.read_bytes() == (whole.path / "csv" / "metrics.csv").read_bytes()
