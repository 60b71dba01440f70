"""Images decoded once into uint8 pixels on disk, memory-mapped and read in batches by row.

A store is a folder whose name is a digest of everything that decides its pixels: the content of the images, the size,
the resizing and the version of this code. It appears whole or not at all, and never changes:

    pixels.npy      uint8 (N, H, W, C)
    targets.npy     int64 (N,), class indices
    kept.npy        int64 (N,), numbers of these images in the source
    bad_images.csv  images that cannot be decoded, and why
    meta.json       the values behind the name, and the digests of the other files

The digests are checked once per state of the files (`opsin.data.cache.checksums`); a damaged store is built again.
"""

import csv
import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.checksums import damaged_file
from opsin.data.cache.files import ArrayFile, digest_cache
from opsin.data.cache.image_store_builder import CHECKED, build
from opsin.data.decode import DECODING_VERSION
from opsin.data.file_contents import HasContents
from opsin.data.fit import Fit, Interpolation, Resize
from opsin.data.source import ArrayImages, FileImages, Images
from opsin.data.types import BadImage, Indices, SplitOrigin
from opsin.errors import UserError
from opsin.runs.cpu_cores import available_cores

_LOG = logging.getLogger(__name__)

OnBadImage = Literal["skip", "raise"]


class Store:
    """The images of one `Images` at one size, read by row: decoded on the disk, in memory, or in shards.

    Attributes:
        images: The source of the images.
        fingerprint: Changes whenever a pixel, a target or the order may have changed.
        targets: Class indices ``(N,)``, int64.
        kept: Position ``(N,)`` of each image in `images`.
        shape: Shape of one image, ``(H, W, C)``.
        origin: Whether the dataset provides these images as a split, or they were split off when shards were written.
        random_access: Whether images are read equally fast in any order.
        bad: Location and reason of each image that could not be decoded.
        report: The file that lists the bad images, or None.
    """

    images: Images
    fingerprint: str
    targets: Indices
    kept: Indices
    shape: tuple[int, int, int]
    origin: SplitOrigin = "given"
    random_access: bool = True
    bad: Sequence[tuple[str, str]] = ()
    report: Path | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.targets)

    def take(self, rows: Indices) -> NDArray[np.uint8]:
        """Return a new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``."""
        raise NotImplementedError

    def read_source(self, row: int, fit: Fit | None = None) -> NDArray[np.uint8]:
        """Return one image from its source, ``(H, W, C)``, at the size of `fit`; None: at its own size.

        Raises:
            UserError: It cannot be decoded so: its file has changed, or is too large or too narrow for this size.
        """
        try:
            return self.images.read(int(self.kept[row]), fit)
        except BadImage as error:
            size = f"at {fit.size[1]} x {fit.size[0]} pixels" if fit else "at its own size"
            raise UserError(
                f"{self.locate(row)} cannot be decoded {size}: {error}. Repair or replace the file."
            ) from error

    def locate(self, row: int) -> str:
        """Return where an image comes from: its path, or the name of its split and its number there."""
        return self.images.locate(int(self.kept[row]))

    def numbered(self, rows: Indices) -> tuple[str, Indices]:
        """Return the fingerprint of the images of the dataset, and the numbers ``(B,)`` of some rows ``(B,)`` in it."""
        return self.images.fingerprint, self.kept[rows]

    def identify(self, rows: Indices) -> bytes:
        """Return bytes that identify some images and their order, independent of their size."""
        fingerprint, numbers = self.numbered(rows)
        return fingerprint.encode() + numbers.tobytes()

    def in_reading_order(self, rows: Indices) -> Indices:
        """Reorder rows for sequential reading; for callers that do not care about order."""
        return rows


