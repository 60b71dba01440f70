"""All caches on disk: their folders, locks between processes, free space, and arrays read by row."""

import errno
import logging
import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from opsin.data.types import Indices
from opsin.errors import UserError
from opsin.runs.atomic import unfinished_folder
from opsin.runs.disk_errors import FORBIDDEN, FULL, QUOTA, READ_ONLY, disk_failure
from opsin.runs.disk_lock import DiskLock
from opsin.runs.home import user_path

_LOG = logging.getLogger(__name__)
_SPARE = 64 * 2**20  # bytes to leave free on the disk
_PATIENCE_S = 1.0  # seconds after which waiting for a lock is worth a message
# Touched pages of a memory-mapped file count as memory of this process. Above this size each row is read with a
# system call instead, from the same page cache: as fast for large rows, and memory use stays constant.
_MAPPED_AT_MOST = 256 * 2**20


def cache_folder(data_dir: str | Path, content: Literal["stores", "features", "shards"]) -> Path:
    """Return the folder of decoded images, of cached features, or of downloaded shards: `data_dir/.opsin/CONTENT`."""
    return user_path(data_dir) / ".opsin" / content


def digest_cache(caches: Path) -> Path:
    """Return the file of the digests of files, next to the folder of all stores or of all features."""
    return caches.with_name("digests.bin")


class ArrayFile:
    """An array in a `.npy` file, read by row without holding the array in memory.

    Attributes:
        array: The whole array, memory-mapped and read-only.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        self.array: NDArray[Any] = np.asarray(mapped)
        self._file: int | None = None
        if self.array.nbytes > _MAPPED_AT_MOST and hasattr(os, "preadv"):
            self._file, self._start = os.open(file, os.O_RDONLY), mapped.offset
            weakref.finalize(self, os.close, self._file)

    def take(self, rows: Indices) -> NDArray[Any]:
        """Return a new array of some rows ``(B,)``."""
        if self._file is None:
            return np.take(self.array, rows, axis=0)
        taken = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        for into, row in zip(taken, rows.tolist(), strict=True):
            if os.preadv(self._file, [into], self._start + row * into.nbytes) != into.nbytes:
                raise OSError(f"{self._path} changed while it was in use")
        return taken


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk has room for `needed` bytes of `what`.

    Raises:
        UserError: The disk has less room.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise UserError(
            f"{what} need {needed / 2**20:,.0f} MB, and {folder.parent} has {free / 2**20:,.0f} MB "
            "free: free some space, set data_dir to a larger disk, or lower datamodule.image_size."
        )


@contextmanager
def write_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn an error of writing `what` to a folder into a message that names the folder and what to do about it."""
    try:
        yield
    except OSError as error:
        reason = disk_failure(error, folder)
        if error.errno in (*FULL, *QUOTA):
            way_out = "free some space, set data_dir to a larger disk, or lower datamodule.image_size"
        elif error.errno in (*READ_ONLY, *FORBIDDEN, errno.ENOTDIR, errno.EEXIST):
            way_out = "set data_dir to a folder that you may write to; datamodule.path can name another folder"
        else:
            raise
        raise UserError(f"{what} cannot be written to {folder} ({reason or error.strerror}): {way_out}.") from error


@contextmanager
def build_lock(folder: Path, work: str) -> Iterator[None]:
    """Hold the lock of a folder that is being built; a killed process releases it.

    Args:
        folder: The folder.
        work: The work of another process there, for the log: "decodes the same images".
    """
    lock = _lock(folder)
    try:
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout:
        _LOG.info("waiting for another process that %s in %s", work, folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(folder: Path) -> DiskLock:
    return DiskLock(folder.with_name(folder.name + ".lock"))


def delete_leftovers(stores: Path) -> None:
    """Delete the unfinished folders of killed builds: those whose lock no process holds."""
    for unfinished in stores.glob(unfinished_folder(Path("*")).name):
        lock = _lock(unfinished.with_suffix(""))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(unfinished, ignore_errors=True)
        except Timeout:
            pass


class RowStore(Protocol):
    """Rows of one shape and type, read by number."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def take(self, rows: Indices) -> NDArray[Any]:
        """Return a new array of some rows."""


def gather(stores: Sequence[RowStore], index: Indices) -> NDArray[Any]:
    """Return a new array of some rows ``(B, ...)`` of one store, or of two stores that are numbered in sequence."""
    if len(stores) == 1:
        return stores[0].take(index)
    first, second = stores
    in_first = index < len(first)
    left, right = first.take(index[in_first]), second.take(index[~in_first] - len(first))
    rows = np.empty((len(index), *left.shape[1:]), left.dtype)
    rows[in_first], rows[~in_first] = left, right
    return rows
