import itertools
from itertools import chain

import numpy as np
import pytest
import torch

from opsin.data.loader.batch_loader import Batch, BatchLoader, batch_key
from opsin.errors import UserError


def fetch(pixels, targets):
    def batch(index, key, epoch):
        images = torch.from_numpy(pixels[index]).permute(0, 3, 1, 2)
        return Batch(images, torch.from_numpy(targets[index]), torch.from_numpy(index), key)

    return batch


def loader(n=23, batch_size=4, *, targets=None, training=True, **options):
    targets = np.arange(n) % 3 if targets is None else targets
    pixels = np.arange(n * 2 * 5 * 3, dtype=np.uint8).reshape(n, 2, 5, 3)
    return BatchLoader(fetch(pixels, targets), targets, batch_size, training=training, **options)


def positions(batches):
    return [batch.positions.tolist() for batch in batches]


def flat(batches):
    return [index for batch in positions(batches) for index in batch]


def test_a_batch_holds_the_images_of_its_positions():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
    targets = np.arange(10)[::-1].copy()
    batches = list(BatchLoader(fetch(pixels, targets), targets, 4, training=True))
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert batch.targets.dtype == batch.positions.dtype == torch.int64
        assert batch.images.shape == (len(batch.positions), 3, 4, 6)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for image, target, index in zip(batch.images, batch.targets, batch.positions, strict=True):
            assert torch.equal(image, torch.from_numpy(pixels[index]).permute(2, 0, 1))
            assert target == 9 - index


def test_an_epoch_reads_every_image_once_and_epochs_differ():
    batches = loader(seed=1)
    first, second = flat(batches), flat(batches)
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second
    assert first != list(range(23))
    assert flat(loader(seed=1)) == first
    assert flat(loader(seed=2)) != first


def test_the_fixed_sampler_repeats_the_first_epoch_in_mixed_batches():
    batches = loader(sampler="fixed", targets=np.repeat([0, 1], [12, 11]), batch_size=12)
    first = positions(batches)
    assert positions(batches) == first == positions(loader(batch_size=12))
    assert len(set(next(iter(batches)).targets.tolist())) == 2


def test_an_epoch_can_be_resumed_at_any_position():
    whole = [(batch.positions.tolist(), batch.key) for batch in loader(seed=7, position=lambda: (5, 0))]
    for step in range(len(whole) + 1):
        rest = loader(seed=7, position=lambda step=step: (5, step))
        assert [(batch.positions.tolist(), batch.key) for batch in rest] == whole[step:]


def test_the_position_is_read_at_the_first_batch():
    asked = []

    def position():
        asked.append(True)
        return 0, 0

    iterator = iter(loader(position=position))
    assert not asked
    next(iterator)
    next(iterator)
    assert len(asked) == 1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 10, 11, 23])
