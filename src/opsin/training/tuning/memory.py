"""Available memory, and memory used by this process."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def used_memory() -> float:
    """Return the bytes of RAM of this process, or its peak if the system does not report the current value."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return float(pages * os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        if sys.platform == "win32":
            return 0.0
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)


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


@contextlib.contextmanager
def cuda_limited_to(share: float, device: int) -> Iterator[None]:
    """Limit this process to its current memory on a device plus a fraction of the free memory."""
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + share * free) / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()
