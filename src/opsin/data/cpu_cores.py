"""Number of processor cores for threads that decode and hash."""

import os


def available_cores() -> int:
    """Return the number of cores this process may use, which a container or a scheduler may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
