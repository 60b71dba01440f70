"""One session of measurements: contestants in turn, round by round, so that all see the same weather."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.contenders import Task, enter
from benchmarks.datasets import prepare
from benchmarks.goals import Spread, spread
from benchmarks.workloads import Workload
from opsin.runs.quoting import override

PATIENCE = 600.0
"""Seconds after which a contestant that has not answered counts as failed."""

Say = Callable[[str], None]


@dataclass
class Measured:
    """What one contestant came to at one workload.

    Attributes:
        rounds: images/s of each round; of whole runs, epochs * images / seconds.
        seconds: of each round.
        peak_mb: largest memory of its process and its loader workers.
        facts: what else it told: loader workers, those that were tried, seconds by part.
        error: why it could not be measured.
    """

    rounds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def speed(self) -> Spread | None:
        """Median and spread of the rounds."""
        return spread(self.rounds) if self.rounds else None

    def add(self, reply: dict[str, Any], epochs: int) -> None:
        """Take a round's figures."""
        if "error" in reply:
            self.error = reply["error"]
            return
        self.rounds.append(epochs * reply["images"] / reply["seconds"])
        self.seconds.append(reply["seconds"])
        peaks = [mb for mb in (self.peak_mb, reply["peak_mb"]) if mb is not None]
        self.peak_mb = max(peaks) if peaks else None
        self.facts |= {key: value for key, value in reply.items() if key not in ("images", "seconds", "peak_mb")}


class Contestant:
    """A process that works when told to.

    Args:
        name: which contestant.
        task: its work.
        threads: of OpenMP; None: as many as there are cores.
    """

    def __init__(self, name: str, task: Task, threads: int | None = None) -> None:
        task.folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=enter, args=(name, task, theirs), name=name)
        with _environment(name, threads):
            self._process.start()
        theirs.close()
        self.failed = False

    def ask(self, message: Any) -> dict[str, Any]:
        """Let it work; the figures, or `{"error": ...}`."""
        if not self.failed:
            with contextlib.suppress(OSError):
                self._connection.send(message)
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Its next word."""
        reply = _hear(self._connection)
        self.failed = "error" in reply
        return reply

    def dismiss(self) -> None:
        """Let it end by itself, at its next wait."""
        self._connection.close()

    def stop(self) -> None:
        """See to it that the process and its loader workers have ended."""
        self.dismiss()
        self._process.join(timeout=10)
        if self._process.is_alive() and self._process.pid is not None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()


def _hear(connection: Connection) -> dict[str, Any]:
    try:
        if not connection.poll(PATIENCE):
            return {"error": f"no answer in {PATIENCE:.0f} s"}
        reply: dict[str, Any] = connection.recv()
    except (EOFError, OSError):
        return {"error": "its process ended"}
    return reply


@contextlib.contextmanager
def _environment(name: str, threads: int | None) -> Any:
    """What a process must find in its environment before it loads torch; `train.py` sets OMP_WAIT_POLICY for Opsin."""
    before = dict(os.environ)
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.pop("OMP_WAIT_POLICY", None)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if name not in ("bare", "common"):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True)
class Session:
    """What all measurements of a session share.

    Attributes:
        data_dir: where real images may lie.
        folder: for everything that is written; given back by whoever made it.
        rounds: counted rounds of each contestant.
        seconds: of a round of training steps.
        runs: counted whole runs of each contestant.
        quick: hardly any work: to see that all runs.
        threads: of OpenMP in each contestant; None: all cores.
        say: told what is under way.
    """

    data_dir: Path
    folder: Path
    rounds: int = 3
    seconds: float = 2.0
    runs: int = 2
    quick: bool = False
    threads: int | None = None
    say: Say = print

    def measure(self, workload: Workload) -> tuple[dict[str, Measured], bool]:
        """All contestants of a workload, interleaved; and whether the images are real."""
        workload = workload.quick() if self.quick else workload
        counts = workload.counts
        images, real = prepare(workload.images, self.data_dir.absolute(), self.folder, counts)
        self.say(f"{workload.name}: starting {len(workload.contestants)} contestants")
        contestants: dict[str, Contestant] = {}
        try:
            for name in map(str, workload.contestants):
                task = Task(workload, images, self.folder / workload.name / name)
                contestants[name] = Contestant(name, task, self.threads)
            measured = {name: Measured() for name in contestants}
            for name, contestant in contestants.items():
                measured[name].error = contestant.hear().get("error")
            self._warm_up(workload, images, contestants, measured)
            for number in range(self.rounds if workload.measure == "steps" else self.runs):
                self.say(f"{workload.name}: round {number + 1}")
                for name, contestant in contestants.items():
                    if measured[name].error is None:
                        message = self._message(workload, images, name, f"{number}")
                        epochs = 1 if workload.measure == "steps" else workload.epochs
                        measured[name].add(contestant.ask(message), epochs)
        finally:
            for contestant in contestants.values():
                contestant.dismiss()
            for contestant in contestants.values():
                contestant.stop()
        return measured, real

    def _warm_up(
        self, workload: Workload, images: Path, contestants: dict[str, Contestant], measured: dict[str, Measured]
    ) -> None:
        for name, contestant in contestants.items():
            if measured[name].error is None:
                reply = contestant.ask(self._message(workload, images, name, "warm_up"))
                measured[name].error = reply.get("error")
                measured[name].facts |= {k: reply[k] for k in ("workers", "tried") if k in reply}

    def _message(self, workload: Workload, images: Path, name: str, number: str) -> Any:
        """Seconds of a round of steps; for a whole run of Opsin its words, with nothing decoded or cached before."""
        if workload.measure == "steps":
            return self.seconds
        if name == "common":
            return True
        fresh = self.folder / workload.name / name
        places = [override("data_dir", fresh / f"data{number}"), override("output_dir", fresh / "outputs")]
        short = ["trainer.max_epochs=1", "trainer.limit_train_batches=1"] if number == "warm_up" else []
        return [*workload.command(images, name), *places, *short]
