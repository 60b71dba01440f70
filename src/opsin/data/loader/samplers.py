"""Choice and order of the images of an epoch in training; those of an evaluation are in `evaluation_batches`.

The seed and the epoch decide the order; `fixed` repeats epoch 0. `shard_windowed` returns it if there are more shards
than `datamodule.window`; otherwise `shuffled` does. `training_batches` cuts it into the batches of each process.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from opsin.data.types import Indices
from opsin.errors import UserError

Sampler = Literal["shuffle", "balanced", "fixed"]


@dataclass(frozen=True)
class Shards:
    """The shards that hold the images of a split.

    Attributes:
        numbers: Number ``(N,)`` of the shard that holds each image.
        window: Number of shards whose images are mixed in training.
    """

    numbers: Indices
    window: int

    @property
    def is_windowed(self) -> bool:
        """Whether there are more shards than the window, so that shards are loaded and dropped during an epoch."""
        return len(np.unique(self.numbers)) > self.window


def check_sampler(sampler: Sampler, shards: Shards | None) -> None:
    """Check that a sampler can be used.

    Raises:
        UserError: `balanced` is combined with more shards than the window.
    """
    if sampler == "balanced" and shards is not None and shards.is_windowed:
        raise UserError(
            "datamodule.sampler=balanced needs access to all images at once, but the dataset has more shards than "
            f"datamodule.window={shards.window}: use loss.class_weights=balanced instead."
        )


def training_batches(
    targets: Indices,
    sampler: Sampler,
    seed: int,
    epoch: int,
    *,
    batch_size: int,
    batches: int,
    shards: Shards | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[Indices]:
    """Return the positions of each batch of one process in one epoch.

    All processes have the same number of images. With several processes, up to `world_size - 1` images of the order are
    therefore left out of an epoch.

    Args:
        targets: Class indices ``(N,)``.
        sampler: The order, see `shuffled`; in windows of shards, `fixed` repeats the first epoch's order.
        seed: With the epoch, decides the order.
        epoch: Counted from 0.
        batch_size: Images per batch over all processes.
        batches: Number of batches.
        shards: The shards of the images; None if there are none.
        rank: Rank of this process.
        world_size: Number of processes.

    Returns:
        For each batch, positions ``(B // world_size,)``, int64; the last batch may be smaller.
    """
    starts = range(0, batches * batch_size, batch_size)
    if shards is not None and shards.is_windowed:
        first = 0 if sampler == "fixed" else epoch
        order = shard_windowed(shards.numbers, shards.window, seed, first, rank, world_size)
        return [order[start // world_size : (start + batch_size) // world_size] for start in starts]
    order = shuffled(targets, sampler, seed, epoch)
    order = order[: len(order) - len(order) % world_size]
    return [order[start + rank : start + batch_size : world_size] for start in starts]


def shuffled(targets: Indices, sampler: Sampler, seed: int, epoch: int) -> Indices:
    """Return positions in random order, for images with random access.

    Args:
        targets: Class indices ``(N,)``.
        sampler: `shuffle` has every image once; `balanced` draws N images with replacement, each class equally
            likely; `fixed` repeats the first epoch's order.
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
    """Return each position of one process once, in an order that needs few shards at a time.

    The shards are shuffled every epoch. Their images, in this order, are divided among the processes, so two processes
    can share a shard. Each image of the j-th shard gets a sort key drawn uniformly from [j, j + window). So the images
    of about `window` shards are mixed at any time, and shards are loaded and dropped one by one.

    Args:
        shards: Number ``(N,)`` of the shard that holds each image.
        window: Number of shards whose images are mixed.
        seed: With the epoch, decides the order.
        epoch: Counted from 0.
        rank: Rank of this process.
        world_size: Number of processes.

    Returns:
        Positions ``(N // world_size,)``, int64; over all processes every image at most once.
    """
    random = np.random.default_rng([seed, epoch])
    numbers, inverse = np.unique(shards, return_inverse=True)
    rank_of_shard = random.permutation(len(numbers))[inverse]  # rank, in this epoch, of the shard of each image
    by_shard = np.argsort(rank_of_shard, kind="stable")
    share = np.array_split(by_shard, world_size)[rank]
    keys = rank_of_shard[share] + window * random.random(len(shards))[share]
    order: Indices = share[np.argsort(keys, kind="stable")]
    return order[: len(shards) // world_size]
