"""What SLURM says of this user's jobs, asked for once for all of them; accounting (slurmdbd) is not needed."""

import logging
import re
import signal
import subprocess
import time
from dataclasses import dataclass

from opsin.sweeps.launchers.base import Exit

log = logging.getLogger(__name__)

LOOK_S = 3.0
"""Seconds between looks at the queue."""

SETTLED_S = 60.0
"""Seconds after which a job is given up of which SLURM has lost sight: until then its processes may run still."""

ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
"""The last states of a job (https://slurm.schedmd.com/squeue.html); in all others it waits or runs."""

LOST = {
    "BOOT_FAIL": "its node did not start",
    "FORGOTTEN": "SLURM knows nothing of it any more",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "another job took its place",
    "REVOKED": "it was moved to another cluster",
    "TIMEOUT": "its time was up",
}
"""Ends that are none of the run's doing: it goes on."""

FINAL = {
    "CANCELLED": "cancelled in SLURM (scancel)",
    "DEADLINE": "it could not have ended before the deadline of its options",
    "OUT_OF_MEMORY": "it took more memory than SLURM allows it: set launcher.memory_gb higher",
}
"""Ends for which a run would meet again; why."""

SAVED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a run that was told to end."""

ORDINARY = {"None", "Priority", "Resources", "Dependency", "BeginTime", "Prolog", "Cleaning"}
"""Reasons for which every job may have to wait."""


@dataclass(frozen=True)
class Listed:
    """A job as the queue lists it."""

    state: str
    reason: str
    name: str


class Queue:
    """The queue of SLURM, seen through its commands."""

    def __init__(self) -> None:
        self._jobs: dict[str, Listed] = {}
        self._asked = -float("inf")
        self._unseen: dict[str, float] = {}
        self._told: set[str] = set()
        self._silent = False

    def ended(self, number: str) -> str | None:
        """The last state of a job that has ended, or `FORGOTTEN`; None while it waits or runs."""
        if time.monotonic() - self._asked > LOOK_S and not self._look():
            return None
        job = self._jobs.get(number)
        state = job.state if job else "FORGOTTEN"
        if state in ("FORGOTTEN", "NODE_FAIL"):
            since = self._unseen.setdefault(number, time.monotonic())
            return state if time.monotonic() - since > SETTLED_S else None
        self._unseen.pop(number, None)
        if job and state == "PENDING" and job.reason not in ORDINARY | self._told:
            self._told.add(job.reason)
            log.warning("SLURM lets job %s wait: %s (squeue --me)", number, job.reason)
        return state if state in ENDED else None

    def named(self, name: str) -> dict[str, str] | None:
        """State of each job of this name that has not ended, as of now; None: SLURM does not answer."""
        if not self._look():
            return None
        return {number: job.state for number, job in self._jobs.items() if job.name == name and job.state not in ENDED}

    def exit_code(self, number: str) -> int | None:
        """Of a job that has failed; negative: the signal that ended it. None: SLURM does not answer."""
        shown = _run("scontrol", "--oneliner", "show", "job", number)
        found = re.search(r" ExitCode=(\d+):(\d+)", shown or "")
        return (-int(found[2]) or int(found[1])) if found else None

    def cancel(self, number: str, *options: str) -> None:
        """`scancel`; that a job has ended meanwhile is no error."""
        _run("scancel", "--quiet", *options, number)

    def _look(self) -> bool:
        """Read the queue; whether SLURM answers."""
        listed = _run("squeue", "--me", "--states=all", "--noheader", "--format=%i|%T|%r|%j")
        self._asked = time.monotonic()
        if listed is None:
            if not self._silent:
                log.warning("SLURM does not answer (squeue --me); it is asked again")
            self._silent = True
            return False
        self._silent = False
        rows = (line.split("|", 3) for line in listed.splitlines() if line.count("|") >= 3)
        self._jobs = {number: Listed(state, reason, name) for number, state, reason, name in rows}
        return True


def end_of(number: str, state: str, code: int = 0) -> Exit:
    """What it means for a run that its job ended so.

    Args:
        number: of the job.
        state: the last one of the job.
        code: with which it failed.
    """
    if state == "COMPLETED":
        return Exit(0)
    if state in LOST:
        return Exit(-signal.SIGKILL, lost=True, reason=f"SLURM job {number}: {LOST[state]}")
    if state in FINAL:
        return Exit(-signal.SIGKILL, reason=f"SLURM job {number}: {FINAL[state]}")
    if code in SAVED:
        return Exit(code, lost=True, reason=f"SLURM job {number} was told to save and end")
    return Exit(128 - code if code > 128 else code or 1)  # beyond 128 lies what bash makes of a signal


def _run(*words: str) -> str | None:
    """What a command of SLURM prints; None where it fails, which a busy controller does at times."""
    try:  # in a session of its own: Ctrl-C is for the sweep
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, start_new_session=True)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
