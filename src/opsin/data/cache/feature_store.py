"""What a network makes of images, kept on disk in half precision and computed for the images that are asked for.

A feature store is a folder named by what decides its values. Rows that nobody has asked for are holes in its file:

    features.npy  float16 (N, ...), maps with their channels last
    done.npy      bool (N,), which rows hold what they should
    meta.json     what the name was made of

A row counts only once `done.npy` says so, which is replaced as a whole after the rows are on the disk. So several
runs fill one store, each what it lacks, and a killed one leaves nothing behind that is trusted.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opsin.data.cache.files import Rows, check_space, clear_leftovers, gather, naming, progress, turn
from opsin.errors import UserError
from opsin.runs.atomic import atomic_folder, atomic_open, flush, write_atomically

Indices = NDArray[np.int64]
Features = NDArray[np.float16]

_WHAT = "Cached features"
_BETWEEN_NOTES = 16  # blocks after which what is done is noted: what a kill can cost


class FeatureStore:
    """The features of `count` images, float16; see `open_features`."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._rows = Rows(folder / "features.npy")
        self._done = np.load(folder / "done.npy")
        if not len(self._rows.array) == len(self._done) == count:
            raise ValueError(f"{folder} is of other images")

    def __len__(self) -> int:
        """The number of rows, whether they are there or not."""
        return len(self._done)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row: ``(D,)``, or ``(H, W, C)``."""
        return self._rows.array.shape[1:]

    def lacks(self, rows: Indices) -> Indices:
        """Which of some rows are not there yet."""
        missing: Indices = rows[~self._done[rows]]
        return missing

    def take(self, rows: Indices) -> Features:
        """A new array ``(B, ...)`` of some rows, which must be there."""
        assert self._done[rows].all(), f"{self._folder} lacks rows that are asked for"
        return self._rows.take(rows)

    def complete(self, rows: Indices, block: int, compute: Callable[[Indices], NDArray[Any]]) -> int:
        """Compute those of some rows that are missing, unless another process does so meanwhile.

        Args:
            rows: Which are wanted.
            block: Rows that `compute` is given at once, always so many: what an image gives must not depend on
                those that were asked for beside it. The last block is filled up with its last row.
            compute: Gives the features ``(block, ...)`` of some rows ``(block,)``.

        Returns:
            How many were computed here.

        Raises:
            UserError: A value does not fit in half precision, or the disk is full.
        """
        if not len(self.lacks(rows)):
            return 0
        with naming(self._folder, _WHAT), turn(self._folder, "computes the same features"):
            self._done = np.load(self._folder / "done.npy")
            missing = self.lacks(rows)
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
                    self._done[here] = True
                    advance(len(here))
                    if number % _BETWEEN_NOTES == 0:
                        flush(file)
                        self._note()
                flush(file)
                self._note()
        return len(missing)

    def _note(self) -> None:
        with atomic_open(self._folder / "done.npy") as file:
            np.save(file, self._done)


class FeaturePart:
    """The features of the images of a split, one of several views of each drawn whenever it is read.

    Args:
        views: For each view the feature stores of the split's image stores, laid end to end.
        index: Which of their rows ``(N,)`` the split has, in its order.
    """

    def __init__(self, views: Sequence[Sequence[FeatureStore]], index: Indices) -> None:
        self._views = views
        self._index = index

    def mean(self) -> torch.Tensor:
        """The mean ``(D,)`` of the features of all images, float32; of the first view where there are several."""
        chunks = np.array_split(self._index, max(1, len(self._index) // 4096))
        total = sum(gather(self._views[0], chunk).sum(axis=0, dtype=np.float64) for chunk in chunks)
        return torch.from_numpy(np.asarray(total / len(self._index), np.float32))

    def read(self, positions: Indices, key: int) -> Features:
        """A new array ``(B, ...)`` of the features at some positions ``(B,)``; the batch's key draws the views."""
        index = self._index[positions]
        if len(self._views) == 1:
            return gather(self._views[0], index)
        drawn = np.random.default_rng(key).integers(len(self._views), size=len(index))
        features = np.empty((len(index), *self._views[0][0].shape), np.float16)
        for number, stores in enumerate(self._views):
            features[drawn == number] = gather(stores, index[drawn == number])
        return features


def open_features(cache_dir: Path | str, facts: Mapping[str, Any], count: int, shape: tuple[int, ...]) -> FeatureStore:
    """The store of the features that some facts decide, made empty where there is none.

    Args:
        cache_dir: The folder of all feature stores.
        facts: Plain values: everything that decides the features' values.
        count: Images there are.
        shape: Of the features of one image.

    Raises:
        UserError: The folder cannot be written to.
    """
    name = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    folder = Path(cache_dir).resolve() / name
    store = _load(folder, count)
    if store is None:
        with naming(folder.parent, _WHAT):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with turn(folder, "begins the same features"):
                if _load(folder, count) is None:
                    _make(folder, facts, (count, *shape))
        store = _load(folder, count)
        assert store is not None, f"the features just begun cannot be read: {folder}"
    return store


def _load(folder: Path, count: int) -> FeatureStore | None:
    try:
        return FeatureStore(folder, count)
    except (OSError, ValueError, EOFError):
        return None


def _make(folder: Path, facts: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    clear_leftovers(folder.parent)
    with atomic_folder(folder) as unfinished:
        with (unfinished / "features.npy").open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + int(np.prod(shape)) * 2)  # a hole: no block is allocated before it is written
            flush(file)
        with (unfinished / "done.npy").open("wb") as file:
            np.save(file, np.zeros(shape[0], bool))
            flush(file)
        write_atomically(unfinished / "meta.json", json.dumps(facts, indent=2))


def _half(values: NDArray[Any]) -> Features:
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, np.float16)
    if not np.isfinite(half).all():
        raise UserError(
            "What the network makes of the images has values that half precision cannot hold (above 65,504, or not a "
            "number), so it cannot be cached: look whether mean and std of the images suit the weights. Frozen "
            "features can do without the cache (feature_cache=off)."
        )
    return half
