"""Processor time that other programs use."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

PROC_STAT = Path("/proc/stat")

BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""Columns of /proc/stat that count as busy: user, nice, system, irq, softirq, and steal, which other virtual machines
use."""


@dataclass(frozen=True)
class CpuSample:
    """Processor time up to a moment.

    Attributes:
        time: The moment, in seconds of a steady clock.
        busy: CPU seconds of all programs on the cores of this process; None if the system does not count them.
        own: CPU seconds of this process and its children that have ended.
    """

    time: float
    busy: float | None
    own: float

    @classmethod
    def now(cls) -> "CpuSample":
        """Return the sample of this moment."""
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return cls(time.perf_counter(), busy_seconds(), own)


def others_cores(before: CpuSample, after: CpuSample, load: float | None = None) -> float | None:
    """Return the number of cores that other programs used on average between two samples; None if unknown.

    Where the system does not count the busy time of its cores, it is the mean number of runnable threads of the last
    minute without those of this process.

    Args:
        before: The first sample.
        after: The second sample.
        load: The mean number of runnable threads of the last minute; None for that of this machine.
    """
    seconds = after.time - before.time
    if seconds <= 0:
        return None
    own = (after.own - before.own) / seconds
    if before.busy is not None and after.busy is not None:
        busy = (after.busy - before.busy) / seconds
        return max(0.0, busy - own) if busy > own / 2 else None  # a sandbox may show a file of zeros
    if load is None:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return None if load is None else max(0.0, load - own)


def busy_seconds(text: str | None = None, cores: set[int] | None = None) -> float | None:
    """Return the CPU seconds of all programs on some cores since the machine started; None if it is unknown.

    Args:
        text: Content of /proc/stat; None for that of this machine.
        cores: Numbers of the cores; None for those that this process may use.
    """
    try:
        text = PROC_STAT.read_text(encoding="ascii") if text is None else text
        cores = os.sched_getaffinity(0) if cores is None else cores
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):  # no such file, or another system
        return None
    total = 0
    for line in text.splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cores:
            total += sum(int(values[field]) for field in BUSY_FIELDS if field < len(values))
    return total / ticks
