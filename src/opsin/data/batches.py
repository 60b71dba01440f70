"""Whole batches by index: the order of the images as a function of (seed, epoch, step), and nothing to save.

There are no worker processes and no per-sample Python: a batch is one gather from an array. Because nothing
but the position decides what comes next, a run that resumes in the middle of an epoch sees exactly the
batches that were left, and augmentation keyed by a batch's ``key`` draws exactly what it would have drawn.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from opsin.errors import UserError

Sampler = Literal["shuffle", "balanced", "fixed"]
Indices = NDArray[np.int64]

_MASK = (1 << 64) - 1


class Batch(NamedTuple):
    """Some images of a split.

    Attributes:
        images: Pixels ``(B, C, H, W)``, uint8, channels last in memory; normalised float32 once on the
            device.
        targets: Class indices ``(B,)``, int64; class probabilities ``(B, K)`` once images have been mixed.
        positions: Places ``(B,)`` of the images in their split, int64; stay on the CPU.
        key: 63 random bits of this batch: what its augmentation draws from.
    """

    images: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    key: int


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


class BatchLoader:
    """The batches of one split, for one process: a sized iterable that Lightning takes as it is.

    In training, each epoch has an order of its own, cut into global batches that the processes share out. The
    last batch may be smaller. It is cut to a multiple of the processes, and left out where it would hold a
    single image per process, which BatchNorm cannot normalise. In evaluation every image comes exactly once
    over all processes, in order, and every process has the same number of batches, as even in size as can be.

    Args:
        read: Gives the uint8 pixels ``(B, H, W, C)``, a new array, at some positions ``(B,)`` of the split.
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

    Raises:
        UserError: The batch size cannot be shared equally, or there are fewer images than processes.
    """

    def __init__(
        self,
        read: Callable[[Indices], NDArray[np.uint8] | torch.Tensor],
        targets: Indices,
        batch_size: int,
        *,
        training: bool,
        sampler: Sampler = "shuffle",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], tuple[int, int]] | None = None,
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
        self._read = read
        self._targets = targets
        self._training = training
        self._sampler = sampler
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._next_epoch = 0
        self._position = position or self._count_epochs
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
        positions = self._plan(epoch)
        for step in range(first, len(self)):
            yield self._batch(positions[step], batch_key(self._seed, epoch, step, self._rank))

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
        order = self._order(0 if self._sampler == "fixed" else epoch)
        order = order[: len(order) - len(order) % self._world_size]
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return [order[start + self._rank : start + self.batch_size : self._world_size] for start in starts]

    def _order(self, epoch: int) -> Indices:
        random = np.random.default_rng([self._seed, epoch])
        if self._sampler != "balanced":
            return random.permutation(len(self._targets))
        by_class = np.argsort(self._targets, kind="stable")
        _, starts, counts = np.unique(self._targets[by_class], return_index=True, return_counts=True)
        drawn = random.integers(len(counts), size=len(self._targets))
        order: Indices = by_class[starts[drawn] + random.integers(counts[drawn])]
        return order

    def _batch(self, positions: Indices, key: int) -> Batch:
        pixels = torch.as_tensor(self._read(positions))
        targets = torch.from_numpy(self._targets[positions])
        return Batch(pixels.permute(0, 3, 1, 2), targets, torch.from_numpy(positions), key)
