"""The CSV logger of a resumed run keeps the rows of the earlier process."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from opsin.errors import UserError
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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("acc,loss\n0.5,1\n", "no column 'step'"),
        ("acc,step\n0.5,first\n0.5,2\n", "invalid literal"),
        ("acc,step\n0.5\n0.5,2\n", "NoneType"),
        ("acc,step\n0.5,1,7\n", "more cells than the header"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "csv" / "metrics.csv"
    file.parent.mkdir()
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        UserError, match=rf"metrics\.csv is damaged \(.*{reason}.*restore it from a backup, or delete it"
    ):
        CSV(RunDirectory(tmp_path), 5)
    assert file.exists()


def test_an_incomplete_last_line_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "csv" / "metrics.csv"
    file.parent.mkdir()
    file.write_text("acc,step\n0.5,10\n0.75,2")
    CSV(RunDirectory(tmp_path), 30)
    assert file.read_text().split() == ["acc,step", "0.5,10"]


@pytest.mark.parametrize("name", ["metrics.csv", "hparams.yaml"])
def test_pipes_are_refused_and_links_are_not_written_through(tmp_path: Path, name: str) -> None:
    file, victim = tmp_path / "run" / "csv" / name, tmp_path / "victim"
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    with pytest.raises(UserError, match=f"{name} cannot be read .it is a pipe or device"):
        CSV(RunDirectory(tmp_path / "run"), 5)
    file.unlink()
    file.symlink_to(victim)
    CSV(RunDirectory(tmp_path / "run"), 5)
    assert not file.is_symlink()  # Lightning writes through a link
    victim.write_text("")
    file.symlink_to(victim)
    CSV(RunDirectory(tmp_path / "run"), 5)
    assert not file.is_symlink()
    assert victim.read_text() == ""
