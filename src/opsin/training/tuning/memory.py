"""Memory used by this process, and a limit of the memory of a GPU."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch


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
