"""Register the processes that work on a sweep, so that trials of a dead process are taken over."""

import os
import secrets
import socket
import time
from pathlib import Path

from filelock import Timeout

from opsin.runs.disk_lock import DiskLock

TIMEOUT_S = 120.0
"""Seconds without a heartbeat after which a process on another machine counts as dead."""

HEARTBEAT_S = 5.0
"""Seconds between heartbeats."""


class Worker:
    """One process that works on a sweep.

    It owns a file in `workers/`. The file is locked while the process lives, so processes of the same machine see at
    once whether it does. The file is touched every few seconds, for machines that share the disk.

    Args:
        folder: The directory of the sweep.

    Attributes:
        name: Unique among all processes that ever worked on the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "workers"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.name = f"{_machine()}_{os.getpid()}_{secrets.token_hex(3)}"
        self._lock = DiskLock(self._folder / self.name)
        self._lock.acquire()
        self._last_heartbeat = 0.0
        self.heartbeat()

    def heartbeat(self) -> None:
        """Touch the file of this process, if the last heartbeat is some seconds old."""
        if time.monotonic() - self._last_heartbeat > HEARTBEAT_S:
            os.utime(self._folder / self.name)
            self._last_heartbeat = time.monotonic()

    def is_alive(self, name: str) -> bool:
        """Return whether the process of this name still works on the sweep."""
        file = self._folder / name
        if name == self.name:
            return True
        if not file.exists():
            return False
        if not name.startswith(f"{_machine()}_"):
            self.heartbeat()  # so that both times come from the clock of the file server
            return (self._folder / self.name).stat().st_mtime - file.stat().st_mtime < TIMEOUT_S
        try:
            with DiskLock(file, timeout=0):
                return False
        except Timeout:
            return True

    def others(self) -> list[str]:
        """Return the names of the other processes that work on the sweep now."""
        names = sorted(path.name for path in self._folder.iterdir())
        return [name for name in names if name != self.name and self.is_alive(name)]

    def leave(self) -> None:
        """Remove this process from the workers of the sweep."""
        self._lock.release()
        (self._folder / self.name).unlink(missing_ok=True)


def _machine() -> str:
    """Return a name of the running system. It changes with a restart, because the locks are gone then."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        boot = "0"
    return f"{socket.gethostname().replace('_', '-')}-{boot}"