class DecodedStore(Store):
    """Images decoded into a folder, or arrays that have the size already.

    Args:
        images: The images.
        fingerprint: The result of `store_key`.
        folder: Folder of the decoded images, or None if `images` are arrays in memory.

    Attributes:
        pixels: uint8 ``(N, H, W, C)``; memory-mapped, unless they are in memory.
    """

    def __init__(self, images: Images, fingerprint: str, folder: Path | None = None) -> None:
        self.images = images
        self.fingerprint = fingerprint
        if folder is None:
            assert isinstance(images, ArrayImages)
            self._rows: ArrayFile | None = None
            # Taking rows of a view in another axis order (as CIFAR-10's) would copy the whole array every time.
            self.pixels: NDArray[np.uint8] = np.ascontiguousarray(images.pixels)
            self.targets = images.targets
            self.kept = np.arange(len(images))
        else:
            self._rows = ArrayFile(folder / "pixels.npy")
            self.pixels = self._rows.array
            self.targets = np.load(folder / "targets.npy", allow_pickle=False)
            self.kept = np.load(folder / "kept.npy", allow_pickle=False)
            self.report = folder / "bad_images.csv"
            with self.report.open(newline="", encoding="utf-8") as file:
                self.bad = [(images.locate(int(row["index"])), row["reason"]) for row in csv.DictReader(file)]
        height, width, channels = self.pixels.shape[1:]
        self.shape = (height, width, channels)

    def take(self, rows: Indices) -> NDArray[np.uint8]:
        """Return a new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``."""
        return self._rows.take(rows) if self._rows else np.take(self.pixels, rows, axis=0)


def store_key(images: Images, size: tuple[int, int], resize: Resize, interpolation: Interpolation) -> str:
    """Return the name of the store of these images at this size, 32 hex digits; reads files of unknown content."""
    facts = json.dumps(_facts(images, size, resize, interpolation))
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


def _listing_key(images: FileImages, *options: Any) -> str:
    """Return the name of the folder in which a store is built until the content of its files is known."""
    facts = repr((_options(*options), images.channels)).encode()
    digest = hashlib.blake2b(facts, digest_size=16)
    digest.update(images.contents.states.tobytes())
    digest.update(images.targets.tobytes())
    return digest.hexdigest()


def _facts(images: Images, *options: Any) -> dict[str, Any]:
    return {"images": images.fingerprint, **_options(*options)}


def _options(size: tuple[int, int], resize: Resize, interpolation: Interpolation) -> dict[str, Any]:
    return {"version": DECODING_VERSION, "size": size, "resize": resize, "interpolation": interpolation}


def open_store(
    images: Images,
    size: tuple[int, int],
    resize: Resize = "squash",
    interpolation: Interpolation = "bilinear",
    *,
    cache_dir: Path | str,
    on_bad_image: OnBadImage = "skip",
    workers: int | None = None,
    reserved: int = 0,
) -> Store:
    """Open the store of some images at a size, and build it if needed.

    Arrays that have the size stay in memory, and nothing is written. If several processes call this at once, one
    builds the store and the others wait for it.

    Args:
        images: The images to decode.
        size: Height and width of the images in the store, in pixels.
        resize: Resize method, see `Fit`.
        interpolation: Filter of the resizing.
        cache_dir: The folder of all stores.
        on_bad_image: `skip` leaves out images that cannot be decoded, `raise` names them all in one error.
        workers: Decoding threads; None for one per core. The pixels do not depend on it.
        reserved: Bytes that the disk must have besides, for stores that are built later.

    Returns:
        The store, with at least one image.

    Raises:
        UserError: An image cannot be decoded and `on_bad_image` is `raise`, none can be decoded, the disk is full, or
            the folder cannot be written to.
    """
    options = (size, resize, interpolation)
    if isinstance(images, ArrayImages) and images.pixels.shape[1:3] == size:
        return DecodedStore(images, store_key(images, *options))
    stores = Path(cache_dir).resolve()
    use_digest_cache(images, stores)
    if isinstance(images, FileImages) and _decodes_first(images, stores, *options):
        # The name of the store depends on the content, which is known only once every file has been read.
        _build(
            images,
            stores / _listing_key(images, *options),
            options,
            workers,
            reserved,
            trusted=lambda: not _decodes_first(images, stores, *options),
            final=lambda: stores / store_key(images, *options),
        )
    folder = stores / store_key(images, *options)
    store = _load(images, folder)
    if not store:  # a store without images is built again: the machine may have failed
        if folder.exists():
            _LOG.warning("the decoded images in %s are damaged: decoding them again", folder)
        _build(images, folder, options, workers, reserved, lambda: bool(_load(images, folder)), lambda: folder)
        store = _load(images, folder, check=False)
        assert store is not None, f"the store just built cannot be read: {folder}"
    check_images(store, on_bad_image)
    return store


