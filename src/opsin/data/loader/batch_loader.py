"""Whole batches by index: the order of the images as a function of (seed, epoch, step), and nothing to save.

There are no worker processes: a batch is one gather from an array, or from shards that lie elsewhere. Because nothing
but the position decides what comes next, a run that resumes in the middle of an epoch sees exactly the
batches that were left, and augmentation keyed by a batch's ``key`` draws exactly what it would have drawn.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from opsin.data.loader.samplers import Indices, Sampler, shard_windowed, shuffled
from opsin.errors import UserError

_MASK = (1 << 64) - 1


class Batch(NamedTuple):
    """Some images of a split.

    Attributes:
        images: Pixels ``(B, C, H, W)``, uint8, channels last in memory; normalised float32 once on the
            device. Or cached features, float16.
        targets: Class indices ``(B,)``, int64; class probabilities ``(B, K)`` once images have been mixed.
        positions: Places ``(B,)`` of the images in their split, int64; stay on the CPU.
        key: 63 random bits of this batch: what its augmentation draws from.
        after: The step of the network whose output `images` are; None: they are pixels.
        taught: What a teacher makes of the images ``(B, D)``, float16; None: there is none.
    """

    images: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    key: int
    after: str | None = None
    taught: torch.Tensor | None = None


def batch_key(seed: int, epoch: int, step: int, rank: int) -> int:
    """63 well-mixed bits that name one batch of one process.

    Each number is absorbed by a round of splitmix64's finaliser (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", 2014), so that neighbouring batches have unrelated keys.

    Returns:
        An integer of 0 to 2**63 - 1, which fits `torch.Generator.manual_seed` and an int64.
    """
    state = 0
    for number in (seed, epoch, step, rank):
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True)
class Streaming:
    """How the images of a split are read that lie in shards.

    Attributes:
        shards: Number ``(N,)`` of the shard that holds each image.
        window: Shards whose images are mixed in training; no more than these are needed at a time.
        follow: Told the positions ``(B,)`` of all batches of an iteration, gives what is to be called with the number
            of each batch before it is fetched, and with their count at the end: so shards are there when they are
            needed, and given up when they are not.
        ahead: Batches that are made while the trainer is busy with another.
    """

    shards: Indices
    window: int
    follow: Callable[[Sequence[Indices]], Callable[[int], None]]
    ahead: int = 2

    @property
    def one_by_one(self) -> bool:
        """Whether the shards must come and go. Where they are no more than the window, any order will do."""
        return len(np.unique(self.shards)) > self.window


class BatchLoader:
    """The batches of one split, for one process: a sized iterable that Lightning takes as it is.

    In training, each epoch has an order of its own, cut into global batches that the processes share out. The
    last batch may be smaller. It is cut to a multiple of the processes, and left out where it would hold a
    single image per process, which BatchNorm cannot normalise. In evaluation every image comes exactly once
    over all processes, in order, and every process has the same number of batches, as even in size as can be.

    A stream of more shards than its window has another order of training, and its processes share out the shards in
    place of the batches; all else is the same. In evaluation each process has neighbouring images anyway.

    Args:
        fetch: Gives the images and targets at some positions ``(B,)`` of the split, under the batch's key.
        targets: Class indices of the split ``(N,)``, int64.
        batch_size: Images of a batch over all processes together.
        training: Whether these are training batches.
        sampler: Order of training: `shuffle` visits every image once an epoch; `balanced` draws N images with
            replacement, each class equally likely; `fixed` repeats the first epoch's shuffled order.
        seed: With the epoch, decides the order; with epoch, step and rank, the key.
        rank: This process.
        world_size: Number of processes.
        position: Tells the epoch and its first step; asked when the first batch of an iteration is. None:
            each iteration is the next epoch from its start.
        streaming: How the images are read that lie in shards. None: they are all at hand.

    Raises:
        UserError: The batch size cannot be shared equally, there are fewer images than processes, or a stream of more
            shards than its window cannot be drawn from at will.
    """

    def __init__(
        self,
        fetch: Callable[[Indices, int], Batch],
        targets: Indices,
        batch_size: int,
        *,
        training: bool,
        sampler: Sampler = "shuffle",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], tuple[int, int]] | None = None,
        streaming: Streaming | None = None,
    ) -> None:
        if len(targets) < world_size:
            raise UserError(
                f"{len(targets)} image(s) cannot be shared out among {world_size} processes: use fewer devices."
            )
        if batch_size % world_size:
            raise UserError(
                f"A batch of {batch_size} images cannot be shared equally among {world_size} processes: "
                f"take {max(batch_size // world_size, 1) * world_size} or use another number of devices."
            )
        if training and sampler == "balanced" and streaming is not None and streaming.one_by_one:
            raise UserError(
                "datamodule.sampler=balanced draws from all images at any time, and these lie in more shards than "
                f"datamodule.window={streaming.window}: take loss.class_weights=balanced, which weighs classes alike."
            )
        self._fetch = fetch
        self._targets = targets
        self._training = training
        self._sampler = sampler
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._next_epoch = 0
        self._position = position or self._count_epochs
        self._streaming = streaming
        self.batch_size = batch_size

    def __len__(self) -> int:
        """The number of batches of an epoch, the same for every process."""
        if not self._training:
            # The smallest share bounds it, so that no process is left with an empty batch.
            share = -(-len(self._targets) // self._world_size)
            batches = -(-share // (self.batch_size // self._world_size))
            return min(batches, len(self._targets) // self._world_size)
        whole, left = divmod(len(self._targets), self.batch_size)
        return whole + (left >= 2 * self._world_size or not whole)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the current position to the end of its epoch."""
        # A generator: Lightning asks for the iterator before it has restored the progress of a resumed run.
        epoch, first = self._position()
        plan = self._plan(epoch)[first:]
        keys = [batch_key(self._seed, epoch, first + step, self._rank) for step in range(len(plan))]
        if self._streaming is None:
            yield from map(self._fetch, plan, keys)
        else:
            yield from self._read_ahead(plan, keys, self._streaming)

    def _read_ahead(self, plan: Sequence[Indices], keys: Sequence[int], streaming: Streaming) -> Iterator[Batch]:
        """The batches of a stream, made by a thread while the trainer is busy with those before."""
        come_to = streaming.follow(plan)

        def fetch(step: int) -> Batch:
            come_to(step)
            return self._fetch(plan[step], keys[step])

        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            try:
                for step in range(len(plan)):
                    waiting.append(pool.submit(fetch, step))
                    if len(waiting) > streaming.ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
                pool.submit(come_to, len(plan))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the trainer knows where it stands. That it exists tells Lightning that resuming is exact."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""

    def _count_epochs(self) -> tuple[int, int]:
        epoch = self._next_epoch
        self._next_epoch += 1
        return epoch, 0

    def _plan(self, epoch: int) -> list[Indices]:
        """Positions of each batch of this process."""
        if not self._training:
            share = np.array_split(np.arange(len(self._targets)), self._world_size)[self._rank]
            return np.array_split(share, len(self))
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        if self._streaming is not None and self._streaming.one_by_one:
            order = shard_windowed(
                self._streaming.shards,
                self._streaming.window,
                self._seed,
                0 if self._sampler == "fixed" else epoch,
                self._rank,
                self._world_size,
            )
            return [order[s // self._world_size : (s + self.batch_size) // self._world_size] for s in starts]
        order = shuffled(self._targets, self._sampler, self._seed, epoch)
        order = order[: len(order) - len(order) % self._world_size]
        return [order[start + self._rank : start + self.batch_size : self._world_size] for start in starts]
