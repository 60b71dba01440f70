"""Outcome of a job: complete with values, pruned, or failed with the reason that the table of the sweep shows.

A sweep compares the values that `outcome_of` returns: each objective at the best epoch of the run. A run without a
finite value counts as failed, a pruned run has no value, and neither is compared. `opsin.sweeps.best_run` selects the
best run by these values.

The reason of a failure comes from one of three sources:

- the run directory, if the run recorded its error (`outcome_of`)
- the launcher, or the exit code and the last lines that the job printed, if the process ended without a result
  (`failure`)
- the number of starts, if the job was interrupted repeatedly (`without_progress`)
"""

import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import check_measured, check_monitored, higher_is_better
from opsin.runs.result import RunResult
from opsin.sweeps.launchers.base import Exit, Job

Direction = Literal["minimize", "maximize"]

RUN_QUANTITIES = ("parameters", "seconds")
"""Objectives that are not metrics of a split: number of parameters, and seconds of training."""

MAX_MESSAGE_LINES = 8
"""Maximum number of lines of an error message that is reported in full. Of a longer message or a traceback, the last
line is reported."""

CONSOLE_LINES = 60
"""Number of console lines that are saved with a failure."""

CRASHES = {
    getattr(signal, name)
    for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
    if hasattr(signal, name)
}
"""Signals by which a process ends itself because of an error; all others come from outside."""

MOST_STARTS = 5
"""Maximum starts of a job that is interrupted each time without progress."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a trial.

    Attributes:
        state: `failed` has a reason, `complete` has a value for each objective, `pruned` has neither.
        values: Values of the objectives.
        reason: Reason of the failure, in one line.
        killed: Whether a signal from outside ended the process of the run, which can be resumed.
    """

    state: Literal["complete", "pruned", "failed"]
    values: tuple[float, ...] = ()
    reason: str = ""
    killed: bool = False


def directions(objectives: Sequence[str]) -> list[Direction]:
    """Return the direction of each objective, as Optuna names it."""
    return ["maximize" if higher_is_better(name) else "minimize" for name in objectives]


def check_objectives(objectives: Sequence[str], place: str, pruner: str, trainer: Mapping[str, Any]) -> None:
    """Check the objectives of a sweep before anything is run.

    Args:
        objectives: Metrics of train or val, or names in `RUN_QUANTITIES`.
        place: The key that names them, for the message.
        pruner: Kind of the pruner, which compares the first objective after each epoch, or `none`.
        trainer: Trainer options of a run.

    Raises:
        UserError: An objective does not exist, is never measured, or cannot be used.
    """
    for name in objectives:
        if name not in RUN_QUANTITIES:
            check_monitored(name, place, others=RUN_QUANTITIES)
            check_measured(name, place, trainer)
    if pruner != "none" and objectives[0] in RUN_QUANTITIES:
        raise UserError(
            f"sweep.pruner={pruner} needs an objective that is measured every epoch, such as val/loss, "
            f"but {place}={objectives[0]}; set sweep.pruner=none"
        )


def outcome_of(run: RunDirectory, objectives: Sequence[str]) -> Outcome | None:
    """Return the outcome of a trial from its run directory; None if the run has not started or has not ended.

    Args:
        run: Run directory of the trial.
        objectives: Metrics of train or val, or names in `RUN_QUANTITIES`.
    """
    try:
        result = run.read_result()
    except UserError as error:  # damaged: the other trials do not need it
        return Outcome("failed", reason=one_line(error))
    if result.status == "failed":
        return Outcome("failed", reason=one_line(result.error or "the run recorded no reason"))
    if result.status != "finished":
        return None
    if result.pruned:
        return Outcome("pruned")
    values = [_value(result, name) for name in objectives]
    if missing := [name for name, value in zip(objectives, values, strict=True) if not math.isfinite(value)]:
        return Outcome("failed", reason=f"the run has no finite value of {', '.join(missing)}")
    return Outcome("complete", tuple(values))


def one_line(reason: str | UserError) -> str:
    """Return the reason of a failure in one line."""
    return " ".join(str(reason).split())


def _value(result: RunResult, objective: str) -> float:
    """Return the value of an objective at the best epoch of the run; NaN if the run has none."""
    if objective == "parameters":
        return math.nan if result.parameters is None else result.parameters.total
    return result.seconds.get("fit", math.nan) if objective == "seconds" else result.metrics.get(objective, math.nan)


def failure(job: Job, end: Exit) -> Outcome:
    """Write the failure of a job that ended without a result into its run directory, and return it.

    The run of a job that was killed from outside stays interrupted, so that it can be resumed.

    Args:
        job: The job.
        end: The end of the job.
    """
    printed = _tail(job)
    killed = end.code < 0 and -end.code not in CRASHES and not end.reason
    reason = end.reason or _reason(end.code, printed)
    if not job.run.error.exists():
        write_atomically(job.run.error, "\n".join([*printed, "", reason]) + "\n")
    if job.run.result.exists() and not killed:
        job.run.record_failure(reason)
    return Outcome("failed", reason=reason, killed=killed)


def without_progress(job: Job) -> Outcome:
    """Write the failure of a job that was interrupted `MOST_STARTS` times in a row without a new checkpoint."""
    return failure(job, Exit(1, reason=f"interrupted {MOST_STARTS} times without progress"))


def _reason(code: int, printed: Sequence[str]) -> str:
    """Return the reason of a failure, from the exit code of the job and the lines that it printed."""
    if code >= 0:
        lines = [line.strip() for line in printed if line.strip() and "HYDRA_FULL_ERROR" not in line]
        if lines and len(lines) <= MAX_MESSAGE_LINES and not any(line.startswith("Traceback") for line in lines):
            return " ".join(lines)
        return lines[-1] if lines else f"ended with exit code {code} and printed nothing"
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL:
        return (
            f"killed ({name}), probably because the system ran out of memory; the same command resumes it. A lower "
            "launcher.jobs needs less memory"
        )
    if number == signal.SIGSEGV:
        return f"crashed ({name}: invalid memory access in native code)"
    if number in CRASHES:
        return f"crashed ({name})"
    return f"killed ({name}) from outside; the same command resumes it"


def _tail(job: Job) -> list[str]:
    """Return the last lines that the job printed since its last start."""
    return job.last_output()[-CONSOLE_LINES:]
