"""Read the states of all jobs of this user with one call of squeue; accounting (slurmdbd) is not needed."""

import logging
import re
import signal
import subprocess
import time
from dataclasses import dataclass

from opsin.errors import UserError
from opsin.sweeps.launchers.base import Exit

log = logging.getLogger(__name__)

REFRESH_S = 3.0
"""Seconds between calls of squeue."""

FORGET_S = 60.0
"""Seconds after which a job that SLURM no longer lists counts as lost: until then its processes may still run."""

ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
"""Final states of a job (https://slurm.schedmd.com/squeue.html); in all others it waits or runs."""

LOST = {
    "BOOT_FAIL": "its node did not start",
    "FORGOTTEN": "SLURM no longer lists it",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "it was preempted by another job",
    "REVOKED": "it was moved to another cluster",
    "TIMEOUT": "its time limit was reached",
}
"""States after which the run is resumed, because it did not cause them; with the reason."""

FINAL = {
    "CANCELLED": "canceled in SLURM (scancel)",
    "DEADLINE": "it could not have ended before its deadline",
    "OUT_OF_MEMORY": "it used more memory than SLURM allows: raise launcher.memory_gb",
}
"""States that would repeat if the run were resumed; with the reason."""

SAVED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a run that saved and ended after a signal."""

ORDINARY = {"None", "Priority", "Resources", "Dependency", "BeginTime", "Prolog", "Cleaning"}
"""Reasons for which any job may have to wait."""


@dataclass(frozen=True)
class QueueEntry:
    """A job as squeue lists it."""

    state: str
    reason: str
    name: str


class Queue:
    """The queue of SLURM, read through its commands."""

    def __init__(self) -> None:
        self._jobs: dict[str, QueueEntry] = {}
        self._refreshed = -float("inf")
        self._unseen: dict[str, float] = {}
        self._reported: set[str] = set()
        self._answered = False
        self._unreachable = False

    def ended(self, number: str) -> str | None:
        """Return the final state of a job, or `FORGOTTEN`; None while it waits or runs."""
        if time.monotonic() - self._refreshed > REFRESH_S and not self._refresh():
            return None
        job = self._jobs.get(number)
        state = job.state if job else "FORGOTTEN"
        if state in ("FORGOTTEN", "NODE_FAIL"):
            since = self._unseen.setdefault(number, time.monotonic())
            return state if time.monotonic() - since > FORGET_S else None
        self._unseen.pop(number, None)
        if job and state == "PENDING" and job.reason not in ORDINARY | self._reported:
            self._reported.add(job.reason)
            log.warning("SLURM job %s is waiting: %s (squeue --me)", number, job.reason)
        return state if state in ENDED else None

    def is_suspended(self, number: str) -> bool:
        """Return whether SLURM has suspended a job, as of the last call of squeue."""
        job = self._jobs.get(number)
        return job is not None and job.state == "SUSPENDED"

    def named(self, name: str) -> dict[str, str] | None:
        """Return the current state of each unfinished job of this name; None if SLURM stopped answering.

        Raises:
            UserError: SLURM has not answered since this process began.
        """
        if not self._refresh():
            return None
        return {number: job.state for number, job in self._jobs.items() if job.name == name and job.state not in ENDED}

    def exit_code(self, number: str) -> int | None:
        """Return the exit code of a failed job, negative for a signal; None if SLURM does not answer."""
        shown = _run("scontrol", "--oneliner", "show", "job", number)
        found = None if shown.returncode else re.search(r" ExitCode=(\d+):(\d+)", shown.stdout)
        return (-int(found[2]) or int(found[1])) if found else None

    def cancel(self, number: str, *options: str) -> None:
        """Cancel a job with scancel; a job that has ended meanwhile is not an error."""
        _run("scancel", "--quiet", *options, number)

    def _refresh(self) -> bool:
        """Read the queue; return whether SLURM answered.

        Raises:
            UserError: SLURM has not answered since this process began.
        """
        done = _run("squeue", "--me", "--states=all", "--noheader", "--format=%i|%T|%r|%j")
        self._refreshed = time.monotonic()
        if done.returncode:
            reason = "; ".join(done.stderr.split("\n")[:2]).strip("; ") or f"exit code {done.returncode}"
            if not self._answered:
                raise UserError(
                    f"launcher=slurm: SLURM does not answer (squeue --me: {reason}). Run the same command once it "
                    "does, or use launcher=local"
                )
            if not self._unreachable:
                log.warning("SLURM does not answer (squeue --me: %s); trying again", reason)
            self._unreachable = True
            return False
        self._answered, self._unreachable = True, False
        rows = (line.split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3)
        self._jobs = {number: QueueEntry(state, reason, name) for number, state, reason, name in rows}
        return True


def end_of(number: str, state: str, code: int = 0) -> Exit:
    """Return the end of a run from the end of its SLURM job.

    Args:
        number: Number of the SLURM job.
        state: Its final state.
        code: Its exit code, if it failed.
    """
    if state == "COMPLETED":
        return Exit(0)
    if state in LOST:
        return Exit(-signal.SIGKILL, lost=True, reason=f"SLURM job {number}: {LOST[state]}")
    if state in FINAL:
        return Exit(-signal.SIGKILL, reason=f"SLURM job {number}: {FINAL[state]}")
    if code in SAVED:
        return Exit(code, lost=True, reason=f"SLURM job {number} received a signal to save and end")
    return Exit(128 - code if code > 128 else code or 1)  # above 128 is the number of a signal, as bash returns it


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a SLURM command; it fails while the controller is busy, and with exit code 124 after a minute."""
    try:  # in a session of its own: only the sweep handles Ctrl-C
        return subprocess.run(
            arguments, capture_output=True, text=True, check=False, timeout=60, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 124, "", "no answer within 60 s")
