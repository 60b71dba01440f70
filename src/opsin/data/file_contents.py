"""Digests of file contents. Each is saved with the state of its file, so an unchanged file is read only once.

Two datasets are the same if their contents are equal: copying, moving and unpacking files makes no difference.
"""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from opsin.data.decode import has_image_header, read_content
from opsin.data.progress import progress
from opsin.data.types import BadImage, Indices
from opsin.errors import UserError
from opsin.runs.atomic import atomic_open

_LOG = logging.getLogger(__name__)

_STATE = [("device", "<u8"), ("inode", "<u8"), ("size", "<i8"), ("mtime_ns", "<i8"), ("ctime_ns", "<i8")]
_RECORD = np.dtype([*_STATE, ("digest", "V16")])
_STATE_BYTES = np.dtype(_STATE).itemsize
_DIGEST_BYTES = 16
_SETTLED_NS = 2 * 10**9
"""Age at which a change of a file must show in its times; younger digests are used but not saved."""

_BLOCK = 256  # files that are hashed between two steps of the progress bar


@runtime_checkable
class HasContents(Protocol):
    """Images that are stored in files."""

    @property
    def contents(self) -> "FileContents":
        """The contents of the files."""


class FileContents:
    """Digests of the contents of some files, in memory and in a cache file.

    Args:
        paths: The files; an empty path stands for a missing image, which counts as an empty file.
        tables: Whether the files may be tables with images, which are always read. False: a large file that is not
            an image is not read, and counts by its size.
    """

    def __init__(self, paths: Sequence[str], *, tables: bool = False) -> None:
        self._paths = paths
        self._tables = tables
        self._digests = np.zeros((len(paths), _DIGEST_BYTES), np.uint8)
        self._known = np.zeros(len(paths), bool)
        self._unsaved = np.zeros(len(paths), bool)
        self._cache: Path | None = None

    @cached_property
    def states(self) -> NDArray[Any]:
        """Device, inode, size and times of each file ``(N,)``, as they were before it was read; zero if unreadable."""
        return np.array([_state(path) for path in self._paths], _STATE)

    @property
    def known(self) -> bool:
        """Whether the digests of all files are known."""
        return bool(self._known.all())

    @property
    def size(self) -> int:
        """Size of all files together, in bytes."""
        return int(self.states["size"].sum())

    def use_cache(self, file: Path) -> None:
        """Take unknown digests from a cache file, and save new ones there."""
        self._cache = file
        if self.known:
            return
        unreadable = self.states == np.zeros((), _STATE)
        for row in np.flatnonzero(unreadable).tolist():
            self.record(row, None)
        found = _lookup(file, self.states)
        if found:
            rows = np.array(list(found), np.int64)
            self._digests[rows] = np.frombuffer(b"".join(found.values()), np.uint8).reshape(-1, _DIGEST_BYTES)
            self._known[rows] = True

    def record(self, index: int, content: bytes | Path | None) -> None:
        """Record the digest of a file that has just been read; thread-safe.

        Args:
            index: Number of the file.
            content: Its bytes; its path if it is too large to be read at once; None if it cannot be read.

        Raises:
            UserError: The file has been removed or changed since it was listed.
        """
        path = self._paths[index]
        if content is None and path and not os.path.lexists(path):
            raise _not_as_listed(path, "removed")
        if not self._known[index]:
            self.record_digest(index, self._digest_of(content))
            self._unsaved[index] = content is not None
        elif _state(path) != self.states[index].item() and self._digest_of(content) != self._digests[index].tobytes():
            raise _not_as_listed(path, "changed")

    def record_digest(self, index: int, digest: bytes) -> None:
        """Record the digest of a file that the caller has computed in its own way, 16 bytes."""
        self._digests[index] = np.frombuffer(digest, np.uint8)
        self._known[index] = self._unsaved[index] = True

    def unknown(self) -> list[int]:
        """Return the numbers of the files whose digests are not known."""
        return np.flatnonzero(~self._known).tolist()

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of every file ``(N, 16)``; files that have not been read are read now."""
        if not self.known:
            self._hash(np.flatnonzero(~self._known))
        if self._cache is not None and self._unsaved.any():
            self._save(self._cache)
        return self._digests

    def _digest_of(self, content: bytes | Path | None) -> bytes:
        if not isinstance(content, Path):
            return digest(content or b"")
        if not self._tables and not has_image_header(content):
            return digest(f"{content.stat().st_size} bytes".encode())
        with content.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()

    def _hash(self, rows: Indices) -> None:
        """Read and hash some files, by several threads."""
        _ = self.states  # noted before the files are read

        def read(row: int) -> None:
            try:
                self.record(row, read_content(Path(self._paths[row])))
            except BadImage:
                self.record(row, None)

        with ThreadPoolExecutor(thread_name_prefix="hash") as pool, progress(len(rows), "hashing images") as advance:
            for start in range(0, len(rows), _BLOCK):
                block = rows[start : start + _BLOCK].tolist()
                list(pool.map(read, block))
                advance(len(block))

    def _save(self, cache: Path) -> None:
        """Add the new digests to the cache file; a cache that cannot be written only costs time.

        On a filesystem without inodes, a state does not identify a file, so its digests are not saved.
        """
        settled = np.maximum(self.states["mtime_ns"], self.states["ctime_ns"]) < time.time_ns() - _SETTLED_NS
        rows = np.flatnonzero(self._unsaved & settled & (self.states["inode"] > 0))
        new = np.empty(len(rows), _RECORD)
        for name, _ in _STATE:
            new[name] = self.states[name][rows]
        new["digest"] = np.ascontiguousarray(self._digests[rows]).view("V16").ravel()
        self._unsaved[:] = False
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(cache.with_name(cache.name + ".lock")):
                old = _read(cache)
                kept = old[~np.isin(old["inode"], new["inode"])]
                records = np.concatenate([kept, new]).tobytes()
                with atomic_open(cache) as file:
                    file.write(records + digest(records))
        except OSError as error:
            _LOG.debug("digests are not saved to %s: %s", cache, error)


def _not_as_listed(path: str, change: str) -> UserError:
    return UserError(
        f"{path} was {change} while it was in use. Restore it and start the command again, or start a new run"
    )


def _state(path: str) -> tuple[int, int, int, int, int]:
    with suppress(OSError, ValueError):  # such as a dangling link; reading it reports the reason
        state = os.stat(path)  # noqa: PTH116 - with a million files, creating a Path costs more than the stat
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
    return 0, 0, 0, 0, 0


def digest(content: bytes) -> bytes:
    """Return the digest of a content, 16 bytes."""
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _lookup(cache: Path, states: NDArray[Any]) -> dict[int, bytes]:
    """Return the digests in a cache file by the number of the file that has exactly this state."""
    records = _read(cache)
    records = records[np.isin(records["inode"], states["inode"])]
    size, content = _RECORD.itemsize, records.tobytes()
    starts = range(0, len(content), size)
    known = {content[at : at + _STATE_BYTES]: content[at + _STATE_BYTES : at + size] for at in starts}
    wanted = states.tobytes()
    keys = (wanted[at : at + _STATE_BYTES] for at in range(0, len(wanted), _STATE_BYTES))
    return {row: known[key] for row, key in enumerate(keys) if key in known}


def _read(cache: Path) -> NDArray[Any]:
    """Return the records of a cache file, which ends with their digest; empty if the file is missing or damaged."""
    try:
        content = cache.read_bytes()
    except OSError:
        return np.empty(0, _RECORD)
    records, recorded = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if len(records) % _RECORD.itemsize or digest(records) != recorded:
        return np.empty(0, _RECORD)
    return np.frombuffer(records, _RECORD)
