"""Memory that this process may still use."""

import contextlib
import math
import os
from pathlib import Path

from opsin.errors import UserError

CGROUP = Path("/sys/fs/cgroup")


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
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or one without a limit: "max"
        limit = float((CGROUP / "memory.max").read_text(encoding="ascii"))
        used = float((CGROUP / "memory.current").read_text(encoding="ascii"))
        if limit < float("inf"):
            machine = min(machine, max(0.0, limit - used))
    return machine


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
