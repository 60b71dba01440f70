"""One shard in litdata's format, read image by image without holding it in memory.

litdata's own reader is made for walking through one shard after another; here images of many are mixed, so that every
read would close one file and open another. The format is theirs (`litdata.streaming.writer`): the number of items and
the beginning of each, uint32, then the items; an item is the sizes of its values, uint32, then the values.
"""

import os
import threading
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError

VALUES = ("label", "image")
"""Of every item; the pixels are last, so that they end where the item does."""


class OpenShard:
    """A shard on a local disk, open. Thread-safe; it is closed when nobody has it any more, even once deleted."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb", buffering=0)
        self._turn = threading.Lock()
        weakref.finalize(self, self._file.close)
        count = int(np.frombuffer(self._read(0, 4), "<u4")[0])
        starts = np.frombuffer(self._read(4, 4 * (count + 1)), "<u4")
        if np.any(starts[1:] <= starts[:-1]):
            raise UserError(f"{file} is of a format of litdata's in which no image can be read alone: write it anew.")
        self._starts: list[int] = starts.tolist()

    def __len__(self) -> int:
        """The number of images."""
        return len(self._starts) - 1

    def image(self, slot: int) -> bytes:
        """The encoded image at a place in the shard."""
        start, end = self._starts[slot : slot + 2]
        item = self._read(start, end - start)
        size = int(np.frombuffer(item, "<u4", len(VALUES))[-1])
        return item[-size:]

    def pixels(self, slot: int, into: NDArray[np.uint8]) -> None:
        """Read raw pixels into an array of their shape."""
        content = self._read(self._starts[slot + 1] - into.nbytes, into.nbytes)
        into[...] = np.frombuffer(content, np.uint8).reshape(into.shape)

    def _read(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):  # needs no turns: the position in the file is not touched
            content = os.pread(self._file.fileno(), size, start)
        else:
            with self._turn:
                self._file.seek(start)
                content = self._file.read(size)
        if len(content) != size:
            raise OSError(f"{self._file.name} changed while it was in use")
        return content
