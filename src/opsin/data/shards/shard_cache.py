"""The shards at hand: fetched ahead by threads, checked once, kept within a bound, and deleted again."""

import hashlib
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from opsin.data.cache.files import naming
from opsin.data.shards.index import Shard
from opsin.data.shards.reader import OpenShard
from opsin.data.shards.storage import Storage
from opsin.errors import UserError

AHEAD = 4
"""Shards that are fetched before they are needed."""

_FETCHERS = 4  # threads
_FILES = 256  # that are held open where nothing has to be copied
_BLOCK = 2**20


class ShardCache:
    """The shards of all splits of one dataset, at most so many bytes of them on the local disk.

    Shards of a local folder are read where they are; each is checked when it is first opened, which also brings it into
    the system's memory. Those of a bucket are downloaded into a folder of this process, which goes with it.

    Args:
        place: Where they lie.
        cache_dir: Holds the folders of all processes.
        limit: Bytes of downloaded shards.

    Attributes:
        fetched: How many shards have been fetched so far.
    """

    def __init__(self, place: Storage, cache_dir: Path, limit: int) -> None:
        self._place = place
        self._cache_dir = cache_dir
        self._limit = limit
        self._folder: Path | None = None
        self._there: OrderedDict[Shard, Future[OpenShard]] = OrderedDict()
        self._expected: dict[Hashable, frozenset[Shard]] = {}
        self._checked: set[Shard] = set()
        self._turn = threading.RLock()
        self._pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="shards")
        self.fetched = 0

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[Storage, Path, int]]:
        return ShardCache, (self._place, self._cache_dir, self._limit)  # another process has a folder of its own

    def take(self, shard: Shard) -> OpenShard:
        """A shard, fetched now where that has not begun.

        Raises:
            UserError: It is missing, or not what was written.
        """
        while True:
            with self._turn:
                future = self._begin(shard)
            try:
                return future.result()
            except CancelledError:  # by a reader that had expected it, and went away before it was fetched
                continue

    def expect(self, reader: Hashable, shards: Sequence[Shard]) -> None:
        """Begin to fetch what one reader will need next, in this order, and keep it until it is expected no more.

        What has not begun by then never does, so that a run which stops does not wait for shards.
        """
        with self._turn:
            before = self._expected.get(reader, frozenset())
            self._expected[reader] = frozenset(shards)
            for shard in before.difference(*self._expected.values()):
                future = self._there.get(shard)
                if future is not None and future.cancel():
                    del self._there[shard]
            for shard in shards:
                self._begin(shard)

    @property
    def bytes(self) -> int:
        """Of the shards that are downloaded, or are being so."""
        with self._turn:
            return 0 if self._place.local else sum(shard.bytes for shard in self._there)

    def _begin(self, shard: Shard) -> Future[OpenShard]:
        future = self._there.get(shard)
        if future is None or (future.done() and future.exception() is not None):
            self._there.pop(shard, None)
            self._make_room(shard)
            if self._folder is None and not self._place.local:
                self._folder = self._own_folder()
            future = self._there[shard] = self._pool.submit(self._fetch, shard)
        self._there.move_to_end(shard)
        return future

    def _make_room(self, coming: Shard) -> None:
        """Give up what was not used for longest, first of that which nobody expects."""
        expected: frozenset[Shard] = frozenset().union(*self._expected.values())
        idle = [shard for shard, future in self._there.items() if future.done()]
        idle.sort(key=lambda shard: shard in expected)  # stable: the oldest stay in front
        for shard in idle:
            full = len(self._there) >= _FILES if self._place.local else self.bytes + coming.bytes > self._limit
            if not full:
                return
            del self._there[shard]
            if self._folder is not None:  # whoever reads it still has it open
                self._local(shard).unlink(missing_ok=True)

    def _fetch(self, shard: Shard) -> OpenShard:
        file = self._local(shard)
        with self._naming(file):
            if not self._place.fetch(shard.file, file):
                raise UserError(
                    f"{shard.file} of {self._place} is missing, and the index names it: put it there again, or write "
                    "the shards anew with python scripts/prepare_data.py DATASET --shards OUT."
                )
            if shard not in self._checked or not self._place.local:
                self._check(shard, file)
            self.fetched += 1
            return OpenShard(file)

    @contextmanager
    def _naming(self, file: Path) -> Iterator[None]:
        if not self._place.local:
            with naming(file.parent, "The shards that are read"):
                yield
            return
        try:
            yield
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error

    def _check(self, shard: Shard, file: Path) -> None:
        """See to it that a file is what was written."""
        found = file.stat().st_size
        wrong = f"has {found:,} bytes in place of {shard.bytes:,}" if found != shard.bytes else ""
        if not wrong:
            digest = hashlib.blake2b(digest_size=16)
            with file.open("rb") as content:
                while block := content.read(_BLOCK):
                    digest.update(block)
            wrong = "" if digest.hexdigest() == shard.digest else "does not hold the bytes that were written"
        if wrong:
            raise UserError(
                f"{shard.file} of {self._place} is torn: it {wrong}. Copy it there again, or write the shards anew "
                "with python scripts/prepare_data.py DATASET --shards OUT."
            )
        self._checked.add(shard)

    def _local(self, shard: Shard) -> Path:
        if self._folder is None:
            return Path(str(self._place)) / shard.file
        return self._folder / shard.file.replace("/", "-")

    def _own_folder(self) -> Path:
        """A folder of this process, deleted when the process ends; what killed ones left is deleted now."""
        with naming(self._cache_dir, "The shards that are read"):
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            for lock in self._cache_dir.glob("*.lock"):
                _delete_unless_held(lock)
            free = shutil.disk_usage(self._cache_dir).free
            if free < self._limit:
                raise UserError(
                    f"datamodule.cache_gb={self._limit / 1e9:g}: {self._cache_dir} has {free / 1e9:.1f} GB free. Set "
                    "data_dir to a larger disk, or lower cache_gb."
                )
            folder = Path(tempfile.mkdtemp(dir=self._cache_dir))
            held = FileLock(folder.with_suffix(".lock"))
            held.acquire()
            weakref.finalize(self, _delete, folder, held)
        return folder


def _delete_unless_held(file: Path) -> None:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    _delete(file.with_suffix(""), lock)


def _delete(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
