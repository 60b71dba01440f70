"""Memory that this process may still use."""

import math
import os
from pathlib import Path

from opsin.errors import UserError
from opsin.runs.control_groups import CGROUP, MEMBERSHIPS, own_groups

_FILE_CACHE = ("inactive_file", "active_file")
"""Entries of `memory.stat` with the pages of files, which the system drops when a process needs memory."""


def available_memory() -> float:
    """Return the available bytes of RAM without swapping, within the limit of a container or scheduler.

    Without `/proc/meminfo` it is half of the physical memory, or infinity if that is unknown.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        machine = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        if not hasattr(os, "sysconf"):
            return float("inf")
        machine = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / 2
    return min(machine, cgroup_memory())


def cgroup_memory(root: Path = CGROUP, memberships: Path = MEMBERSHIPS) -> float:
    """Return the bytes that the control groups of this process still allow; infinity without a limit.

    Args:
        root: As in `own_groups`.
        memberships: As in `own_groups`.
    """
    return min(map(_allowed, own_groups(root, memberships)), default=float("inf"))


def _allowed(group: Path) -> float:
    """Return the bytes that a control group still allows, with those of cached files; infinity without a limit."""
    try:
        limit = float((group / "memory.max").read_text(encoding="ascii").replace("max", "inf"))
        used = float((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or the root of all, which has no limit
        return float("inf")
    return max(0.0, limit - max(0.0, used - _file_cache(group)))


def _file_cache(group: Path) -> float:
    try:
        entries = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return sum(float(entries[name]) for name in _FILE_CACHE)
    except (OSError, ValueError, KeyError):
        return 0.0


def check_batch_memory(images: int, shape: tuple[int, int, int]) -> None:
    """Check that a batch fits into the memory, as pixels and as float32.

    Args:
        images: Number of images of the batch.
        shape: Channels, height and width of an image.

    Raises:
        UserError: It does not.
    """
    needed, free = 5 * images * math.prod(shape), available_memory()
    if needed > free:
        raise UserError(
            f"A batch of {images} images of {'x'.join(map(str, shape))} needs {needed / 1e9:,.0f} GB of memory, and "
            f"{free / 1e9:,.1f} GB are available: lower datamodule.image_size or datamodule.batch_size (and "
            "eval_batch_size)."
        )
