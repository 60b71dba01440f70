import numpy as np
import pytest

from opsin.data.loader.evaluation_batches import evaluation_batches

TARGETS = np.repeat([0, 1, 2], [70, 25, 5])


def of_all_processes(world_size, seed=0, **options):
    ranks = range(world_size)
    return [evaluation_batches(TARGETS, seed, rank=rank, world_size=world_size, **options) for rank in ranks]


def images(processes):
    return np.concatenate([batch for batches in processes for batch in batches]).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_without_a_limit_every_image_is_read_once_in_the_order_of_the_split(world_size):
    processes = of_all_processes(world_size, batch_size=24, batches=5, limited=False)
    assert images(processes) == list(range(100))
    for batches in processes:
        sizes = [len(batch) for batch in batches]
        assert len(batches) == 5
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= 24 // world_size


def test_a_limit_reads_the_same_stratified_sample_in_any_number_of_processes():
    options = {"batch_size": 10, "batches": 2, "limited": True}
    samples = [images(of_all_processes(size, **options)) for size in (1, 2, 4)]
    assert samples[0] == samples[1] == samples[2]
    assert np.bincount(TARGETS[samples[0]]).tolist() == [14, 5, 1]
    assert images(of_all_processes(1, seed=1, **options)) != samples[0]
