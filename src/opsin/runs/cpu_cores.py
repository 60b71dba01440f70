"""Number of processor cores that this process may use."""

import math
import os
from pathlib import Path

from opsin.errors import UserError
from opsin.runs.control_groups import CGROUP, MEMBERSHIPS, own_groups

THREADS_VARIABLE = "OMP_NUM_THREADS"
"""Environment variable of the user's own number of threads per process."""


def available_cores() -> int:
    """Return the number of cores this process may use, which a container or a scheduler may limit.

    The load of the machine does not change it, so a run on a busy machine has as many threads as on an idle one
    (`opsin.training.threads`).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cgroup_cores() or cores)


def cgroup_cores(root: Path = CGROUP, memberships: Path = MEMBERSHIPS) -> int | None:
    """Return the cores of the CPU quota of this process's control groups, at least 1; None without a quota.

    Args:
        root: As in `own_groups`.
        memberships: As in `own_groups`.
    """
    quotas = [_quota(group / "cpu.max") for group in own_groups(root, memberships)]
    found = [quota for quota in quotas if quota is not None]
    return max(1, math.floor(min(found))) if found else None


def _quota(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or no quota: "max"
        return None


def own_threads() -> int | None:
    """Return the number of threads that the user set with OMP_NUM_THREADS; None if the variable is not set.

    Raises:
        UserError: It is not a number of at least 1.
    """
    text = os.environ.get(THREADS_VARIABLE)
    if not text:
        return None
    first = text.split(",")[0].strip()  # OpenMP takes a number for each level of nested parallelism
    if not first.isdecimal() or int(first) < 1:
        raise UserError(f"{THREADS_VARIABLE}={text} is not a number of threads: set it to at least 1, or unset it")
    return int(first)
