"""Memory in use."""

import mmap

from opsin.training.tuning import memory


def test_used_memory_grows_with_allocated_memory() -> None:
    before = memory.used_memory()
    with mmap.mmap(-1, 2**28) as block:  # not from malloc, which may reuse memory that earlier tests freed
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        assert memory.used_memory() - before > 0.5 * len(block)