def test_a_single_remaining_image_is_dropped(n):
    batches = positions(loader(n))
    assert len(batches) == len(loader(n))
    assert all(len(batch) == 4 for batch in batches[:-1])
    expected = n - 1 if n % 4 == 1 and n > 1 else n
    assert len(set(flat(loader(n)))) == sum(map(len, batches)) == expected


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("n", [6, 7, 12, 13, 14, 15, 16, 17, 18, 23])
def test_processes_divide_each_global_batch(n, world_size):
    alone = positions(loader(n, 6, seed=3))
    shared = [positions(loader(n, 6, seed=3, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in shared}) == 1
    for step, together in enumerate(zip(*shared, strict=True)):
        assert len({len(batch) for batch in together}) == 1
        union = [index for batch in together for index in batch]
        assert len(set(union)) == len(union)
        assert set(union) <= set(alone[step])
        assert len(union) == len(alone[step]) // world_size * world_size
    assert all(len(together[0]) > 1 for together in zip(*shared, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("per_process", [1, 2, 8, 100])
@pytest.mark.parametrize("n", [4, 5, 9, 16, 17, 24, 25, 33])
def test_evaluation_reads_every_image_once(n, per_process, world_size):
    size = per_process * world_size
    shared = [
        positions(loader(n, size, training=False, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert [index for batches in shared for batch in batches for index in batch] == list(range(n))
    assert len({len(batches) for batches in shared}) == 1
    assert all(1 <= len(batch) <= max(per_process, 2) for batches in shared for batch in batches)
    assert len(shared[0]) == len(loader(n, size, training=False, world_size=world_size))


def test_evaluation_has_the_same_order_every_time():
    batches = loader(training=False)
    assert positions(batches) == positions(batches)


def test_the_balanced_sampler_draws_every_class_equally():
    targets = np.random.default_rng(0).permutation(np.repeat([0, 2, 3], [9000, 900, 100]))
    batches = loader(10_000, 500, targets=targets, sampler="balanced")
    first = flat(batches)
    counts = np.bincount(targets[first], minlength=4)
    assert counts[1] == 0
    assert len(first) == 10_000
    assert np.abs(counts[[0, 2, 3]] - 10_000 / 3).max() < 5 * np.sqrt(10_000 * 2 / 9)
    rare = np.bincount(first, minlength=10_000)[targets == 3]
    assert (rare > 0).all()  # each of the 100 images is expected 33 times
    assert first == flat(loader(10_000, 500, targets=targets, sampler="balanced"))
    assert first != flat(batches)


def test_too_few_images_and_uneven_batches_are_refused():
    with pytest.raises(UserError, match=r"too few images \(3\) for 4 processes"):
        loader(3, 4, world_size=4)
    with pytest.raises(UserError, match=r"A batch of 64 images .* 3 processes: set datamodule.batch_size=63"):
        loader(100, 64, world_size=3)


def test_batch_keys_are_unrelated_63_bit_numbers():
    names = list(itertools.product(range(4), range(5), range(50), range(2)))
    keys = [batch_key(*name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(0 <= key < 2**63 for key in keys)
    assert keys == [batch_key(*name) for name in names]
    bits = np.array([[key >> bit & 1 for bit in range(63)] for key in keys])
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(keys))
    flips = np.abs(np.diff(bits[::2][:50], axis=0)).mean()  # consecutive steps
    assert abs(flips - 0.5) < 0.05


def test_batch_key_is_splitmix64():
    # First output of the reference splitmix64.c for state 0, http://prng.di.unimi.it/splitmix64.c
    state = 0xE220A8397B1DCDAF
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    assert batch_key(0, 0, 0, 0) == state >> 1


def test_keys_differ_between_steps_and_processes():
    keys = {batch.key for rank in (0, 1) for batch in loader(24, 4, rank=rank, world_size=2)}
    assert len(keys) == 12


def test_a_limited_evaluation_reads_the_same_stratified_sample_in_any_number_of_processes():
    targets = np.repeat([0, 1], [30, 10])

    def limited(limit, **options):
        batches = loader(targets=targets, n=40, batch_size=8, training=False, **options)
        return batches.limit(limit, "limit"), positions(batches)

    number, whole = limited(2)
    assert number == len(whole) == 2
    assert [len(batch) for batch in whole] == [8, 8]
    sample = sorted(chain(*whole))
    assert np.bincount(targets[sample]).tolist() == [12, 4]
    ranks = [list(chain(*limited(2, rank=rank, world_size=4)[1])) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [4] * 4
    assert sorted(chain(*ranks)) == sample
    assert limited(0.4) == (2, whole)
    assert limited(2, seed=1)[1] != whole
    for everything in (5, 99, 1.0):
        assert list(chain(*limited(everything)[1])) == list(range(40))


def test_a_limit_below_one_batch_is_refused_by_name():
    with pytest.raises(UserError, match=r"trainer\.limit_val_batches=0\.1 selects none of the 6 batch"):
        loader(training=False).limit(0.1, "trainer.limit_val_batches")
