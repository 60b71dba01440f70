"""The order of a training epoch, as a function of (seed, epoch): the same whenever and wherever it is asked for."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sampler = Literal["shuffle", "balanced", "fixed"]
Indices = NDArray[np.int64]


def shuffled(targets: Indices, sampler: Sampler, seed: int, epoch: int) -> Indices:
    """Positions in an order that may jump from any image to any other.

    Args:
        targets: Class indices ``(N,)``.
        sampler: `shuffle` has every image once; `balanced` draws N of them with replacement, each class equally
            likely; `fixed` is the first epoch's shuffle, always.
        seed: With the epoch, decides the order.
        epoch: Counted from 0.

    Returns:
        Positions ``(N,)``, int64.
    """
    random = np.random.default_rng([seed, 0 if sampler == "fixed" else epoch])
    if sampler != "balanced":
        return random.permutation(len(targets))
    by_class = np.argsort(targets, kind="stable")
    _, starts, counts = np.unique(targets[by_class], return_index=True, return_counts=True)
    drawn = random.integers(len(counts), size=len(targets))
    order: Indices = by_class[starts[drawn] + random.integers(counts[drawn])]
    return order


def shard_windowed(shards: Indices, window: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> Indices:
    """Positions of one process in an order that needs few shards at a time, each once.

    The shards come in an order of their own every epoch, laid end to end and divided among the processes. The images of
    the shard at place j come at moments drawn uniformly from [j, j + window): so images of about `window` shards are
    mixed at any time, and shards come and go one by one, never many at once.

    Args:
        shards: Number ``(N,)`` of the shard that holds each image.
        window: Shards whose images are mixed.
        seed: With the epoch, decides the order.
        epoch: Counted from 0.
        rank: This process.
        world_size: Number of processes.

    Returns:
        Positions ``(N // world_size,)``, int64; over all processes every image at most once.
    """
    random = np.random.default_rng([seed, epoch])
    numbers, places = np.unique(shards, return_inverse=True)
    at = random.permutation(len(numbers))[places]  # of each image's shard, in the order of this epoch
    laid = np.argsort(at, kind="stable")
    share = np.array_split(laid, world_size)[rank]
    moments = at[share] + window * random.random(len(shards))[share]
    order: Indices = share[np.argsort(moments, kind="stable")]
    return order[: len(shards) // world_size]
