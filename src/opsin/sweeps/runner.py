"""The jobs of a sweep under way: started while there is room, watched, and stopped when a person asks."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from opsin.errors import Interrupted
from opsin.sweeps.launchers.base import Exit, Handle, Job, Launcher
from opsin.sweeps.outcomes import failure, outcome_of
from opsin.sweeps.trials import MOST_STARTS, Outcome, Trial, Trials

POLL_S = 0.05
"""Seconds between looks at the jobs."""

ASK_AGAIN_S = 5.0
"""Seconds after which it is looked again whether a trial is left to be claimed."""

PATIENCE_S = 60.0
"""Seconds that a job has to save and end, when the sweep is stopped."""


@dataclass
class Running:
    """A trial whose job runs."""

    trial: Trial
    job: Job
    handle: Handle
    since: float


class Stop:
    """What a person or a scheduler has asked for: the first Ctrl-C lets running jobs end, the second stops them.

    SIGTERM, which gives less time, is as good as two.

    Attributes:
        asked: how often, from 0 to 2.
        signal: the last one.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.signal = signal.SIGINT

    @contextmanager
    def output_hooks(self) -> Iterator[None]:
        """Take the signals over for a while."""
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


STOPPING = (
    "no more runs are started; those under way end first (Ctrl-C once more: they save and stop now)",
    "stopping: what runs saves, and goes on when the same command is given again",
)
"""What is said when a stop is asked for once and twice."""


class Runner:
    """Works through the trials of a sweep.

    Args:
        launcher: runs the jobs.
        trials: tells which.
        make_job: the job of a trial, given how it is to begin or go on.
        objectives: what is read from each result.
        told: called with each trial that ends and what came of it.
        watched: called after every look with what runs.
        beat: called as often, to say that this process lives.
        say: called with a line for whoever watches.
    """

    def __init__(
        self,
        launcher: Launcher,
        trials: Trials,
        make_job: Callable[[Trial], Job],
        objectives: Sequence[str],
        told: Callable[[Trial, Outcome], None],
        watched: Callable[[Sequence[Running]], None],
        beat: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._launcher, self._trials, self._make_job = launcher, trials, make_job
        self._objectives, self._told = objectives, told
        self._watched, self._beat, self._say = watched, beat, say
        self._running: list[Running] = []
        self._held: tuple[Trial, Job] | None = None
        self._ask_again = 0.0
        self.stop = Stop()

    def run(self) -> None:
        """Run all trials that no other process works on.

        Raises:
            Interrupted: a signal asked to stop; the same command goes on.
        """
        said = 0
        with self.stop.output_hooks():
            try:
                while self._fill() or self._running:
                    self._look()
                    self._watched(self._running)
                    self._beat()
                    time.sleep(POLL_S)
                    if self.stop.asked > said:
                        said = self.stop.asked
                        self._say(STOPPING[said - 1])
                    if self.stop.asked > 1:
                        self._end_all()
            finally:
                for running in self._running:
                    running.handle.kill()
            if self.stop.asked:
                raise Interrupted(self.stop.signal)

    def _fill(self) -> bool:
        """Start what there is room for; whether there may be more to start."""
        while not self.stop.asked and time.monotonic() >= self._ask_again:
            if self._held is None:
                if self._room() <= 0:
                    break
                trial = self._trials.claim()
                if trial is None:
                    self._ask_again = time.monotonic() + ASK_AGAIN_S
                    return False
                self._held = (trial, self._make_job(trial))
            trial, job = self._held
            if self._running and job.devices > self._room():
                break  # until it has room, or is alone
            self._held = None
            if outcome := outcome_of(job.run, self._objectives):  # it had ended when the sweep was killed
                self._tell(trial, outcome)
            else:
                self._start(trial, job)
        return self._held is not None and not self.stop.asked

    def _room(self) -> int:
        """Slots that are free."""
        return self._launcher.slots - sum(running.job.devices for running in self._running)

    def _start(self, trial: Trial, job: Job) -> None:
        progress = job.run.last.stat().st_mtime_ns if job.run.last.exists() else 0
        if self._trials.starts(trial, progress) > MOST_STARTS:
            reason = f"started {MOST_STARTS} times, and each time cut off before it came any further"
            self._tell(trial, failure(job, Exit(1, reason=reason)))
            return
        self._running.append(Running(trial, job, self._launcher.start(job), time.monotonic()))

    def _look(self) -> None:
        for running in list(self._running):
            end = running.handle.poll()
            if end is None:
                continue
            self._running.remove(running)
            if outcome := outcome_of(running.job.run, self._objectives):
                self._tell(running.trial, outcome)
            elif end.lost or end.code in (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM):
                if not self.stop.asked:
                    self._say(f"trial {running.trial.number} was cut off, and goes on: {end.reason or 'a signal'}")
                    self._start(running.trial, self._make_job(running.trial))
            else:
                self._tell(running.trial, failure(running.job, end))

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        self._trials.tell(trial, outcome)
        self._told(trial, outcome)

    def _end_all(self) -> None:
        """Ask every job to save and end, and end what does not in time."""
        for running in self._running:
            running.handle.stop()
        deadline = time.monotonic() + PATIENCE_S
        while self._running and time.monotonic() < deadline and self.stop.asked == 2:
            self._look()
            self._watched(self._running)
            time.sleep(POLL_S)
        for running in self._running:
            running.handle.kill()
        self._running.clear()
