"""Speed of training beside other programs, for each way in which OpenMP threads can wait and for one thread.

Each contender trains in its own process, which is stopped while another one is measured, because a thread that waits
actively uses a core. Rounds are short and interleaved, so a change in the load of the machine affects all alike.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.goals import GoalResult, at_least, spread
from benchmarks.session import Session
from benchmarks.startup_memory_scaling import ROOT, environment
from opsin.runs.cpu_cores import available_cores

BATCH_SIZES = (16, 64, 256)
VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")
ROUND_SECONDS = 0.4
ROUNDS = 7
"""Rounds of each contender in each surrounding; the number of rounds of the session counts only if it is larger."""


@dataclass(frozen=True)
class Contender:
    """A way to train on a shared machine.

    Attributes:
        policy: Value of OMP_WAIT_POLICY; None leaves the variable unset.
        threads: Number of OpenMP threads; None takes all cores.
    """

    policy: str | None = None
    threads: int | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of the contender."""
        count = str(self.threads or available_cores())
        return {"OMP_NUM_THREADS": count} | ({"OMP_WAIT_POLICY": self.policy} if self.policy else {})


OURS = "unset"
"""The contender with the wait policy of Opsin, which leaves the variable to the user."""

CONTENDERS = {
    OURS: Contender(),
    "passive": Contender("PASSIVE"),
    "active": Contender("ACTIVE"),
    "one thread": Contender(threads=1),
}

SURROUNDINGS = ("alone", "busy thread", "second run")


class Trainer:
    """A process of `benchmarks.bare_steps`, stopped unless it is measured."""

    def __init__(self, contender: Contender, batch_size: int) -> None:
        inherited = {name: value for name, value in environment().items() if name not in VARIABLES}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_steps", str(batch_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**inherited, **contender.variables},
        )

    def warm_up(self) -> None:
        """Wait until the process has started, train a little and stop it."""
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("benchmarks.bare_steps did not start")
        self.ask(0.2)
        self.receive()

    def ask(self, seconds: float) -> None:
        """Begin a round."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def receive(self) -> tuple[float, float]:
        """End a round; return its images per second and CPU seconds per second."""
        assert self.process.stdout is not None
        images, seconds, used = map(float, self.process.stdout.readline().split())
        self.process.send_signal(signal.SIGSTOP)
        return images / seconds, used / seconds


def shared_machine(session: Session) -> tuple[dict[str, Any], list[GoalResult]]:
    """Measure the contenders alone, beside a busy thread and beside a second run of the same kind."""
    figures, goals = {}, []
    for batch_size in BATCH_SIZES[: 1 if session.quick else None]:
        speeds = _measure(session, batch_size)
        figures[str(batch_size)] = {
            where: {name: vars(spread(values)) for name, values in found.items()} for where, found in speeds.items()
        }
        medians = {where: {name: statistics.median(v) for name, v in found.items()} for where, found in speeds.items()}
        undisturbed = medians["alone"][OURS]
        for name, goal, title in (("one thread", 0.55, "trainer.threads=1"), (OURS, 0.20, "trainer.threads=auto")):
            share = medians["busy thread"][name] / undisturbed
            goals.append(at_least(f"batch {batch_size}, {title} beside a busy thread / auto alone", share, goal))
        for where, found in medians.items():
            ratios = {name: value / found[OURS] for name, value in found.items()}
            session.log(f"batch {batch_size}, {where}: " + ", ".join(f"{n} {r:.2f}" for n, r in ratios.items()))
    return figures, goals


def _measure(session: Session, batch_size: int) -> dict[str, dict[str, list[float]]]:
    """Return the images per second of each round, by surrounding and contender."""
    speeds: dict[str, dict[str, list[float]]] = {where: {name: [] for name in CONTENDERS} for where in SURROUNDINGS}
    with contextlib.ExitStack() as ended:
        busy = ended.enter_context(_ended(subprocess.Popen([sys.executable, "-c", "while True: pass"])))
        busy.send_signal(signal.SIGSTOP)
        pairs = {}
        session.log(f"shared machine: starting {2 * len(CONTENDERS)} processes, batch {batch_size}")
        for name, contender in CONTENDERS.items():
            pairs[name] = [Trainer(contender, batch_size) for _ in range(2)]
            for trainer in pairs[name]:
                ended.enter_context(_ended(trainer.process))
        for trainer in (trainer for pair in pairs.values() for trainer in pair):
            trainer.warm_up()
        for _ in range(1 if session.quick else max(ROUNDS, session.rounds)):
            for where in SURROUNDINGS:
                for name, (first, second) in pairs.items():
                    speeds[where][name].append(_round(first, second, busy, where))
    return speeds


def _round(first: Trainer, second: Trainer, busy: "subprocess.Popen[bytes]", where: str) -> float:
    if where == "busy thread":
        busy.send_signal(signal.SIGCONT)
    if where == "second run":
        second.ask(ROUND_SECONDS)
    first.ask(ROUND_SECONDS)
    speed, _ = first.receive()
    busy.send_signal(signal.SIGSTOP)
    if where == "second run":
        second.receive()
    return speed


@contextlib.contextmanager
def _ended(process: Any) -> Iterator[Any]:
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
