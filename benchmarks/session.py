"""Measure contenders interleaved, round by round, so that changes in machine load affect all of them alike."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.contenders import Task, run_contender
from benchmarks.datasets import prepare
from benchmarks.goals import Spread, spread
from benchmarks.workloads import Workload
from opsin.config.target_refusal import TARGETS_VARIABLE
from opsin.runs.quoting import override

TIMEOUT = 600.0
"""Seconds without a reply after which a contender counts as failed."""

Log = Callable[[str], None]


@dataclass
class Measurement:
    """Measurement of one contender at one workload.

    Attributes:
        rounds: Images/s of each round; for whole runs, epochs * images / seconds.
        seconds: Duration of each round.
        peak_mb: Peak memory of the process and its loader workers.
        facts: Further reported values, such as the number of loader workers and the seconds of each phase.
        error: Reason if the contender could not be measured.
    """

    rounds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def speed(self) -> Spread | None:
        """Median and range of the rounds."""
        return spread(self.rounds) if self.rounds else None

    def add(self, reply: dict[str, Any], epochs: int) -> None:
        """Add the figures of a round."""
        if "error" in reply:
            self.error = reply["error"]
            return
        self.rounds.append(epochs * reply["images"] / reply["seconds"])
        self.seconds.append(reply["seconds"])
        peaks = [mb for mb in (self.peak_mb, reply["peak_mb"]) if mb is not None]
        self.peak_mb = max(peaks) if peaks else None
        self.facts |= {key: value for key, value in reply.items() if key not in ("images", "seconds", "peak_mb")}


class ContenderProcess:
    """A contender in a separate process, which works one round per message.

    Args:
        name: Name of the contender.
        task: The task of the contender.
        threads: Number of OpenMP threads; None takes one per core.
    """

    def __init__(self, name: str, task: Task, threads: int | None = None) -> None:
        task.folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=run_contender, args=(name, task, theirs), name=name)
        with _environment(threads):
            self._process.start()
        theirs.close()
        self.failed = False

    def ask(self, message: Any) -> dict[str, Any]:
        """Send a message and return the reply: the figures of a round, or `{"error": ...}`."""
        if not self.failed:
            with contextlib.suppress(OSError):
                self._connection.send(message)
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """Receive the next reply."""
        reply = _receive(self._connection)
        self.failed = "error" in reply
        return reply

    def close(self) -> None:
        """Close the connection, so that the process ends at its next wait."""
        self._connection.close()

    def stop(self) -> None:
        """End the process and its loader workers."""
        self.close()
        self._process.join(timeout=10)
        if self._process.is_alive() and self._process.pid is not None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()


def _receive(connection: Connection) -> dict[str, Any]:
    try:
        if not connection.poll(TIMEOUT):
            return {"error": f"no reply in {TIMEOUT:.0f} s"}
        reply: dict[str, Any] = connection.recv()
    except (EOFError, OSError):
        return {"error": "the process ended"}
    return reply


@contextlib.contextmanager
def _environment(threads: int | None) -> Any:
    """Set environment variables that a process needs before it imports torch.

    `OPSIN_TARGETS` permits the callbacks of `benchmarks.timing` as targets.
    """
    before = dict(os.environ)
    os.environ[TARGETS_VARIABLE] = "benchmarks"
    os.environ.pop("OMP_NUM_THREADS", None)
    os.environ.pop("OMP_WAIT_POLICY", None)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True)
class Session:
    """Settings of all measurements of a session.

    Attributes:
        data_dir: Folder of real images; missing ones are made.
        folder: Temporary folder; the caller deletes it.
        rounds: Measured rounds per contender.
        seconds: Duration of a round of training steps.
        runs: Measured whole runs per contender.
        quick: Whether to run tiny workloads, to check that everything runs.
        threads: OpenMP threads per contender; None takes all cores.
        log: Function that prints progress.
        seeds: Number of seeds of each recipe; None takes the number that the recipe states.
    """

    data_dir: Path
    folder: Path
    rounds: int = 3
    seconds: float = 2.0
    runs: int = 2
    quick: bool = False
    threads: int | None = None
    log: Log = print
    seeds: int | None = None

    def measure(self, workload: Workload) -> tuple[dict[str, Measurement], Path, bool]:
        """Measure all contenders of a workload interleaved; return this, the images, and whether they are real."""
        counts = workload.counts
        images, real = prepare(workload.images, self.data_dir.absolute(), self.folder, counts)
        self.log(f"{workload.name}: starting {len(workload.contenders)} contenders")
        contenders: dict[str, ContenderProcess] = {}
        try:
            for name in map(str, workload.contenders):
                task = Task(workload, images, self.folder / workload.name / name)
                contenders[name] = ContenderProcess(name, task, self.threads)
            measured = {name: Measurement() for name in contenders}
            for name, contender in contenders.items():
                measured[name].error = contender.receive().get("error")
            self._warm_up(workload, images, contenders, measured)
            for number in range(self.rounds if workload.measure == "steps" else self.runs):
                self.log(f"{workload.name}: round {number + 1}")
                for name, contender in contenders.items():
                    if measured[name].error is None:
                        message = self._message(workload, images, name, f"{number}")
                        epochs = 1 if workload.measure == "steps" else workload.epochs
                        measured[name].add(contender.ask(message), epochs)
        finally:
            for contender in contenders.values():
                contender.close()
            for contender in contenders.values():
                contender.stop()
        return measured, images, real

    def _warm_up(
        self,
        workload: Workload,
        images: Path,
        contenders: dict[str, ContenderProcess],
        measured: dict[str, Measurement],
    ) -> None:
        for name, contender in contenders.items():
            if measured[name].error is None:
                reply = contender.ask(self._message(workload, images, name, "warm_up"))
                measured[name].error = reply.get("error")
                measured[name].facts |= {k: reply[k] for k in ("workers", "tried") if k in reply}

    def _message(self, workload: Workload, images: Path, name: str, number: str) -> Any:
        """Return the message of a round: seconds for steps, overrides with empty caches for a whole Opsin run."""
        if workload.measure == "steps":
            return self.seconds
        if name == "common":
            return True
        fresh = self.folder / workload.name / name
        places = [override("data_dir", fresh / f"data{number}"), override("output_dir", fresh / "outputs")]
        short = ["trainer.max_epochs=1", "trainer.limit_train_batches=1"] if number == "warm_up" else []
        return [*workload.command(images, name), *places, *short]
