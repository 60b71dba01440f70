"""Images decoded once into uint8 pixels on disk, memory-mapped and served in whole batches by index.

A store is a folder named by what decides its pixels: the images, the size, how they are brought to it, and
the version of this code. It appears whole or not at all, and is never changed afterwards:

    pixels.npy      uint8 (N, H, W, C)
    targets.npy     int64 (N,), class indices
    kept.npy        int64 (N,), which of the source's images these are
    bad_images.csv  the images that could not be decoded, and why
    meta.json       what the name was made of
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.files import Rows
from opsin.data.cache.image_store_builder import build
from opsin.data.preprocessing import Interpolation, Resize, fit_image
from opsin.data.source import ArrayImages, Images
from opsin.errors import UserError

OnBadImage = Literal["skip", "raise"]
Origin = Literal["given", "carved"]
Indices = NDArray[np.int64]

# Part of every store's name: raise it when decoding or fitting to size changes a single pixel.
VERSION = 1


class Store:
    """The images of one `Images` at one size, taken by row: decoded on the disk, in memory, or in shards somewhere.

    Attributes:
        images: Where they come from.
        fingerprint: Changes whenever a pixel, a target or the order can have changed.
        targets: Class indices ``(N,)``, int64.
        kept: Position ``(N,)`` of each image in `images`.
        shape: Of one image, ``(H, W, C)``.
        origin: Whether a source brings these images as a split, or whoever wrote them had carved them.
        at_hand: Whether reading any image is as cheap as reading another.
        bad: Location and reason of each image that could not be decoded.
        report: The file that lists them; None: there is none.
    """

    images: Images
    fingerprint: str
    targets: Indices
    kept: Indices
    shape: tuple[int, int, int]
    origin: Origin = "given"
    at_hand: bool = True
    bad: Sequence[tuple[str, str]] = ()
    report: Path | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.targets)

    def take(self, rows: Indices) -> NDArray[np.uint8]:
        """A new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``."""
        raise NotImplementedError

    def locate(self, row: int) -> str:
        """Where an image comes from: its path, or the name of the split and its number there."""
        return self.images.locate(int(self.kept[row]))

    def identify(self, rows: Indices) -> bytes:
        """What tells some images, in their order, from all others, at whatever size they are served."""
        return self.images.fingerprint.encode() + self.kept[rows].tobytes()

    def as_they_lie(self, rows: Indices) -> Indices:
        """Some rows in the order in which they are read best, by whom any order will do."""
        return rows


class DecodedStore(Store):
    """Images that were decoded into a folder, or that are arrays of the size already.

    Args:
        images: The images.
        fingerprint: As `store_key` gives it.
        folder: Of the decoded images. None: `images` are arrays, and served from memory.

    Attributes:
        pixels: uint8 ``(N, H, W, C)``; memory-mapped, unless they are in memory.
    """

    def __init__(self, images: Images, fingerprint: str, folder: Path | None = None) -> None:
        self.images = images
        self.fingerprint = fingerprint
        if folder is None:
            assert isinstance(images, ArrayImages)
            self._rows: Rows | None = None
            # Rows of an array that is a view in another order (CIFAR-10's is) would cost a copy of it all, every time.
            self.pixels: NDArray[np.uint8] = np.ascontiguousarray(images.pixels)
            self.targets = images.targets
            self.kept = np.arange(len(images))
        else:
            self._rows = Rows(folder / "pixels.npy")
            self.pixels = self._rows.array
            self.targets = np.load(folder / "targets.npy")
            self.kept = np.load(folder / "kept.npy")
            self.report = folder / "bad_images.csv"
            with self.report.open(newline="", encoding="utf-8") as file:
                self.bad = [(images.locate(int(row["index"])), row["reason"]) for row in csv.DictReader(file)]
        height, width, channels = self.pixels.shape[1:]
        self.shape = (height, width, channels)

    def take(self, rows: Indices) -> NDArray[np.uint8]:
        """A new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``."""
        return self._rows.take(rows) if self._rows else np.take(self.pixels, rows, axis=0)


def store_key(images: Images, size: tuple[int, int], resize: Resize, interpolation: Interpolation) -> str:
    """The name of the store of these images at this size: 32 hex digits; reads no image."""
    facts = json.dumps(_facts(images, size, resize, interpolation))
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


def _facts(images: Images, size: tuple[int, int], resize: Resize, interpolation: Interpolation) -> dict[str, Any]:
    return {
        "version": VERSION,
        "images": images.fingerprint,
        "size": list(size),
        "resize": resize,
        "interpolation": interpolation,
    }


def open_store(
    images: Images,
    size: tuple[int, int],
    resize: Resize = "squash",
    interpolation: Interpolation = "bilinear",
    *,
    cache_dir: Path | str,
    on_bad_image: OnBadImage = "skip",
    workers: int | None = None,
) -> Store:
    """The images at a size, decoded now unless they were before.

    Arrays that have the size are served from memory and nothing is written. Several processes may ask at
    once: one builds, the others wait and use what it built.

    Args:
        images: What to decode.
        size: Height and width to serve, in pixels.
        resize: How images are brought to the size, see `fit_image`.
        interpolation: Likewise.
        cache_dir: The folder of all stores.
        on_bad_image: `skip` leaves out images that cannot be decoded, `raise` refuses them all in one
            message.
        workers: Threads that decode; None: one per core of this process. The pixels do not depend on it.

    Returns:
        The store, with at least one image.

    Raises:
        UserError: There is a bad image and `on_bad_image` is `raise`, or no good one; the disk is full or the
            folder cannot be written to.
    """
    key = store_key(images, size, resize, interpolation)
    if isinstance(images, ArrayImages) and images.pixels.shape[1:3] == size:
        return DecodedStore(images, key)
    folder = Path(cache_dir).resolve() / key
    store = _load(images, folder)
    if not store:  # nor is one trusted that holds no image: it may have been the machine that failed
        facts = _facts(images, size, resize, interpolation)
        fit = partial(fit_image, size=size, resize=resize, interpolation=interpolation)
        build(images, folder, facts, fit, workers, trusted=lambda: bool(_load(images, folder)))
        store = _load(images, folder)
        assert store is not None, f"the store just built cannot be read: {folder}"
    judge(store, on_bad_image)
    return store


def _load(images: Images, folder: Path) -> DecodedStore | None:
    """The store in a folder; None where there is none, or one that somebody damaged."""
    try:
        count = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["count"]
        store = DecodedStore(images, folder.name, folder)
    except (OSError, ValueError, KeyError):
        return None
    sound = len(store.pixels) == len(store.targets) == len(store.kept) == count
    return store if sound and count + len(store.bad) == len(images) else None


def judge(store: Store, on_bad_image: OnBadImage) -> None:
    """Refuse a store without images, and one that had bad ones unless they may be left out.

    Raises:
        UserError: So it is; the first ten bad images are named.
    """
    if len(store) and (not store.bad or on_bad_image == "skip"):
        return
    total = len(store) + len(store.bad)
    if not total:
        raise UserError("There is no image to decode: the source is empty.")
    named = "\n".join(f"  {location}: {reason}" for location, reason in store.bad[:10])
    more = f"\n  and {len(store.bad) - 10} more" if len(store.bad) > 10 else ""
    way_out = "Mend or remove them, or set on_bad_image=skip" if len(store) else "Are these images?"
    raise UserError(
        f"{len(store.bad)} of {total} images cannot be decoded:\n{named}{more}\n"
        f"{f'All are listed in {store.report}. ' if store.report else ''}{way_out}"
    )


def decode_again(
    store: Store, rows: Indices, size: tuple[int, int], resize: Resize, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """The images of some rows of a store at another size, from their source: ``(B, *size, C)``, nothing is kept."""
    images = store.images

    def fitted(row: int) -> NDArray[np.uint8]:
        return fit_image(images.read(int(store.kept[row])), size, resize, interpolation)

    with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
        return np.stack(list(pool.map(fitted, rows.tolist())))
