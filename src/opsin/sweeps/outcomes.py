"""Outcome of a job: from its run directory, and from the end of its process."""

import math
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import check_measured, check_monitored, higher_is_better
from opsin.runs.result import RunResult
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.trials import Direction, Outcome

COUNTED = ("parameters", "seconds")
"""Objectives that are not metrics of a split: all parameters, and the seconds of training."""

WHOLE = 8
"""Maximum lines of a message without a traceback that are reported whole, and not only the last line."""

TAIL = 60
"""Lines of the console that are saved with a failure."""


def directions(objectives: Sequence[str]) -> list[Direction]:
    """Return the direction of each objective, as Optuna names it."""
    return ["maximize" if higher_is_better(name) else "minimize" for name in objectives]


def check_objectives(objectives: Sequence[str], place: str, pruner: str, trainer: Mapping[str, Any]) -> None:
    """Check the objectives of a sweep before anything is run.

    Args:
        objectives: metrics of train or val, or keys of `COUNTED`.
        place: the key that names them, for the message.
        pruner: `none`, or a pruner, which compares the first objective epoch by epoch.
        trainer: trainer options of a run.

    Raises:
        UserError: An objective does not exist, is never measured, or cannot be used.
    """
    for name in objectives:
        if name not in COUNTED:
            check_monitored(name, place, others=tuple(COUNTED))
            check_measured(name, place, trainer)
    if pruner != "none" and objectives[0] in COUNTED:
        raise UserError(
            f"sweep.pruner={pruner} needs an objective that is measured every epoch, such as val/loss, "
            f"but {place}={objectives[0]}; set sweep.pruner=none"
        )


def outcome_of(run: RunDirectory, objectives: Sequence[str]) -> Outcome | None:
    """What a run directory says came of a trial; None: nothing yet, it was cut off or has not begun.

    Args:
        run: of the trial.
        objectives: metrics of val, or keys of `COUNTED`.
    """
    result = run.read_result()
    if result.status == "failed":
        return Outcome("failed", reason=" ".join((result.error or "it failed").split()))
    if result.status != "finished":
        return None
    if result.pruned:
        return Outcome("pruned")
    values = [_value(result, name) for name in objectives]
    if lacking := [name for name, value in zip(objectives, values, strict=True) if not math.isfinite(value)]:
        return Outcome("failed", reason=f"the run has no {', '.join(lacking)} that is a number")
    return Outcome("complete", tuple(values))


def _value(result: RunResult, objective: str) -> float:
    """Return an objective at the best epoch, NaN if the run has none; it is the best value of the monitored metric."""
    if objective == "parameters":
        return math.nan if result.parameters is None else result.parameters.total
    return result.seconds.get("fit", math.nan) if objective == "seconds" else result.metrics.get(objective, math.nan)


def failure(job: Job, end: Exit) -> Outcome:
    """Return the failure of a job that ended without a result, and write it into its run directory.

    Args:
        job: The job.
        end: The end of its process.
    """
    printed = _tail(job)
    reason = end.reason or _reason(end.code, printed)
    if not job.run.error.exists():
        write_atomically(job.run.error, "\n".join([*printed, "", reason]) + "\n")
    if job.run.result.exists():
        job.run.record_failure(reason)
    return Outcome("failed", reason=reason)


def _reason(code: int, printed: Sequence[str]) -> str:
    if code >= 0:
        lines = [line.strip() for line in printed if line.strip() and "HYDRA_FULL_ERROR" not in line]
        if lines and len(lines) <= WHOLE and not any(line.startswith("Traceback") for line in lines):
            return " ".join(lines)
        return lines[-1] if lines else f"it ended with exit code {code} and printed nothing"
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL:
        return f"killed ({name}); if nobody did it, the system ran out of memory: lower launcher.jobs"
    if number == signal.SIGSEGV:
        return f"crashed ({name}: invalid memory access in native code)"
    return f"ended by {name}"


def _tail(job: Job) -> list[str]:
    """Return the last lines that the job printed since its last start."""
    try:
        lines = job.console.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    begun = max((i for i, line in enumerate(lines) if line.startswith("$ python train.py")), default=-1)
    return lines[begun + 1 :][-TAIL:]
