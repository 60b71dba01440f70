import numpy as np
import pytest

from opsin.data.loader.samplers import Shards, check_sampler, shard_windowed, shuffled, training_batches
from opsin.errors import UserError

SHARDS = np.random.default_rng(3).permutation(np.repeat(np.arange(40), 25))  # of 1,000 images


def open_shards(order):
    """Return for each position the number of shards that have begun and not ended."""
    numbers = SHARDS[order]
    first = {number: position for position, number in reversed(list(enumerate(numbers)))}
    last = {number: position for position, number in enumerate(numbers)}
    return [sum(first[n] <= position <= last[n] for n in first) for position in range(len(order))]


def test_every_image_occurs_once_and_the_order_differs_between_epochs():
    orders = [shard_windowed(SHARDS, 8, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert shard_windowed(SHARDS, 8, 0, 1).tolist() == orders[1]


@pytest.mark.parametrize("window", [1, 4, 8])
def test_no_more_shards_than_the_window_are_open(window):
    counts = open_shards(shard_windowed(SHARDS, window, 0, 0))
    assert max(counts) <= window + 1
    assert np.median(counts) >= window - 1


def test_consecutive_images_come_from_many_shards():
    numbers = SHARDS[shard_windowed(SHARDS, 16, 0, 0)]
    kinds = [len(set(numbers[start : start + 32].tolist())) for start in range(200, 800, 32)]
    assert min(kinds) >= 10  # 32 draws from 16 have 14 kinds on average


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_processes_divide_the_shards(world_size):
    orders = [shard_windowed(SHARDS, 4, 5, 2, rank, world_size) for rank in range(world_size)]
    assert {len(order) for order in orders} == {1000 // world_size}
    seen = np.concatenate(orders)
    assert len(set(seen.tolist())) == len(seen)
    touched = [len(set(SHARDS[order].tolist())) for order in orders]
    assert max(touched) <= 40 // world_size + 2
    assert sum(touched) <= 40 + world_size - 1  # at most one shard is divided at each border


def test_the_order_is_numpys_permutation_for_seed_and_epoch():
    targets = np.arange(10) % 3
    assert shuffled(targets, "shuffle", 7, 3).tolist() == np.random.default_rng([7, 3]).permutation(10).tolist()
    assert shuffled(targets, "fixed", 7, 3).tolist() == shuffled(targets, "shuffle", 7, 0).tolist()


@pytest.mark.parametrize("window", [None, 4, 40])
def test_processes_share_the_batches_in_the_chosen_order(window):
    targets, shards = np.arange(1000) % 3, None if window is None else Shards(SHARDS, window)
    options = {"batch_size": 64, "batches": 16, "shards": shards, "world_size": 2}
    for sampler, first in (("shuffle", 3), ("fixed", 0)):
        batches = [training_batches(targets, sampler, 7, 3, rank=rank, **options) for rank in (0, 1)]
        assert [[len(batch) for batch in of_rank] for of_rank in batches] == [[32] * 15 + [20]] * 2
        if window == 4:
            orders = [shard_windowed(SHARDS, 4, 7, first, rank, 2) for rank in (0, 1)]
        else:  # no more shards than the window: any image can come at any time
            order = shuffled(targets, sampler, 7, 3)
            orders = [order[0::2], order[1::2]]
        assert [np.concatenate(of_rank).tolist() for of_rank in batches] == [order.tolist() for order in orders]


def test_balanced_needs_all_shards_in_the_window():
    check_sampler("balanced", None)
    check_sampler("balanced", Shards(SHARDS, 40))
    check_sampler("shuffle", Shards(SHARDS, 4))
    with pytest.raises(UserError, match=r"sampler=balanced .* more shards than datamodule.window=4"):
        check_sampler("balanced", Shards(SHARDS, 4))