def bytes_to_write(
    images: Images, size: tuple[int, int], resize: Resize, interpolation: Interpolation, cache_dir: Path
) -> int:
    """Return the bytes that `open_store` would write; 0 if the store exists, or if nothing is written."""
    if isinstance(images, ArrayImages) and images.pixels.shape[1:3] == size:
        return 0
    if isinstance(images, HasContents) and not images.contents.known:  # its name would need all files to be read
        return _size(images, size)
    exists = (cache_dir / store_key(images, size, resize, interpolation) / "meta.json").exists()
    return 0 if exists else _size(images, size)


def _size(images: Images, size: tuple[int, int]) -> int:
    """Return the bytes of the pixels of all images at a size."""
    return len(images) * images.channels * math.prod(size)


def use_digest_cache(images: Images, stores: Path) -> None:
    """Let images in files take and save the digests of their files next to the folder of all stores."""
    if isinstance(images, HasContents):
        images.contents.use_cache(digest_cache(stores))


def _decodes_first(images: FileImages, stores: Path, *options: Any) -> bool:
    """Return whether files are decoded before their digests are known, so that each is read only once.

    A store with the same number of files and bytes is probably the store of a copy of these files. Then the digests
    decide, because computing them is faster than decoding.
    """
    use_digest_cache(images, stores)  # another process may have saved them
    if images.contents.known:
        return False
    amount = {**_options(*options), "images_in_all": len(images), "bytes": images.contents.size}
    return not any(amount.items() <= meta.items() for meta in map(_meta, stores.glob("*/meta.json")))


def _meta(file: Path) -> dict[str, Any]:
    """Return the content of a `meta.json`, with tuples for lists; empty if it is missing or damaged."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(facts, dict):
        return {}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}


def _build(
    images: Images,
    folder: Path,
    options: tuple[tuple[int, int], Resize, Interpolation],
    workers: int | None,
    reserved: int,
    trusted: Callable[[], bool],
    final: Callable[[], Path],
) -> None:
    def facts() -> dict[str, Any]:
        size = {"bytes": images.contents.size} if isinstance(images, FileImages) else {}
        return _facts(images, *options) | {"images_in_all": len(images)} | size

    needed = _size(images, options[0]) + reserved
    build(images, folder, facts, Fit(*options), workers, needed=needed, trusted=trusted, final=final)


def _load(images: Images, folder: Path, check: bool = True) -> DecodedStore | None:
    """Return the store in a folder; None if it is missing or damaged.

    Args:
        images: The images of the store.
        folder: The folder.
        check: Whether the digests of its files are compared.
    """
    meta = _meta(folder / "meta.json")
    if not meta or (check and damaged_file(folder, CHECKED, meta.get("digests"), digest_cache(folder.parent))):
        return None
    try:
        store = DecodedStore(images, folder.name, folder)
    except (OSError, ValueError, KeyError, EOFError):
        return None
    sound = len(store.pixels) == len(store.targets) == len(store.kept) == meta.get("count")
    return store if sound and len(store) + len(store.bad) == len(images) else None


def check_images(store: Store, on_bad_image: OnBadImage) -> None:
    """Refuse a store without images, and bad images if `on_bad_image` is `raise`.

    Raises:
        UserError: The store is refused; the first ten bad images are named.
    """
    if len(store) and (not store.bad or on_bad_image == "skip"):
        return
    total = len(store) + len(store.bad)
    if not total:
        raise UserError("There is no image to decode: the dataset has no images.")
    named = "\n".join(f"  {location}: {reason}" for location, reason in store.bad[:10])
    more = f"\n  and {len(store.bad) - 10} more" if len(store.bad) > 10 else ""
    way_out = (
        "Repair or remove them, or set datamodule.on_bad_image=skip"
        if len(store)
        else "Check that these files are images"
    )
    raise UserError(
        f"{len(store.bad)} of {total} images cannot be decoded:\n{named}{more}\n"
        f"{f'All are listed in {store.report}. ' if store.report else ''}{way_out}"
    )


def decode_rows(store: Store, rows: Indices, fit: Fit) -> NDArray[np.uint8]:
    """Decode some rows of a store at another size from their source: ``(B, *size, C)``; nothing is written.

    Raises:
        UserError: An image cannot be decoded at this size.
    """
    if not len(rows):
        return np.empty((0, *fit.size, store.shape[2]), np.uint8)
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="decode") as pool:
        return np.ascontiguousarray(np.stack(list(pool.map(lambda row: store.read_source(row, fit), rows.tolist()))))
