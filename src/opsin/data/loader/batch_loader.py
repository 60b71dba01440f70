"""Batch loader: the order of images is a function of (seed, epoch, step), so there is no state to save.

There are no worker processes: a batch is one gather from an array or from shards. A run that resumes in the middle of
an epoch gets exactly the remaining batches, and augmentation seeded by a batch's ``key`` draws the same parameters.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from opsin.data.loader.evaluation_batches import evaluation_batches
from opsin.data.loader.samplers import Sampler, Shards, check_sampler, training_batches
from opsin.data.types import Indices
from opsin.errors import UserError

_MASK = (1 << 64) - 1


class Batch(NamedTuple):
    """A batch of images of one split.

    Attributes:
        images: Pixels ``(B, C, H, W)``, uint8, channels last in memory, and normalized float32 once on the device; or
            cached features, float16.
        targets: Class indices ``(B,)``, int64; class probabilities ``(B, K)`` after Mixup or CutMix.
        positions: Positions ``(B,)`` of the images in their split, int64, on the CPU.
        key: 63 random bits that seed the augmentation of this batch.
        features_of: Step of the network whose output `images` are, or None if they are pixels.
        teacher_outputs: Outputs of a teacher for the images ``(B, D)``, float16, or None without a teacher.
    """

    images: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    key: int
    features_of: str | None = None
    teacher_outputs: torch.Tensor | None = None


def batch_key(seed: int, epoch: int, step: int, rank: int) -> int:
    """Return 63 well-mixed bits for one batch of one process.

    Each number is mixed in by a round of splitmix64's finalizer (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", 2014), so that neighboring batches have unrelated keys.

    Returns:
        An integer from 0 to 2**63 - 1, which fits `torch.Generator.manual_seed` and an int64.
    """
    state = 0
    for number in (seed, epoch, step, rank):
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True)
class Streaming(Shards):
    """Streaming settings of a split whose images are in shards.

    Attributes:
        prefetch: Takes the positions ``(B,)`` of all batches of an iteration, and returns a function to call with the
            number of each batch before it is fetched, and with their count at the end. It loads shards before they are
            needed and drops them afterwards.
        ahead: Number of batches fetched while the trainer works on another.
    """

    prefetch: Callable[[Sequence[Indices]], Callable[[int], None]]
    ahead: int = 2


class BatchLoader:
    """The batches of one split for one process: a sized iterable that Lightning uses as a data loader.

    In training, each epoch has its own order, cut into global batches that the processes share. The last batch may be
    smaller: it is cut to a multiple of the processes, and dropped if it has a single image per process, which
    BatchNorm cannot normalize. In evaluation every image comes exactly once over all processes, in order, and every
    process has the same number of batches, of nearly equal size. Limited to fewer batches, evaluation takes a
    stratified sample of the images, the same in every epoch and for any number of processes.

    A stream of more shards than its window has another order in training: its processes divide the images in the order
    of the shards, not each batch. In evaluation each process reads consecutive images in either case.

    Args:
        fetch: Returns the batch at some positions ``(B,)`` of the split, given the batch's key and its epoch.
        targets: Class indices of the split ``(N,)``, int64.
        batch_size: Images per batch over all processes.
        training: Whether these are training batches.
        sampler: Order in training: `shuffle` visits every image once an epoch; `balanced` draws N images with
            replacement, each class equally likely; `fixed` repeats the first epoch's shuffled order.
        seed: Seed of the order (with the epoch), of the keys (with epoch, step and rank), and of the sample of a
            limited evaluation.
        rank: Rank of this process.
        world_size: Number of processes.
        position: Returns the epoch and its first step; called with the first batch of an iteration. None: each
            iteration is the next epoch from its start.
        streaming: Streaming settings if the images of the split are in shards.

    Raises:
        UserError: The batch size is not a multiple of the processes, there are fewer images than processes, or
            `balanced` is combined with more shards than the window.
    """

    def __init__(
        self,
        fetch: Callable[[Indices, int, int], Batch],
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
            raise UserError(f"too few images ({len(targets)}) for {world_size} processes: use fewer devices.")
        if batch_size % world_size:
            key = "datamodule.batch_size" if training else "datamodule.eval_batch_size"
            raise UserError(
                f"A batch of {batch_size} images cannot be shared equally among {world_size} processes: "
                f"set {key}={max(batch_size // world_size, 1) * world_size}, or use other devices."
            )
        if training:
            check_sampler(sampler, streaming)
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
        self._batches = len(self)

    def limit(self, limit: int | float, key: str) -> int:
        """Limit the batches of an epoch as Lightning does, which stops after them; return their number.

        Args:
            limit: A number of batches, or a fraction, rounded down.
            key: The config key that sets it, for the message.

        Raises:
            UserError: The fraction is less than one batch.
        """
        self._batches = min(limit, len(self)) if isinstance(limit, int) else int(limit * len(self))
        if self._batches == 0 and limit > 0:
            raise UserError(
                f"{key}={limit:g} selects none of the {len(self)} batch(es): raise it, or give a number of batches"
            )
        return self._batches

    def __len__(self) -> int:
        """Return the number of batches per epoch without a limit, the same for every process."""
        if not self._training:
            # Limited by the smallest share, so that no process gets an empty batch.
            share = -(-len(self._targets) // self._world_size)
            batches = -(-share // (self.batch_size // self._world_size))
            return min(batches, len(self._targets) // self._world_size)
        whole, left = divmod(len(self._targets), self.batch_size)
        return whole + (left >= 2 * self._world_size or not whole)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from the current position to the end of its epoch."""
        # A generator: Lightning creates the iterator before it restores the progress of a resumed run.
        epoch, first = self._position()
        plan = self._plan(epoch)[first:]
        keys = [batch_key(self._seed, epoch, first + step, self._rank) for step in range(len(plan))]
        if self._streaming is None:
            yield from map(self._fetch, plan, keys, itertools.repeat(epoch))
        else:
            yield from self._read_ahead(plan, keys, epoch, self._streaming)

    def _read_ahead(
        self, plan: Sequence[Indices], keys: Sequence[int], epoch: int, streaming: Streaming
    ) -> Iterator[Batch]:
        """Yield the batches of a stream, fetched by a thread while the trainer works on earlier ones."""
        before_batch = streaming.prefetch(plan)

        def fetch(step: int) -> Batch:
            before_batch(step)
            return self._fetch(plan[step], keys[step], epoch)

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
                pool.submit(before_batch, len(plan))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: the trainer knows its position. Lightning requires the method for exact resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""

    def _count_epochs(self) -> tuple[int, int]:
        epoch = self._next_epoch
        self._next_epoch += 1
        return epoch, 0

    def _plan(self, epoch: int) -> list[Indices]:
        """Return the positions of each batch of this process."""
        if not self._training:
            return evaluation_batches(
                self._targets,
                self._seed,
                batch_size=self.batch_size,
                batches=self._batches,
                limited=self._batches < len(self),
                rank=self._rank,
                world_size=self._world_size,
            )
        return training_batches(
            self._targets,
            self._sampler,
            self._seed,
            epoch,
            batch_size=self.batch_size,
            batches=len(self),
            shards=self._streaming,
            rank=self._rank,
            world_size=self._world_size,
        )
