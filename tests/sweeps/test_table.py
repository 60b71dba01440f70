"""Progress of a sweep: the time left of each run and of all trials."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import EpochRow, write_epochs
from opsin.runs.result import RunResult, Settings
from opsin.runs.rich_console import TerminalConsole
from opsin.sweeps import table
from opsin.sweeps.launchers.base import Job
from opsin.sweeps.outcomes import Outcome
from opsin.sweeps.runner import Runner, Running
from opsin.sweeps.search_space import read_space
from opsin.sweeps.trials import Trial

SPACE = read_space(["seed=range(9)"], {})
STARTED, NOW = 1000.0, 1060.0

Start = Callable[[int, float, Sequence[float]], Running]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Return a function that starts the run of a trial a minute ago: its epochs before, and in its table now."""
    monkeypatch.setattr(table, "time", SimpleNamespace(monotonic=lambda: NOW))

    def started(number: int, before: float, epochs: Sequence[float]) -> Running:
        run = RunDirectory(tmp_path / str(number))
        run.path.mkdir()
        run.write_result(RunResult(settings=Settings(max_epochs=100)))
        write_epochs(run.metrics, [EpochRow(epoch, values={"val/loss": 0.5}) for epoch in epochs])
        handle: Any = None
        return Running(
            Trial(number, {"seed": str(number)}, (), str(number)), Job(number, (), run), handle, STARTED, before
        )

    return started


def progress(output: io.StringIO) -> table.ProgressTable:
    return table.ProgressTable(TerminalConsole(file=output), SPACE, "val/loss", ["val/loss"], total=9, done=0, slots=1)


@pytest.mark.parametrize(
    ("before", "now", "left"),
    [
        (0, 10, "9 min 00 s"),
        (80, 90, "1 min 00 s"),  # ten epochs in this minute, and not ninety
        (90.5, 91, "18 min 00 s"),
        (80, 80, ""),  # no epoch since the start
        (80.5, 80, ""),  # the epochs after the checkpoint are trained again
    ],
)
def test_the_time_left_of_a_run_counts_the_epochs_since_this_start(
    start: Start, before: float, now: float, left: str
) -> None:
    epoch, *_, found = progress(io.StringIO())._progress(start(0, before, range(1, int(now) + 1)))
    assert (epoch, found) == (f"{now}/100", left)


@pytest.mark.parametrize("file", ["metrics.csv", "result.json"])
def test_a_damaged_file_of_a_run_leaves_its_progress_empty(start: Start, file: str) -> None:
    running = start(0, 0, [1.0])
    (running.job.run.path / file).write_bytes(b"\x00 damaged")
    assert progress(io.StringIO())._progress(running) == ("", "", "", "")


def test_the_time_left_of_a_sweep_is_that_of_whole_runs(start: Start) -> None:
    output = io.StringIO()
    shown = progress(output)
    resumed, whole = start(0, 99, range(1, 101)), start(1, 0, range(1, 101))
    for running in (resumed, whole):
        shown.update([running])
        shown.ended(running.trial, Outcome("complete", (0.5,)))
    first, second = output.getvalue().splitlines()
    assert "left" not in first
    assert second.endswith("about 7 min 00 s left")


@pytest.mark.parametrize(("written", "before"), [("epoch,step\n1,10\n2.5,25\n", 2.5), ("", 0), (None, 0)])
def test_the_runner_counts_the_epochs_of_a_run_when_it_starts(
    tmp_path: Path, written: str | None, before: float
) -> None:
    run = RunDirectory(tmp_path)
    if written is not None:
        run.metrics.write_text(written)
    launcher: Any = SimpleNamespace(slots=1, start=lambda job: job.run.metrics.write_text("epoch,step\n9,90\n"))
    trials: Any = SimpleNamespace(starts=lambda *_: 1)
    nothing: Any = None
    found = Runner(launcher, trials, nothing, [], nothing, nothing, nothing, nothing)
    found._start(Trial(0, {}, (), ""), Job(0, (), run))
    assert [running.epochs_before for running in found._running] == [before]
