"""The building of a store: decoded in parallel, written beside its place, and moved there whole."""

import csv
import errno
import json
import logging
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import PIL
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from opsin.data.decode import BadImage
from opsin.data.sources.base import Images
from opsin.errors import UserError

Fit = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

_LOG = logging.getLogger(__name__)
_BLOCK = 32  # images to a task: enough that small images do not pay for the queue
_SPARE = 64 * 2**20  # bytes to leave free on the disk
_LONG = 1.0  # seconds after which progress is worth showing


class _Block(NamedTuple):
    pixels: NDArray[np.uint8] | None
    kept: list[int]
    bad: list[tuple[int, str, str]]  # index, location, reason


def build(
    images: Images,
    folder: Path,
    facts: dict[str, Any],
    fit: Fit,
    workers: int | None,
    *,
    trusted: Callable[[], bool],
) -> None:
    """Build a store in its folder, unless another process does so meanwhile.

    Args:
        images: What to decode.
        folder: Where the store will appear; its parent is made.
        facts: Plain values to record in meta.json.
        fit: Brings the pixels ``(H, W, C)`` of one image to the size of the store.
        workers: Threads; None: one per core of this process.
        trusted: Whether the folder holds a sound store, asked once it is this process's turn.

    Raises:
        UserError: The disk is full, or the folder cannot be written to.
    """
    with _naming(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _turn(folder):
            if trusted():
                return
            unfinished = folder.with_name(folder.name + ".building")
            shutil.rmtree(unfinished, ignore_errors=True)
            _clear_leftovers(folder.parent)
            try:
                unfinished.mkdir()
                _write(unfinished, _decode(images, fit, workers or _cores()), images, facts)
                shutil.rmtree(folder, ignore_errors=True)
                unfinished.rename(folder)
                _sync_folder(folder.parent)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise


def _decode(images: Images, fit: Fit, workers: int) -> Iterator[_Block]:
    """Blocks of images in order, decoded by threads: Pillow lets go of the interpreter's lock while it works."""

    def block(start: int) -> _Block:
        pixels, kept, bad = [], [], []
        for index in range(start, min(start + _BLOCK, len(images))):
            try:
                pixels.append(fit(images.read(index)))
                kept.append(index)
            except BadImage as error:
                bad.append((index, images.locate(index), str(error)))
        return _Block(np.stack(pixels) if pixels else None, kept, bad)

    waiting: deque[Future[_Block]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for start in range(0, len(images), _BLOCK):
                waiting.append(pool.submit(block, start))
                if len(waiting) > 4 * workers:  # bounds the memory, should the disk be the slower
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _write(place: Path, blocks: Iterator[_Block], images: Images, facts: dict[str, Any]) -> None:
    """Write all files of a store, and make sure that they are on the disk."""
    kept: list[int] = []
    bad: list[tuple[int, str, str]] = []
    shape: tuple[int, ...] = (0, 1, 1, 1)
    with (place / "pixels.npy").open("wb") as file, _progress(len(images)) as advance:
        for block in blocks:
            if block.pixels is not None:
                if not kept:
                    shape = block.pixels.shape
                    _check_space(place, len(images) * block.pixels[0].nbytes)
                    _write_header(file, (len(images), *shape[1:]))
                file.write(block.pixels.data)
            kept += block.kept
            bad += block.bad
            advance(len(block.kept) + len(block.bad))
        file.seek(0)  # only now is their number known; numpy pads the header, so its length stays
        _write_header(file, (len(kept), *shape[1:]))
        _sync(file)
    for name, array in (("targets", images.targets[kept]), ("kept", kept)):
        with (place / f"{name}.npy").open("wb") as file:
            np.save(file, np.asarray(array, np.int64))
            _sync(file)
    with (place / "bad_images.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as text:
        csv.writer(text).writerows([("index", "location", "reason"), *bad])
        _sync(text)
    with (place / "meta.json").open("w", encoding="utf-8") as text:
        json.dump(facts | {"count": len(kept), "bad": len(bad), "pillow": PIL.__version__}, text, indent=2)
        _sync(text)
    _sync_folder(place)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _check_space(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE:
        raise UserError(
            f"The decoded images need {needed / 2**20:,.0f} MB, and {place.parent} has {free / 2**20:,.0f} MB "
            "free: free some space, set data_dir to a larger disk, or lower datamodule.image_size."
        )


@contextmanager
def _naming(place: Path) -> Iterator[None]:
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
        raise UserError(f"Decoded images cannot be written to {place} ({error.strerror}): {way_out}.") from error


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process builds in this folder. A killed process loses its turn by itself."""
    lock = _lock(folder)
    try:
        lock.acquire(timeout=_LONG)
    except Timeout:
        _LOG.info("waiting for another process that decodes the same images into %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(folder.name + ".lock"))


def _clear_leftovers(stores: Path) -> None:
    """Remove what killed builds of other stores left: unfinished folders whose lock nobody holds."""
    for unfinished in stores.glob("*.building"):
        lock = _lock(unfinished.with_suffix(""))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(unfinished, ignore_errors=True)
        except Timeout:
            pass


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, for work that proves to be long."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("decoding images, once", total=total)
    begin = time.monotonic()

    def advance(images: int) -> None:
        bar.advance(task, images)
        if time.monotonic() - begin > _LONG:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def _cores() -> int:
    """The cores this process may use, which a container or a scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
