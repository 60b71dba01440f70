"""What every cache on the disk needs: turns between processes, room, files that are whole, and messages."""

import errno
import logging
import os
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.runs.atomic import unfinished_folder

Indices = NDArray[np.int64]

_LOG = logging.getLogger(__name__)
_SPARE = 64 * 2**20  # bytes to leave free on the disk
_LONG = 1.0  # seconds after which progress is worth showing
# Pages of a mapped file count as this process's memory once touched. Above this size rows are read with a system
# call each instead, out of the same page cache: as fast for large rows, and memory stays flat.
_MAPPED_AT_MOST = 256 * 2**20


class Rows:
    """The rows of an array in a `.npy` file, gathered by index without holding the array in memory.

    Attributes:
        array: The whole array, memory-mapped and read-only.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        mapped = np.load(file, mmap_mode="r")
        self.array: NDArray[Any] = np.asarray(mapped)
        self._file: int | None = None
        if self.array.nbytes > _MAPPED_AT_MOST and hasattr(os, "preadv"):
            self._file, self._start = os.open(file, os.O_RDONLY), mapped.offset
            weakref.finalize(self, os.close, self._file)

    def take(self, index: Indices) -> NDArray[Any]:
        """A new array of the rows at some places ``(B,)``."""
        if self._file is None:
            return np.take(self.array, index, axis=0)
        taken = np.empty((len(index), *self.array.shape[1:]), self.array.dtype)
        for row, place in zip(taken, index.tolist(), strict=True):
            if os.preadv(self._file, [row], self._start + place * row.nbytes) != row.nbytes:
                raise OSError(f"{self._path} changed while it was in use")
        return taken


def check_space(place: Path, needed: int, what: str) -> None:
    """See to it that there is room for `needed` bytes.

    Raises:
        UserError: There is not; `what` says what they are for.
    """
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE:
        raise UserError(
            f"{what} need {needed / 2**20:,.0f} MB, and {place.parent} has {free / 2**20:,.0f} MB "
            "free: free some space, set data_dir to a larger disk, or lower datamodule.image_size."
        )


@contextmanager
def naming(place: Path, what: str) -> Iterator[None]:
    """Turn the operating system's refusal to write into a message with the place and the way out."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            way_out = "free some space, set data_dir to a larger disk, or lower datamodule.image_size"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            way_out = "set data_dir to a folder you may write to; datamodule.path names where the data lie"
        else:
            raise
        raise UserError(f"{what} cannot be written to {place} ({error.strerror}): {way_out}.") from error


@contextmanager
def turn(folder: Path, work: str) -> Iterator[None]:
    """Wait until no other process builds in this folder. A killed process loses its turn by itself."""
    lock = _lock(folder)
    try:
        lock.acquire(timeout=_LONG)
    except Timeout:
        _LOG.info("waiting for another process that %s into %s", work, folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(folder.name + ".lock"))


def clear_leftovers(stores: Path) -> None:
    """Remove what killed builds of other stores left: unfinished folders whose lock nobody holds."""
    for unfinished in stores.glob(unfinished_folder(Path("*")).name):
        lock = _lock(unfinished.with_suffix(""))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(unfinished, ignore_errors=True)
        except Timeout:
            pass


@contextmanager
def progress(total: int, work: str) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, and elsewhere one line, for work that proves to be long."""
    if not sys.stderr.isatty():
        yield _one_line(total, work)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(work, total=total)
    begin = time.monotonic()

    def advance(images: int) -> None:
        bar.advance(task, images)
        if time.monotonic() - begin > _LONG:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def _one_line(total: int, work: str) -> Callable[[int], None]:
    begin, done, told = time.monotonic(), 0, False

    def advance(images: int) -> None:
        nonlocal done, told
        done += images
        elapsed = time.monotonic() - begin
        if not told and elapsed > _LONG and (left := elapsed / done * (total - done)) > _LONG:
            _LOG.info("%s: %s images, about %.0f s more", work, f"{total:,}", left)
            told = True

    return advance


class Stored(Protocol):
    """Rows of one shape and type, taken by index."""

    def __len__(self) -> int:
        """The number of rows."""

    def take(self, rows: Indices) -> NDArray[Any]:
        """A new array of some rows."""


def gather(stores: Sequence[Stored], index: Indices) -> NDArray[Any]:
    """A new array of some rows ``(B, ...)`` of one store, or of two laid end to end."""
    if len(stores) == 1:
        return stores[0].take(index)
    first, second = stores
    in_first = index < len(first)
    left, right = first.take(index[in_first]), second.take(index[~in_first] - len(first))
    rows = np.empty((len(index), *left.shape[1:]), left.dtype)
    rows[in_first], rows[~in_first] = left, right
    return rows
