"""Build an image store: decode in parallel, write next to the target folder, rename."""

import csv
import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from opsin.data.cache.checksums import digests
from opsin.data.cache.files import build_lock, check_space, delete_leftovers, write_errors
from opsin.data.fit import Fit
from opsin.data.progress import progress
from opsin.data.source import Images, described
from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.runs.atomic import atomic_folder, flush
from opsin.runs.cpu_cores import available_cores

CHECKED = ("pixels.npy", "targets.npy", "kept.npy", "bad_images.csv")
"""Files whose digests are in `meta.json`."""

_WHAT = "The decoded images"
_BLOCK = 32  # images per task: enough that the queue costs little for small images
_TASKS = 8  # per thread, at least, so that all threads end at about the same time
_BLOCK_BYTES = 4 * 2**20  # of decoded images per task
_QUEUE_BYTES = 128 * 2**20  # of decoded images that wait to be written


class Block(NamedTuple):
    """Some consecutive images after decoding.

    Attributes:
        pixels: The decoded images ``(B, H, W, C)``, in C order; None if there are none.
        kept: Numbers of the images that can be decoded.
        bad: Number, location and reason of each image that cannot be decoded.
    """

    pixels: NDArray[np.uint8] | None
    kept: list[int]
    bad: list[tuple[int, str, str]]


def build(
    images: Images,
    folder: Path,
    facts: Callable[[], dict[str, Any]],
    fit: Fit,
    workers: int | None,
    *,
    needed: int,
    trusted: Callable[[], bool],
    final: Callable[[], Path],
) -> None:
    """Build a store in a folder, unless another process has built it meanwhile.

    Args:
        images: The images to decode.
        folder: The folder; its parent is created, and its lock is held.
        facts: Returns plain values to record in meta.json; called once every image has been read.
        fit: The size of the store, and how the images are brought to it.
        workers: Threads; None for one per core.
        needed: Size of the store in bytes.
        trusted: Returns whether the store need not be built any more; called while the lock is held.
        final: Returns the folder that the finished store is renamed to, or `folder`.

    Raises:
        UserError: The disk is too small or full, or the folder cannot be written to.
    """
    with write_errors(folder.parent, _WHAT):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with build_lock(folder, "decodes the same images"):
            if trusted():
                return
            delete_leftovers(folder.parent)
            with atomic_folder(folder) as unfinished:
                check_space(unfinished, needed, _WHAT)
                _write(unfinished, decode_blocks(images, fit, workers), images, facts)
            if (target := final()) != folder:
                shutil.rmtree(target, ignore_errors=True)
                folder.rename(target)


def decode_blocks(images: Images, fit: Fit, workers: int | None = None) -> Iterator[Block]:
    """Yield blocks of images in order, decoded by threads; Pillow releases the GIL while it decodes.

    An image that cannot be decoded is left out of the pixels and named with its reason.

    Args:
        images: The images to decode.
        fit: The size, and how the images are brought to it.
        workers: Threads; None for one per core.
    """
    workers = workers or available_cores()

    def block(numbers: range) -> Block:
        pixels, kept, bad = [], [], []
        for index in numbers:
            try:
                pixels.append(_checked(images.read(index, fit), (*fit.size, images.channels), images, index))
                kept.append(index)
            except BadImage as error:
                bad.append((index, images.locate(index), str(error)))
        return Block(np.ascontiguousarray(np.stack(pixels)) if pixels else None, kept, bad)

    image_bytes = math.prod(fit.size) * images.channels
    step = max(1, min(_BLOCK, _BLOCK_BYTES // image_bytes, len(images) // (_TASKS * workers)))
    most_waiting = min(4 * workers, _QUEUE_BYTES // (step * image_bytes))
    waiting: deque[Future[Block]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for begin in range(0, len(images), step):
                waiting.append(pool.submit(block, range(begin, min(begin + step, len(images)))))
                if len(waiting) > most_waiting:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _checked(pixels: Any, shape: tuple[int, ...], images: Images, index: int) -> NDArray[np.uint8]:
    """Return the result of `read`, which may be code of the user.

    Raises:
        UserError: It is not uint8, or has another shape.
    """
    if getattr(pixels, "dtype", None) != np.uint8 or pixels.shape != shape:
        raise UserError(
            f"{images.locate(index)}: {type(images).__name__}.read returns {described(pixels)}, "
            f"not uint8 of shape {shape}"
        )
    return pixels  # type: ignore[no-any-return]


def _write(folder: Path, blocks: Iterator[Block], images: Images, facts: Callable[[], dict[str, Any]]) -> None:
    """Write all files of a store and flush them to the disk."""
    kept: list[int] = []
    bad: list[tuple[int, str, str]] = []
    shape: tuple[int, ...] = (0, 1, 1, 1)
    with (folder / "pixels.npy").open("wb") as file, progress(len(images), "decoding images, once") as advance:
        for block in blocks:
            if block.pixels is not None:
                if not kept:
                    shape = block.pixels.shape
                    _write_header(file, (len(images), *shape[1:]))
                file.write(block.pixels.data)
            kept += block.kept
            bad += block.bad
            advance(len(block.kept) + len(block.bad))
        file.seek(0)  # their number is known only now; numpy pads the header, so its length is the same
        _write_header(file, (len(kept), *shape[1:]))
        flush(file)
    for name, array in (("targets", images.targets[kept]), ("kept", kept)):
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, np.asarray(array, np.int64))
            flush(file)
    with (folder / "bad_images.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as text:
        csv.writer(text).writerows([("index", "location", "reason"), *bad])
        flush(text)
    counts = {"count": len(kept), "bad": len(bad), "pillow": PIL.__version__}
    with (folder / "meta.json").open("w", encoding="utf-8") as text:
        json.dump(facts() | counts | {"digests": digests(folder, CHECKED)}, text, indent=2)
        flush(text)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
