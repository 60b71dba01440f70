"""Mean and standard deviation of pixels, measured once: for sources that do not state them."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsin.data.stratify import Indices
from opsin.data.subset import Subset
from opsin.runs.atomic import write_atomically

Moments = tuple[tuple[float, ...], tuple[float, ...]]


def channel_statistics(part: Subset, folder: Path) -> Moments:
    """Mean and standard deviation per channel of a part's pixels, measured unless they were before.

    They are kept beside the stores that the part draws from, under a digest of those stores and of the choice among
    their images: another image, size, split or share is measured anew. Images that are served from memory are measured
    each time, for nothing of them is written. Where the folder cannot be written to, nothing is kept.

    Args:
        part: the images, at least one.
        folder: the folder of all stores.

    Returns:
        As `pixel_moments`.
    """
    if any(store.report is None for store in part.stores):
        return pixel_moments(part.read, len(part))
    digest = hashlib.blake2b(part.index.tobytes(), digest_size=16)
    for store in part.stores:
        digest.update(f"{store.fingerprint} {len(store)}".encode())
        digest.update(store.kept.tobytes())
    place = folder / f"{digest.hexdigest()}.moments.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent, or damaged
        found = json.loads(place.read_text(encoding="utf-8"))
        return _numbers(found["mean"]), _numbers(found["std"])
    mean, std = pixel_moments(part.read, len(part))
    with contextlib.suppress(OSError):
        write_atomically(place, json.dumps({"mean": mean, "std": std}) + "\n")
    return mean, std


def _numbers(values: list[float]) -> tuple[float, ...]:
    if not values or not all(isinstance(value, float) and np.isfinite(value) for value in values):
        raise ValueError(values)
    return tuple(values)


def pixel_moments(
    read: Callable[[Indices], NDArray[np.uint8]], count: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels scaled to [0, 1].

    Summed exactly, in integers, some megabytes of pixels at a time.

    Args:
        read: Gives the pixels ``(B, H, W, C)`` at some positions ``(B,)``.
        count: Positions run from 0 to below it; at least 1.

    Returns:
        Means ``(C,)`` and population deviations ``(C,)``; a channel that is constant has deviation 1.
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
