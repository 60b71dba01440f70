"""What a sweep asks of the engine that runs its jobs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import printed_command


@dataclass(frozen=True)
class Job:
    """One run of a sweep: `python train.py WORDS`, in processes of its own.

    Attributes:
        number: of the trial.
        words: the whole command line behind `train.py`, which also says where the run directory is.
        run: that directory; it is there already, on a disk that every machine of the engine shares.
        devices: how many the run trains on.
    """

    number: int
    words: tuple[str, ...]
    run: RunDirectory
    devices: int = 1

    @property
    def console(self) -> Path:
        """The file for all that the job prints, in every process that ever works on it."""
        return self.run.path / "console.txt"

    def begin_console(self) -> None:
        """Write there which command begins."""
        with self.console.open("a", encoding="utf-8") as file:
            file.write(f"$ {printed_command(['python', 'train.py', *self.words])}\n")


@dataclass(frozen=True)
class Exit:
    """How a job ended.

    Attributes:
        code: of its process; negative: the signal that ended it, as in `subprocess`.
        lost: the engine lost it (a node died, its time was up): started again, it goes on.
        reason: what the engine says of it; empty where it says nothing.
    """

    code: int
    lost: bool = False
    reason: str = ""


class Handle(Protocol):
    """A job that was started."""

    def poll(self) -> Exit | None:
        """How it ended; None while it waits or runs."""

    def stop(self) -> None:
        """Ask it to save and end, as SIGTERM does."""

    def kill(self) -> None:
        """End it at once."""


class Launcher(Protocol):
    """An engine that runs jobs: this machine, or a cluster.

    Attributes:
        slots: how many devices' worth of jobs are started at once.
        threads: of each process of a job.
    """

    slots: int
    threads: int

    def start(self, job: Job) -> Handle:
        """Start a job, or queue it."""

    def close(self) -> None:
        """Let go of the engine; no job runs any more."""
