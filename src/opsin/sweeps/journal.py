"""The journal of a sweep, a file of one JSON record per line that several processes append to."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

__all__ = ["Journal"]


class Journal(JournalFileBackend):
    """A journal that a full disk or a kill cannot damage: an incomplete last line is removed.

    Optuna refuses a journal with an incomplete line as soon as another line follows.

    Args:
        path: The file; created if it does not exist.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._line_lock = JournalFileSymlinkLock(path)
        super().__init__(path, lock_obj=self._line_lock)
        self._remove_incomplete_line()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records; if that fails, none of them is in the file."""
        try:
            super().append_logs(logs)
        except OSError as error:
            error.filename = error.filename or str(self._path)
            with suppress(OSError):
                self._remove_incomplete_line()
            raise

    def _remove_incomplete_line(self) -> None:
        if self._complete_bytes() == self._path.stat().st_size:
            return
        self._line_lock.acquire()  # another process may be writing this line
        try:
            os.truncate(self._path, self._complete_bytes())
        finally:
            self._line_lock.release()

    def _complete_bytes(self) -> int:
        """Return the number of bytes up to the end of the last complete line."""
        with self._path.open("rb") as file:
            start = end = file.seek(0, os.SEEK_END)
            while start:
                start = max(0, start - 4096)
                file.seek(start)
                last = file.read(min(4096, end - start)).rfind(b"\n")
                if last >= 0:
                    return start + last + 1
        return 0
