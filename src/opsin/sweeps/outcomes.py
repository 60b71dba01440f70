"""What came of a job: from its run directory, and from how its process ended."""

import math
import signal
from collections.abc import Sequence

from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.result import RunResult
from opsin.sweeps.launchers.base import Exit, Job
from opsin.sweeps.trials import Direction, Outcome

COUNTED = ("parameters", "seconds")
"""Objectives besides metrics: all parameters, and the seconds of training; less of them is better."""

WHOLE = 8
"""Lines of a message without a traceback that are told whole, and not only the last."""

TAIL = 60
"""Lines of a job's console that are kept with its failure."""


def directions(objectives: Sequence[str]) -> list[Direction]:
    """Whether less or more of each objective is better."""
    return ["minimize" if name in COUNTED or name.endswith(("/loss", "/ece")) else "maximize" for name in objectives]


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
    """Why a job ended without a result, written into its run directory as well.

    Args:
        job: which ended.
        end: how.
    """
    printed = _tail(job)
    reason = end.reason or _in_words(end.code, printed)
    if not job.run.error.exists():
        write_atomically(job.run.error, "\n".join([*printed, "", reason]) + "\n")
    if job.run.result.exists():
        job.run.record_failure(reason)
    return Outcome("failed", reason=reason)


def _in_words(code: int, printed: Sequence[str]) -> str:
    if code >= 0:
        said = [line.strip() for line in printed if line.strip() and "HYDRA_FULL_ERROR" not in line]
        if said and len(said) <= WHOLE and not any(line.startswith("Traceback") for line in said):
            return " ".join(said)
        return said[-1] if said else f"it ended with exit code {code}, and said nothing"
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL:
        return f"killed ({name}); where nobody did it, the system had run out of memory: give it fewer jobs at once"
    if number == signal.SIGSEGV:
        return f"crashed ({name}: a library of native code reached into memory that is not its own)"
    return f"ended by {name}"


def _tail(job: Job) -> list[str]:
    """The last lines that the job printed since it was started last."""
    try:
        lines = job.console.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    begun = max((i for i, line in enumerate(lines) if line.startswith("$ python train.py")), default=-1)
    return lines[begun + 1 :][-TAIL:]
