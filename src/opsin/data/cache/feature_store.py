"""Features that a network computes from images, cached on disk in half precision and computed on demand.

A feature store is a folder whose name is a digest of everything that decides its values. Rows that were never
requested are holes in its file:

    features.npy  float16 (N, ...), maps with their channels last
    done.npy      uint64 (N,), 0 for a row that is not computed, else 2**32 + CRC-32 of its bytes
    meta.json     the values behind the name

A row is valid only if it is marked in `done.npy`, which is replaced atomically after the rows are on the disk. So
several runs can fill one store, each with the missing rows, and incomplete rows of a killed run are not used. The rows
are compared with their checksums once per state of the file; damaged rows are computed again.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opsin.data.cache.files import (
    ArrayFile,
    build_lock,
    check_space,
    delete_leftovers,
    digest_cache,
    gather,
    write_errors,
)
from opsin.data.file_contents import FileContents
from opsin.data.progress import progress
from opsin.data.types import Indices
from opsin.errors import UserError
from opsin.runs.atomic import atomic_folder, atomic_open, flush, write_atomically

Features = NDArray[np.float16]

_LOG = logging.getLogger(__name__)
_DONE = 1 << 32
_CHECKED_BYTES = 2**24  # rows that are read together to check them
_WHAT = "Cached features"
_BLOCKS_PER_SAVE = 16  # blocks between two updates of `done.npy`, which a kill can lose


class FeatureStore:
    """The features of `count` images, float16; see `open_features`."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._rows = ArrayFile(folder / "features.npy")
        self._done = self._read_done()
        if not len(self._rows.array) == len(self._done) == count or self._done.dtype != np.uint64:
            raise ValueError(f"{folder} was made for other images")

    def __len__(self) -> int:
        """Return the number of rows, computed or not."""
        return len(self._done)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row: ``(D,)``, or ``(H, W, C)``."""
        return self._rows.array.shape[1:]

    def missing(self, rows: Indices) -> Indices:
        """Return the rows among the given ones that are not computed yet."""
        missing: Indices = rows[self._done[rows] == 0]
        return missing

    def take(self, rows: Indices) -> Features:
        """Return a new array ``(B, ...)`` of some rows, which must be computed."""
        assert self._done[rows].all(), f"{self._folder} has not computed the requested rows"
        return self._rows.take(rows)

    def compute_missing(self, rows: Indices, block: int, compute: Callable[[Indices], NDArray[Any]]) -> int:
        """Compute the given rows that are missing, unless another process has computed them meanwhile.

        Args:
            rows: The rows ``(B,)``.
            block: Number of rows per call of `compute`, always the same, because the features of an image must not
                depend on the others of the call. The last block is filled up with its last row.
            compute: Returns the features ``(block, ...)`` of some rows ``(block,)``.

        Returns:
            The number of rows computed here.

        Raises:
            UserError: A value does not fit in half precision, or the disk is full.
        """
        if not len(self.missing(rows)):
            return 0
        with write_errors(self._folder, _WHAT), build_lock(self._folder, "computes the same features"):
            self._done = self._read_done()
            missing = self.missing(rows)
            check_space(self._folder, len(missing) * self._rows.array[:1].nbytes, _WHAT)
            with (
                (self._folder / "features.npy").open("r+b") as file,
                progress(len(missing), "computing features, once") as advance,
            ):
                start = Path(file.name).stat().st_size - self._rows.array.nbytes
                for number, first in enumerate(range(0, len(missing), block), start=1):
                    here = missing[first : first + block]
                    values = _half(compute(np.pad(here, (0, block - len(here)), mode="edge"))[: len(here)])
                    for row, value in zip(here.tolist(), values, strict=True):
                        file.seek(start + row * value.nbytes)
                        file.write(value.data)
                        self._done[row] = _mark(value)
                    advance(len(here))
                    if number % _BLOCKS_PER_SAVE == 0:
                        flush(file)
                        self._save_done()
                flush(file)
                self._save_done()
        return len(missing)

    def recompute_damaged(self) -> None:
        """Mark rows with damaged bytes as missing; reads the rows only if the file has changed since their last check.

        Raises:
            UserError: There are damaged rows, and the folder cannot be written to.
        """
        contents = FileContents([str(self._folder / "features.npy")])
        contents.use_cache(digest_cache(self._folder.parent))
        checked = hashlib.blake2b(self._done.tobytes(), digest_size=16).digest()
        if contents.known and contents.digests().tobytes() == checked:
            return
        damaged = self._damaged()
        if not len(damaged):  # the marks stand for the content of the rows
            contents.record_digest(0, checked)
            contents.digests()
            return
        _LOG.warning("%d of the cached features in %s are damaged: computing them again", len(damaged), self._folder)
        with write_errors(self._folder, _WHAT), build_lock(self._folder, "computes the same features"):
            self._done = self._read_done()
            self._done[self._damaged()] = 0
            self._save_done()

    def _damaged(self) -> Indices:
        """Return the rows whose bytes do not have their checksum."""
        rows = np.flatnonzero(self._done)
        chunk = max(1, _CHECKED_BYTES // max(1, self._rows.array[:1].nbytes))
        damaged: list[int] = []
        for start in range(0, len(rows), chunk):
            some = rows[start : start + chunk]
            values = zip(some.tolist(), self._rows.take(some), strict=True)
            damaged += [row for row, value in values if self._done[row] != _mark(value)]
        return np.array(damaged, np.int64)

    def _read_done(self) -> NDArray[np.uint64]:
        done: NDArray[np.uint64] = np.load(self._folder / "done.npy", allow_pickle=False)
        return done

    def _save_done(self) -> None:
        with atomic_open(self._folder / "done.npy") as file:
            np.save(file, self._done)


class FeatureSubset:
    """The cached features of a split, of one or several augmented views of each image.

    Epoch `e` reads view `e` modulo the number of views. A view is computed when it is first read.

    Args:
        views: For each view, a function that returns the feature stores of the split's image stores, with all rows of
            the split computed. Row numbers run through all stores of a view, one after the other.
        index: The rows ``(N,)`` of the split, in its order.
    """

    def __init__(self, views: Sequence[Callable[[], Sequence[FeatureStore]]], index: Indices) -> None:
        self._views = [cache(view) for view in views]
        self._index = index

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the features of one image."""
        return self._views[0]()[0].shape

    def compute(self, views: int) -> None:
        """Compute the first views now.

        Raises:
            UserError: They cannot be written, or exceed the range of half precision.
        """
        for view in self._views[:views]:
            view()

    def mean(self) -> torch.Tensor:
        """Return the mean ``(D,)`` of the features of all images in the first view, float32."""
        chunks = np.array_split(self._index, max(1, len(self._index) // 4096))
        total = sum(gather(self._views[0](), chunk).sum(axis=0, dtype=np.float64) for chunk in chunks)
        return torch.from_numpy(np.asarray(total / len(self._index), np.float32))

    def read(self, positions: Indices, epoch: int) -> Features:
        """Return the features ``(B, ...)`` at some positions ``(B,)`` in an epoch, a new array.

        Raises:
            UserError: The view of this epoch is computed now, and cannot be written.
        """
        return gather(self._views[epoch % len(self._views)](), self._index[positions])


def open_features(cache_dir: Path | str, facts: Mapping[str, Any], count: int, shape: tuple[int, ...]) -> FeatureStore:
    """Open the feature store of some facts, and create an empty one if needed.

    Args:
        cache_dir: Folder of all feature stores.
        facts: Plain values: everything that decides the features.
        count: Number of images.
        shape: Shape of the features of one image.

    Raises:
        UserError: The folder cannot be written to.
    """
    name = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    folder = Path(cache_dir).resolve() / name
    store = _load(folder, count)
    if store is None:
        if folder.exists():
            _LOG.warning("the cached features in %s are damaged: computing them again", folder)
        with write_errors(folder.parent, _WHAT):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with build_lock(folder, "creates the same features"):
                if _load(folder, count) is None:
                    _create(folder, facts, (count, *shape))
        store = _load(folder, count)
        assert store is not None, f"the features just created cannot be read: {folder}"
    store.recompute_damaged()
    return store


def _load(folder: Path, count: int) -> FeatureStore | None:
    try:
        return FeatureStore(folder, count)
    except (OSError, ValueError, TypeError, EOFError):
        return None


def _create(folder: Path, facts: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    delete_leftovers(folder.parent)
    with atomic_folder(folder) as unfinished:
        with (unfinished / "features.npy").open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + int(np.prod(shape)) * 2)  # a hole: no block is allocated before it is written
            flush(file)
        with (unfinished / "done.npy").open("wb") as file:
            np.save(file, np.zeros(shape[0], np.uint64))
            flush(file)
        write_atomically(unfinished / "meta.json", json.dumps(facts, indent=2))


def _mark(row: Features) -> int:
    """Return the mark of a computed row: its checksum, and a bit that a missing row does not have."""
    return _DONE | zlib.crc32(np.ascontiguousarray(row).data)


def _half(values: NDArray[Any]) -> Features:
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, np.float16)
    if not np.isfinite(half).all():
        raise UserError(
            "The features have values that half precision cannot represent (above 65,504, or not a number), so they "
            "cannot be cached: check that mean and std of the images suit the weights, or train without the cache "
            "(feature_cache=off)."
        )
    return half
