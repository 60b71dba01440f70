"""One shard in litdata's format, read image by image without holding it in memory.

litdata's own reader walks through one shard after another; training mixes images of many shards, so that every read
would close one file and open another. The format is theirs (`litdata.streaming.writer`): the number of items and the
start of each, uint32, then the items; an item is the sizes of its values, uint32, then the values.
"""

import os
import threading
import weakref
from pathlib import Path

import numpy as np

from opsin.errors import UserError
from opsin.runs.quoting import opsin_command
from opsin.visualization.images import Pixels

VALUES = ("label", "image")
"""Values of every item; the image is last, so that it ends where the item ends."""


class OpenShard:
    """A shard on a local disk, open. Thread-safe; it can be read until it is garbage-collected, even once deleted.

    Raises:
        UserError: The file is in another format, was truncated since it was opened, or its disk has failed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb", buffering=0)
        self._lock = threading.Lock()
        weakref.finalize(self, self._file.close)
        count = int(np.frombuffer(self._read(0, 4), "<u4")[0])
        starts = np.frombuffer(self._read(4, 4 * (count + 1)), "<u4")
        if np.any(starts[1:] <= starts[:-1]):
            raise UserError(
                f"{file} is in a litdata format whose images cannot be read one at a time; write the shards again "
                f"with {opsin_command('prepare-data', 'DATASET', '--shards', 'OUT')}."
            )
        self._starts: list[int] = starts.tolist()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._starts) - 1

    def image(self, row: int) -> bytes:
        """Return the encoded image in a row of the shard."""
        start, end = self._starts[row : row + 2]
        item = self._read(start, end - start)
        size = int(np.frombuffer(item, "<u4", len(VALUES))[-1])
        return item[-size:]

    def pixels(self, row: int, into: Pixels) -> None:
        """Read raw pixels into an array of their shape."""
        content = self._read(self._starts[row + 1] - into.nbytes, into.nbytes)
        into[...] = np.frombuffer(content, np.uint8).reshape(into.shape)

    def _read(self, start: int, size: int) -> bytes:
        try:
            if hasattr(os, "pread"):  # needs no lock: the position in the file does not move
                content = os.pread(self._file.fileno(), size, start)
            else:
                with self._lock:
                    self._file.seek(start)
                    content = self._file.read(size)
        except OSError as error:
            raise UserError(f"{self._file.name} cannot be read any more: {error.strerror or error}.") from error
        if len(content) != size:
            raise UserError(f"{self._file.name} is shorter than when it was opened: another program has changed it.")
        return content
