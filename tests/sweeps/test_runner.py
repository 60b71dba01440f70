"""The runner of a sweep with jobs that exist only in memory: suspended and killed ones."""

import signal
from pathlib import Path
from typing import Any

import pytest

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.result import RunResult
from opsin.sweeps import runner as module
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.outcomes import Outcome
from opsin.sweeps.runner import Runner
from opsin.sweeps.trials import Trial


class Study:
    """One trial."""

    def __init__(self) -> None:
        self.left = [Trial(0, {}, (), "run")]
        self.outcomes: list[Outcome] = []

    def claim(self) -> Trial | None:
        return self.left.pop() if self.left else None

    def starts(self, trial: Trial, progress: int) -> int:
        return 1

    def record(self, trial: Trial, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Launched:
    """A launcher and the handle of its only job, which is suspended, continues and ends."""

    slots, threads = 1, 1

    def __init__(self, run: RunDirectory, end: Exit) -> None:
        self.run, self.end, self.polls = run, end, 0

    def has_room(self, job: Job) -> bool:
        return True

    def start(self, job: Job) -> "Launched":
        return self

    @property
    def suspended(self) -> str:
        return "kill -CONT -77" if 2 <= self.polls < 4 else ""

    def poll(self) -> Exit | None:
        self.polls += 1
        if self.polls < 6:
            return None
        self.run.write_result(RunResult(status="finished" if self.end.code == 0 else "interrupted", seconds={"fit": 1}))
        return self.end


@pytest.mark.parametrize("code", [0, -signal.SIGKILL])
def test_a_suspended_job_is_reported_once_and_a_killed_one_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(module, "SUSPENDED_S", 0.0)
    run, study, lines = RunDirectory(tmp_path / "run"), Study(), list[str]()
    run.checkpoints.mkdir(parents=True)
    run.last.touch()  # of an earlier process
    launched: Any = Launched(run, Exit(code))
    nothing: Any = lambda *_: None  # noqa: E731
    trials: Any = study
    job = Job(0, ("model=a",), run)
    Runner(launched, trials, lambda _: job, ["seconds"], nothing, nothing, nothing, lines.append).run()
    resumed, *lines = lines
    assert resumed == "trial 0 resumes"
    assert lines == ["trial 0 is suspended; continue it with: kill -CONT -77", "trial 0 continues"]
    [outcome] = study.outcomes
    assert (outcome.state, outcome.killed) == (("failed", True) if code else ("complete", False))


class Instant:
    """A launcher whose jobs end at once: killed at their first start, finished at their second."""

    slots, threads = 1, 1

    def __init__(self) -> None:
        self.started: list[int] = []
        self.job: Any = None

    def has_room(self, job: Job) -> bool:
        return True

    def start(self, job: Job) -> "Instant":
        self.started.append(job.number)
        self.job = job
        return self

    suspended = ""

    def poll(self) -> Exit | None:
        if self.started.count(self.job.number) == 1:
            return Exit(1, lost=True)
        self.job.run.write_result(RunResult(status="finished", seconds={"fit": 1}))
        return Exit(0)

    def kill(self) -> None: ...


def test_a_job_that_cannot_be_prepared_fails_its_trial_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.0)
    study: Any = Study()
    study.left = [Trial(number, {}, (), f"run{number}") for number in (3, 2, 1, 0)]
    refused = {(0, 0), (2, 1)}  # trial 0 at its start, trial 2 at its resume

    launcher: Any = Instant()
    nothing: Any = lambda *_: None  # noqa: E731

    def make_job(trial: Trial) -> Job:
        if (trial.number, launcher.started.count(trial.number)) in refused:
            raise UserError("run/csv is a link\nout of the run")
        run = RunDirectory(tmp_path / trial.run)
        run.path.mkdir(exist_ok=True)
        return Job(trial.number, (), run)

    Runner(launcher, study, make_job, ["seconds"], nothing, nothing, nothing, nothing).run()
    assert launcher.started == [1, 1, 2, 3, 3]
    assert [outcome.state for outcome in study.outcomes] == ["failed", "complete", "failed", "complete"]
    assert study.outcomes[0] == study.outcomes[2] == Outcome("failed", reason="run/csv is a link out of the run")
