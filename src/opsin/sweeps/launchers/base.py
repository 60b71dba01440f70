"""Interface of the engines that run the jobs of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import opsin_command

START = "job started: "
"""Beginning of the line in a console file that names the command of a job."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep: `opsin train OVERRIDES` in processes of its own.

    Attributes:
        number: Number of the trial.
        overrides: All arguments of the train command; they name the run directory.
        run: The run directory. It exists already, on a disk that every machine of the engine shares.
        devices: Number of devices that the run trains on.
        secrets: Names of the environment variables of the secrets that its config refers to.
    """

    number: int
    overrides: tuple[str, ...]
    run: RunDirectory
    devices: int = 1
    secrets: tuple[str, ...] = ()

    @property
    def console(self) -> Path:
        """The file that receives the output of all processes of the job."""
        return self.run.path / "console.txt"

    def begin_console(self) -> None:
        """Write the command of the job to its console file."""
        with self.console.open("a", encoding="utf-8") as file:
            file.write(f"{START}{opsin_command('train', *self.overrides)}\n")

    def last_output(self) -> list[str]:
        """Return the lines that the job has printed since its last start."""
        try:
            lines = self.console.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        start = max((i for i, line in enumerate(lines) if line.startswith(START)), default=-1)
        return lines[start + 1 :]


@dataclass(frozen=True)
class Exit:
    """The end of a job.

    Attributes:
        code: Exit code of the process; negative if a signal ended it, as in `subprocess`.
        lost: Whether the engine lost the job (a node died, a time limit was reached); started again, it resumes.
        reason: Reason that the engine gives; empty if it gives none.
    """

    code: int
    lost: bool = False
    reason: str = ""


class Handle(Protocol):
    """Handle of a job that was started.

    Attributes:
        suspended: How to continue the job if it is suspended, for example by SIGSTOP; empty if it is not.
    """

    @property
    def suspended(self) -> str: ...  # noqa: D102

    def poll(self) -> Exit | None:
        """Return the end of the job; None while it waits or runs."""

    def stop(self) -> None:
        """Ask the job to save and end, as SIGTERM does."""

    def kill(self) -> None:
        """End the job at once."""


class Launcher(Protocol):
    """An engine that runs jobs: this machine, or a cluster.

    Attributes:
        slots: Largest number of devices that all jobs use at the same time.
        threads: Number of threads of each process of a job.
    """

    slots: int
    threads: int

    def has_room(self, job: Job) -> bool:
        """Return whether the launcher has devices for a job, if as many slots are free."""

    def start(self, job: Job) -> Handle:
        """Start a job, or queue it."""

    def close(self) -> None:
        """Release the engine; no job runs any more."""


def can_start(launcher: Launcher, job: Job, running: Sequence[Job]) -> bool:
    """Return whether a job can start beside others; without others it can, whatever it needs."""
    slots = launcher.slots - sum(other.devices for other in running)
    return not running or (job.devices <= slots and launcher.has_room(job))
