"""Choice and order of the images of val and test in an evaluation.

Without a limit, every image is read once over all processes, in the order of the split.

`trainer.limit_val_batches` and `trainer.limit_test_batches` limit an evaluation to B batches (a count, or a fraction of
all batches, see `BatchLoader.limit`). If B is below the number of all batches, a stratified sample of B *
`eval_batch_size` images is read: each class has about its share of the images, and at least one image if there is room
for all classes (`opsin.data.splitting.stratified_sample`). The sample depends only on the labels, its size and
`datamodule.split_seed` (`seed` if that is null), so it is the same in every epoch, after a resume, and for any number
of processes.

The images are divided among the processes in consecutive blocks, and each block into batches of nearly equal size.
"""

import numpy as np

from opsin.data.splitting import stratified_sample
from opsin.data.types import Indices


def evaluation_batches(
    targets: Indices,
    seed: int,
    *,
    batch_size: int,
    batches: int,
    limited: bool,
    rank: int = 0,
    world_size: int = 1,
) -> list[Indices]:
    """Return the positions of each batch of one process in an evaluation.

    Args:
        targets: Class indices ``(N,)``.
        seed: Decides the sample of a limited evaluation: `datamodule.split_seed`, or `seed` if that is null.
        batch_size: Images per batch over all processes.
        batches: Number of batches.
        limited: Whether these are fewer batches than all images need; then the images are a stratified sample.
        rank: Rank of this process.
        world_size: Number of processes.

    Returns:
        For each batch, positions ``(B // world_size,)`` or fewer, int64; all batches are of nearly equal size.
    """
    images = stratified_sample(targets, batches * batch_size, seed) if limited else np.arange(len(targets))
    return np.array_split(np.array_split(images, world_size)[rank], batches)
