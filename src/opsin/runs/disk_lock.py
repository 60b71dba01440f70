"""A lock between processes by a file, such as those of stores and sweeps."""

import errno
import os
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from opsin.runs.disk_errors import NO_LOCKS

if TYPE_CHECKING:
    from filelock import AcquireReturnProxy


class DiskLock(FileLock):
    """A lock whose failure on a disk without locks is always one error, which `explanation` turns into a message.

    The lock of a run is another one: a run needs no locks of its disk.
    """

    def acquire(self, *args: Any, **kwargs: Any) -> "AcquireReturnProxy[Self]":
        """Acquire the lock, as in `filelock`.

        Raises:
            OSError: ENOLCK with the lock file; the disk has no locks.
        """
        try:
            return super().acquire(*args, **kwargs)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), self.lock_file) from error
