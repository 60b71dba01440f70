"""Small disks of their own for tests: real full and read-only filesystems."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """A mounted tmpfs.

    Attributes:
        path: Its mount point.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Fill the disk to its last byte."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Free the space that `fill` took."""
        self._filler.unlink(missing_ok=True)

    def protect(self, read_only: bool = True) -> None:
        """Mount the disk read-only, as a colleague's disk may be, or writable again."""
        _run("mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(self.path))


@contextlib.contextmanager
def mounted(path: Path, megabytes: float) -> Iterator[Disk]:
    """Mount a small disk, or skip the test where this is not permitted, such as without root.

    Args:
        path: The mount point, which is created.
        megabytes: Size of the disk.
    """
    path.mkdir(parents=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a disk cannot be mounted here: {error}")
    try:
        yield Disk(path)
    finally:
        _run("umount", "-l", str(path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
