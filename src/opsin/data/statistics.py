"""Mean and standard deviation of pixels, measured once for datasets that do not state them."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from opsin.data.subset import Subset
from opsin.data.types import Indices
from opsin.runs.atomic import write_atomically
from opsin.visualization.images import Pixels

ChannelStatistics = tuple[tuple[float, ...], tuple[float, ...]]


def channel_statistics(subset: Subset, folder: Path) -> ChannelStatistics:
    """Return mean and standard deviation per channel of a subset's pixels, measured once.

    The result is saved next to the image stores, named by a digest of the stores and the selected images, so another
    image, size, split or fraction is measured again. Images in memory are measured every time, because they
    are not written to disk. If the folder cannot be written to, nothing is saved.

    Args:
        subset: The images, at least one.
        folder: Folder of all image stores.

    Returns:
        The result of `pixel_statistics`.
    """
    if any(store.report is None for store in subset.stores):
        return pixel_statistics(subset.read, len(subset))
    digest = hashlib.blake2b(subset.index.tobytes(), digest_size=16)
    for store in subset.stores:
        digest.update(f"{store.fingerprint} {len(store)}".encode())
        digest.update(store.kept.tobytes())
    file = folder / f"{digest.hexdigest()}.statistics.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # missing or damaged
        found = json.loads(file.read_text(encoding="utf-8"))
        return _numbers(found["mean"]), _numbers(found["std"])
    mean, std = pixel_statistics(subset.read, len(subset))
    with contextlib.suppress(OSError):
        write_atomically(file, json.dumps({"mean": mean, "std": std}) + "\n")
    return mean, std


def _numbers(values: list[float]) -> tuple[float, ...]:
    if not values or not all(isinstance(value, float) and np.isfinite(value) for value in values):
        raise ValueError(values)
    return tuple(values)


def pixel_statistics(read: Callable[[Indices], Pixels], count: int) -> ChannelStatistics:
    """Return mean and standard deviation per channel of pixels scaled to [0, 1].

    The sums are exact, in integers, over a few megabytes of pixels at a time.

    Args:
        read: Returns the pixels ``(B, H, W, C)`` at some positions ``(B,)``.
        count: Number of positions, at least 1.

    Returns:
        Means ``(C,)`` and population standard deviations ``(C,)``; 1 for a constant channel.
    """
    height, width, channels = read(np.zeros(1, np.int64)).shape[1:]
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    chunk = max(1, 2**22 // (height * width * channels))
    for start in range(0, count, chunk):
        pixels = read(np.arange(start, min(start + chunk, count)))
        rows = pixels.reshape(-1, width * channels).astype(np.uint32)
        total += rows.sum(axis=0, dtype=np.int64).reshape(width, channels).sum(axis=0)
        rows *= rows
        squares += rows.sum(axis=0, dtype=np.int64).reshape(width, channels).sum(axis=0)
    size = count * height * width
    mean = total / size
    variance = squares / size - mean**2
    std = np.where(variance > 1e-6, np.sqrt(np.maximum(variance, 0.0)), 255.0)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
