"""Memory that this process may still use."""

import contextlib
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> float:
    """Return the available bytes of RAM without swapping, within the limit of a container or scheduler."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        machine = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        if not hasattr(os, "sysconf"):
            return float("inf")
        machine = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / 2
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or one without a limit: "max"
        limit = float((CGROUP / "memory.max").read_text(encoding="ascii"))
        used = float((CGROUP / "memory.current").read_text(encoding="ascii"))
        if limit < float("inf"):
            machine = min(machine, max(0.0, limit - used))
    return machine
