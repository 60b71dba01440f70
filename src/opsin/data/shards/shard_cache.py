"""Shards on the local disk: prefetched by threads, checked once, limited in size, and deleted afterwards."""

import hashlib
import shutil
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from opsin.data.cache.files import write_errors
from opsin.data.shards.index import Shard
from opsin.data.shards.reader import OpenShard
from opsin.data.shards.storage import Storage
from opsin.errors import UserError
from opsin.runs.disk_lock import DiskLock
from opsin.runs.quoting import opsin_command

AHEAD = 4
"""Shards that are fetched before they are needed."""

_FETCHERS = 4  # threads
_OPEN_FILES = 256  # shards of a local folder that are held open
_BLOCK = 2**20


class ShardCache:
    """The shards of all splits of one dataset, limited to a number of bytes on the local disk.

    Shards of a local folder are read where they are; each is checked when it is first opened, which also reads it into
    the page cache. Shards of a bucket are downloaded into a folder of this process, which is deleted at its end.

    Args:
        storage: Storage of the shards.
        cache_dir: Folder that holds the folders of all processes.
        limit: Maximum size of downloaded shards, in bytes.

    Attributes:
        fetched: Number of shards fetched so far.
    """

    def __init__(self, storage: Storage, cache_dir: Path, limit: int) -> None:
        self._storage = storage
        self._cache_dir = cache_dir
        self._limit = limit
        self._folder: Path | None = None
        self._shards: OrderedDict[Shard, Future[OpenShard]] = OrderedDict()
        self._expected: dict[Hashable, frozenset[Shard]] = {}
        self._checked: set[Shard] = set()
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="shards")
        self.fetched = 0

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[Storage, Path, int]]:
        return ShardCache, (self._storage, self._cache_dir, self._limit)  # each process has its own folder

    def take(self, shard: Shard) -> OpenShard:
        """Return a shard, and fetch it if needed.

        Raises:
            UserError: It is missing or corrupt.
        """
        while True:
            with self._lock:
                future = self._start(shard)
            try:
                return future.result()
            except CancelledError:  # the reader that expected it stopped before it was fetched
                continue

    def expect(self, reader: Hashable, shards: Sequence[Shard]) -> None:
        """Prefetch the shards one reader needs next, in this order, and keep them until the next call drops them.

        A dropped shard whose download has not started is not fetched, so that a run that stops does not wait for
        downloads.
        """
        with self._lock:
            before = self._expected.get(reader, frozenset())
            self._expected[reader] = frozenset(shards)
            for shard in before.difference(*self._expected.values()):
                future = self._shards.get(shard)
                if future is not None and future.cancel():
                    del self._shards[shard]
            for shard in shards:
                self._start(shard)

    @property
    def bytes(self) -> int:
        """Total size of the shards that are downloaded or being downloaded."""
        with self._lock:
            return 0 if self._storage.local else sum(shard.bytes for shard in self._shards)

    def _start(self, shard: Shard) -> Future[OpenShard]:
        future = self._shards.get(shard)
        if future is None or (future.done() and future.exception() is not None):
            self._shards.pop(shard, None)
            self._make_room(shard)
            if self._folder is None and not self._storage.local:
                self._folder = self._own_folder()
            future = self._shards[shard] = self._pool.submit(self._fetch, shard)
        self._shards.move_to_end(shard)
        return future

    def _make_room(self, coming: Shard) -> None:
        """Delete the least recently used shards, first those that no reader expects."""
        expected: frozenset[Shard] = frozenset().union(*self._expected.values())
        idle = [shard for shard, future in self._shards.items() if future.done()]
        idle.sort(key=lambda shard: shard in expected)  # stable: the least recently used come first
        for shard in idle:
            full = len(self._shards) >= _OPEN_FILES if self._storage.local else self.bytes + coming.bytes > self._limit
            if not full:
                return
            del self._shards[shard]
            if self._folder is not None:  # a reader may still have it open
                self._local_file(shard).unlink(missing_ok=True)

    def _fetch(self, shard: Shard) -> OpenShard:
        file = self._local_file(shard)
        with self._explained(file):
            if not self._storage.local:
                file.parent.mkdir(parents=True, exist_ok=True)  # deleted during the run, such as by a clean-up of /tmp
            if not self._storage.fetch(shard.file, file):
                raise UserError(
                    f"{shard.file} of {self._storage} is missing, but the index names it: copy it there again, or "
                    f"write the shards again with {opsin_command('prepare-data', 'DATASET', '--shards', 'OUT')}."
                )
            if shard not in self._checked or not self._storage.local:
                self._check(shard, file)
            self.fetched += 1
            return OpenShard(file)

    @contextmanager
    def _explained(self, file: Path) -> Iterator[None]:
        if not self._storage.local:
            with write_errors(file.parent, "Downloaded shards"):
                yield
            return
        try:
            yield
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error

    def _check(self, shard: Shard, file: Path) -> None:
        """Check that a file has the size and the digest that were written."""
        found = file.stat().st_size
        wrong = f"{found:,} bytes, expected {shard.bytes:,}" if found != shard.bytes else ""
        if not wrong:
            digest = hashlib.blake2b(digest_size=16)
            with file.open("rb") as content:
                while block := content.read(_BLOCK):
                    digest.update(block)
            wrong = "" if digest.hexdigest() == shard.digest else "its digest differs from the index"
        if wrong:
            raise UserError(
                f"{shard.file} of {self._storage} is corrupt: {wrong}. Copy it there again, or write the shards again "
                f"with {opsin_command('prepare-data', 'DATASET', '--shards', 'OUT')}."
            )
        self._checked.add(shard)

    def _local_file(self, shard: Shard) -> Path:
        if self._folder is None:
            return Path(str(self._storage)) / shard.file
        return self._folder / shard.file.replace("/", "-")

    def _own_folder(self) -> Path:
        """Create the folder of this process, deleted at its end; folders of killed processes are deleted now."""
        with write_errors(self._cache_dir, "Downloaded shards"):
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            for lock in self._cache_dir.glob("*.lock"):
                _delete_unless_held(lock)
            free = shutil.disk_usage(self._cache_dir).free
            if free < self._limit:
                raise UserError(
                    f"datamodule.cache_gb={self._limit / 1e9:g}: {self._cache_dir} has {free / 1e9:.1f} GB free. Set "
                    "data_dir to a larger disk, or lower cache_gb."
                )
            folder = self._cache_dir / uuid.uuid4().hex
            held = DiskLock(folder.with_suffix(".lock"))
            held.acquire()  # before the folder exists: another process deletes a folder whose lock is not held
            folder.mkdir(mode=0o700)
            weakref.finalize(self, _delete, folder, held)
        return folder


def _delete_unless_held(file: Path) -> None:
    lock = DiskLock(file)
    try:
        lock.acquire(timeout=0)
        _delete(file.with_suffix(""), lock)
    except (Timeout, PermissionError):  # PermissionError: the folder of another user
        return


def _delete(folder: Path, lock: DiskLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
