"""Run the jobs of a sweep: start them while slots are free, poll them, and stop them on a signal."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from opsin.errors import Interrupted, UserError
from opsin.runs.metrics_csv import read_epochs
from opsin.sweeps.launchers.base import Handle, Job, Launcher, can_start
from opsin.sweeps.outcomes import MOST_STARTS, Outcome, failure, one_line, outcome_of, without_progress
from opsin.sweeps.trials import Trial, Trials

POLL_S = 0.05
"""Seconds between polls of the jobs."""

CLAIM_AGAIN_S = 5.0
"""Seconds to wait before another attempt to claim a trial, if none was left."""

SUSPENDED_S = 2.0
"""Seconds between checks whether jobs are suspended."""

GRACE_PERIOD_S = 60.0
"""Seconds for a job to save and end, when the sweep is stopped."""


@dataclass
class Running:
    """A trial with a job that runs.

    Attributes:
        trial: The trial.
        job: Its job.
        handle: Handle of the job.
        since: Time when the job was started, seconds of `time.monotonic`.
        epochs_before: Number of epochs that the run had trained before; 0 for a new run.
        suspended: Whether a message has said that the job is suspended.
    """

    trial: Trial
    job: Job
    handle: Handle
    since: float
    epochs_before: float = 0
    suspended: bool = False


class Stop:
    """Stop requests by signals: the first Ctrl-C lets running jobs end, the second stops them.

    SIGTERM counts as two, because a scheduler gives little time.

    Attributes:
        asked: Number of requests, from 0 to 2.
        signal: The last signal.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.signal = signal.SIGINT

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside this context."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self.asked = 2 if number == signal.SIGTERM else self.asked + 1
        if self.asked > 2:
            raise KeyboardInterrupt


STOP_MESSAGES = (
    "No more runs are started; running ones finish first. Press Ctrl-C again to save and stop them now.",
    "Stopping: running jobs save their state. The same command resumes the sweep.",
)
"""Messages for the first and the second stop request."""


class Runner:
    """Runs the trials of a sweep.

    Args:
        launcher: Runs the jobs.
        trials: Trials of the sweep.
        make_job: Returns the job of a trial, which begins or resumes its run.
        objectives: Names of the values to read from each result.
        on_end: Called with each trial that ends and its outcome.
        on_poll: Called with the running trials after every poll.
        heartbeat: Called after every poll, to show that this process lives.
        report: Called with a line of text for the user.
    """

    def __init__(
        self,
        launcher: Launcher,
        trials: Trials,
        make_job: Callable[[Trial], Job],
        objectives: Sequence[str],
        on_end: Callable[[Trial, Outcome], None],
        on_poll: Callable[[Sequence[Running]], None],
        heartbeat: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._launcher, self._trials, self._make_job = launcher, trials, make_job
        self._objectives, self._on_end = objectives, on_end
        self._on_poll, self._heartbeat, self._report = on_poll, heartbeat, report
        self._running: list[Running] = []
        self._next: tuple[Trial, Job] | None = None
        self._next_claim = 0.0
        self._next_check = 0.0
        self.stop = Stop()

    def run(self) -> None:
        """Run all trials that no other process works on.

        Raises:
            Interrupted: A signal asked to stop; the same command resumes the sweep.
        """
        reported = 0
        with self.stop.listening():
            try:
                while self._start_jobs() or self._running:
                    self._poll()
                    self._report_suspended()
                    self._on_poll(self._running)
                    self._heartbeat()
                    time.sleep(POLL_S)
                    if self.stop.asked > reported:
                        reported = self.stop.asked
                        self._report(STOP_MESSAGES[reported - 1])
                    if self.stop.asked > 1:
                        self._end_all()
            finally:
                for running in self._running:
                    running.handle.kill()
            if self.stop.asked:
                raise Interrupted(self.stop.signal)

    def _start_jobs(self) -> bool:
        """Start jobs while slots are free; return whether more may be left to start."""
        while not self.stop.asked and time.monotonic() >= self._next_claim:
            if self._next is None:
                if self._free_slots() <= 0:
                    break
                trial = self._trials.claim()
                if trial is None:
                    self._next_claim = time.monotonic() + CLAIM_AGAIN_S
                    return False
                if (made := self._prepared(trial)) is None:
                    continue
                self._next = (trial, made)
            trial, job = self._next
            if not can_start(self._launcher, job, [running.job for running in self._running]):
                break
            self._next = None
            if outcome := outcome_of(job.run, self._objectives):  # it had ended before the sweep was killed
                self._record(trial, outcome)
            else:
                if _checkpoint_time(job):
                    self._report(f"trial {trial.number} resumes")
                self._start(trial, job)
        return self._next is not None and not self.stop.asked

    def _prepared(self, trial: Trial) -> Job | None:
        """Return the job of a trial; None if its run cannot start or resume, and only this trial fails then."""
        try:
            return self._make_job(trial)
        except UserError as error:
            self._record(trial, Outcome("failed", reason=one_line(error)))
            return None

    def _free_slots(self) -> int:
        """Return the number of free slots."""
        return self._launcher.slots - sum(running.job.devices for running in self._running)

    def _start(self, trial: Trial, job: Job) -> None:
        if self._trials.starts(trial, _checkpoint_time(job)) > MOST_STARTS:
            self._record(trial, without_progress(job))
            return
        before = _trained_epochs(job)
        self._running.append(Running(trial, job, self._launcher.start(job), time.monotonic(), before))

    def _poll(self) -> None:
        for running in list(self._running):
            end = running.handle.poll()
            if end is None:
                continue
            self._running.remove(running)
            if outcome := outcome_of(running.job.run, self._objectives):
                self._record(running.trial, outcome)
            elif end.lost or end.code in (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM):
                if not self.stop.asked:
                    self._report(
                        f"trial {running.trial.number} was interrupted ({end.reason or 'by a signal'}); resuming it"
                    )
                    if job := self._prepared(running.trial):
                        self._start(running.trial, job)
            else:
                self._record(running.trial, failure(running.job, end))

    def _report_suspended(self) -> None:
        """Report each job that was suspended or continued since the last check."""
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + SUSPENDED_S
        for running in self._running:
            way_out = running.handle.suspended
            if bool(way_out) != running.suspended:
                running.suspended = bool(way_out)
                state = f"is suspended; continue it with: {way_out}" if way_out else "continues"
                self._report(f"trial {running.trial.number} {state}")

    def _record(self, trial: Trial, outcome: Outcome) -> None:
        self._trials.record(trial, outcome)
        self._on_end(trial, outcome)

    def _end_all(self) -> None:
        """Ask every job to save and end, and kill those that have not ended after the grace period."""
        for running in self._running:
            running.handle.stop()
        deadline = time.monotonic() + GRACE_PERIOD_S
        while self._running and time.monotonic() < deadline and self.stop.asked == 2:
            self._poll()
            self._on_poll(self._running)
            time.sleep(POLL_S)
        for running in self._running:
            running.handle.kill()
        self._running.clear()


def _checkpoint_time(job: Job) -> int:
    """Return a number that changes with each new checkpoint of a job; 0 without checkpoints."""
    return sum(file.stat().st_mtime_ns for file in (job.run.last, job.run.step) if file.exists())


def _trained_epochs(job: Job) -> float:
    """Return the number of epochs that a run has trained; 0 if its table is damaged, which the run reports."""
    try:
        rows = read_epochs(job.run.metrics)
    except UserError:
        return 0
    return rows[-1].epoch if rows else 0
