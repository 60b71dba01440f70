"""Which processes work on a sweep: each may go on with what a dead one left, and with nothing of a living one."""

import os
import secrets
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

SILENT_S = 120.0
"""Seconds without a sign of life after which a process on another machine counts as dead."""

BEAT_S = 5.0
"""Seconds between signs of life."""


class Worker:
    """This process, as one of those that work on a sweep.

    A file of its own in `workers/` says so: locked while the process lives, which the same machine can tell at once,
    and touched every few seconds, for other machines that share the disk.

    Args:
        folder: of the sweep.

    Attributes:
        name: unique among all processes that ever worked on the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "workers"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.name = f"{_machine()}_{os.getpid()}_{secrets.token_hex(3)}"
        self._lock = FileLock(self._folder / self.name)
        self._lock.acquire()
        self._beaten = 0.0
        self.beat()

    def beat(self) -> None:
        """Give a sign of life, if the last one is some seconds old."""
        if time.monotonic() - self._beaten > BEAT_S:
            os.utime(self._folder / self.name)
            self._beaten = time.monotonic()

    def is_alive(self, name: str) -> bool:
        """Whether the process of this name still works on the sweep."""
        file = self._folder / name
        if name == self.name:
            return True
        if not file.exists():
            return False
        if not name.startswith(f"{_machine()}_"):
            self.beat()  # both times are then by the clock of the disk's own machine
            return (self._folder / self.name).stat().st_mtime - file.stat().st_mtime < SILENT_S
        try:
            with FileLock(file, timeout=0):
                return False
        except Timeout:
            return True

    def others(self) -> list[str]:
        """The other processes that work on the sweep now."""
        names = sorted(path.name for path in self._folder.iterdir())
        return [name for name in names if name != self.name and self.is_alive(name)]

    def leave(self) -> None:
        """Say that this process works on the sweep no longer."""
        self._lock.release()
        (self._folder / self.name).unlink(missing_ok=True)


def _machine() -> str:
    """A name of the running system: after a restart it is another, for then its locks are gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        boot = "0"
    return f"{socket.gethostname().replace('_', '-')}-{boot}"
