import multiprocessing
import time
from functools import partial

import numpy as np
import pytest

from opsin.data.cache.feature_store import FeatureSubset, open_features
from opsin.errors import UserError

FACTS = {"weights": "abc", "images": "fake"}
# Fork where possible, because a spawned process has to import torch and Lightning.
CONTEXT = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def opened(cache, count=100, shape=(3,), facts=FACTS):
    return open_features(cache, facts, count, shape)


def numbers(rows):
    """Return features that hold the number of their row."""
    return np.repeat(rows[:, None], 3, axis=1).astype(np.float32)


class Counting:
    def __init__(self, values=numbers):
        self.blocks = []
        self._values = values

    def __call__(self, rows):
        self.blocks.append(rows.tolist())
        return self._values(rows)


def test_only_requested_and_missing_rows_are_computed(tmp_path):
    store, compute = opened(tmp_path), Counting()
    assert store.compute_missing(np.array([5, 50, 7]), 2, compute) == 3
    assert store.compute_missing(np.array([7, 8, 5]), 2, compute) == 1
    assert compute.blocks == [[5, 50], [7, 7], [8, 8]]  # always two rows; the last one is repeated
    assert np.array_equal(store.take(np.array([50, 8, 5])), numbers(np.array([50, 8, 5])))
    assert store.take(np.array([5])).dtype == np.float16
    assert store.missing(np.arange(9)).tolist() == [0, 1, 2, 3, 4, 6]


def test_rows_that_were_not_computed_cannot_be_read(tmp_path):
    store = opened(tmp_path)
    store.compute_missing(np.array([1]), 1, numbers)
    with pytest.raises(AssertionError, match="has not computed"):
        store.take(np.array([1, 2]))


def test_a_later_run_reuses_computed_rows(tmp_path):
    opened(tmp_path).compute_missing(np.arange(40), 16, numbers)
    compute = Counting()
    later = opened(tmp_path)
    later.compute_missing(np.arange(60), 16, compute)
    assert compute.blocks == [[*range(40, 56)], [*range(56, 60), *[59] * 12]]
    assert np.array_equal(later.take(np.arange(60)), numbers(np.arange(60)))


def test_feature_maps_keep_their_shape(tmp_path):
    store = opened(tmp_path, shape=(2, 4, 3))
    values = np.random.default_rng(0).normal(size=(100, 2, 4, 3)).astype(np.float16)
    store.compute_missing(np.arange(100), 32, lambda rows: values[rows])
    assert store.shape == (2, 4, 3)
    assert np.array_equal(store.take(np.array([3, 99, 0])), values[[3, 99, 0]])


@pytest.mark.parametrize("other", [{"weights": "abd"}, {"images": "others"}, {"more": 1}])
def test_every_fact_is_part_of_the_key_of_a_store(tmp_path, other):
    opened(tmp_path).compute_missing(np.arange(3), 3, numbers)
    assert len(opened(tmp_path, facts=FACTS | other).missing(np.arange(3))) == 3
    assert len(opened(tmp_path).missing(np.arange(3))) == 0


@pytest.mark.parametrize("damage", ["features.npy", "done.npy"])
def test_a_damaged_store_is_computed_again(tmp_path, damage):
    opened(tmp_path).compute_missing(np.arange(3), 3, numbers)
    file = next(tmp_path.glob(f"*/{damage}"))
    file.write_bytes(file.read_bytes()[:100])
    assert len(opened(tmp_path).missing(np.arange(3))) == 3


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", "bool"])
def test_damaged_marks_are_computed_again_and_named(tmp_path, caplog, damage):
    opened(tmp_path).compute_missing(np.arange(3), 3, numbers)
    file = next(tmp_path.glob("*/done.npy"))
    if damage == "bool":  # of an earlier version
        np.save(file, np.ones(100, bool))
    else:
        file.write_bytes(damage)
    assert len(opened(tmp_path).missing(np.arange(3))) == 3
    assert f"the cached features in {file.parent} are damaged" in caplog.text


@pytest.mark.parametrize("settled_ns", [0, 10**18])
def test_damaged_rows_are_computed_again(tmp_path, caplog, monkeypatch, settled_ns):
    monkeypatch.setattr("opsin.data.file_contents._SETTLED_NS", settled_ns)
    stores = tmp_path / "features"
    opened(stores).compute_missing(np.arange(50), 8, numbers)
    assert len(opened(stores).missing(np.arange(50))) == 0
    file = next(stores.glob("*/features.npy"))
    content, row = bytearray(file.read_bytes()), numbers(np.arange(1)).astype(np.float16).nbytes
    start = len(content) - 100 * row
    content[start + 7 * row + 1] ^= 1
    content[start + 20 * row : start + 22 * row] = bytes(2 * row)
    file.write_bytes(content)
    store = opened(stores)
    assert store.missing(np.arange(50)).tolist() == [7, 20, 21]
    assert "3 of the cached features" in caplog.text
    store.compute_missing(np.arange(50), 8, numbers)
    assert np.array_equal(opened(stores).take(np.arange(50)), numbers(np.arange(50)))
    read = []
    monkeypatch.setattr("opsin.data.cache.feature_store._mark", lambda value: read.append(value) or 0)
    opened(stores)
    assert bool(read) == (settled_ns > 0)  # an unchanged file is read once


def test_rows_count_only_after_they_are_marked_as_done(tmp_path):
    def fails(rows):
        if 40 in rows:
            raise RuntimeError("the power is gone")
        return numbers(rows)

    with pytest.raises(RuntimeError):
        opened(tmp_path).compute_missing(np.arange(100), 1, fails)
    store = opened(tmp_path)
    assert store.missing(np.arange(100)).tolist() == list(range(32, 100))  # marked as done every 16 blocks
    store.compute_missing(np.arange(100), 8, numbers)
    assert np.array_equal(store.take(np.arange(100)), numbers(np.arange(100)))


def test_values_beyond_half_precision_are_refused(tmp_path):
    store = opened(tmp_path)
    with pytest.raises(UserError, match="feature_cache=off"):
        store.compute_missing(np.arange(3), 3, lambda rows: numbers(rows) + 7e4)
    assert len(store.missing(np.arange(3))) == 3


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    store = opened(tmp_path)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="Cached features need"):
        store.compute_missing(np.arange(3), 3, numbers)


def slowly(log):
    def compute(rows):
        time.sleep(0.02)
        with log.open("a") as file:
            file.write("x" * len(rows))
        return numbers(rows)

    return compute


def complete_in_a_process(cache, log, start):
    start.wait()
    opened(cache).compute_missing(np.arange(100), 10, slowly(log))


@FORKS
def test_two_processes_compute_every_row_once(tmp_path):
    log, start = tmp_path / "log", CONTEXT.Event()
    arguments = (tmp_path / "features", log, start)
    processes = [CONTEXT.Process(target=complete_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(log.read_text()) == 100
    store = opened(tmp_path / "features")
    assert np.array_equal(store.take(np.arange(100)), numbers(np.arange(100)))
    assert not list(tmp_path.glob("features/*.building"))


@FORKS
def test_rows_of_a_killed_process_are_not_used(tmp_path):
    log, start, cache = tmp_path / "log", CONTEXT.Event(), tmp_path / "features"
    process = CONTEXT.Process(target=complete_in_a_process, args=(cache, log, start))
    process.start()
    start.set()
    while not log.exists():
        time.sleep(0.01)
    process.kill()
    process.join(60)
    store, compute = opened(cache), Counting()
    assert store.compute_missing(np.arange(100), 10, compute) == 100
    assert np.array_equal(store.take(np.arange(100)), numbers(np.arange(100)))


def test_long_work_is_logged_once_with_the_remaining_time(tmp_path, caplog, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("opsin.data.progress.time.monotonic", lambda: next(clock))
    with caplog.at_level("INFO", logger="opsin.data.progress"):
        opened(tmp_path).compute_missing(np.arange(100), 10, numbers)
    assert [record.message for record in caplog.records] == ["computing features, once: 100 images, about 8 s more"]


def filled(cache, offset, count=10):
    store = opened(cache, count, facts={"offset": offset})
    store.compute_missing(np.arange(count), count, lambda rows: numbers(rows) + offset)
    return store


def test_a_subset_reads_from_two_concatenated_stores(tmp_path):
    subset = FeatureSubset([lambda: [filled(tmp_path, 0), filled(tmp_path, 100)]], np.array([2, 9, 10, 19]))
    assert subset.read(np.array([3, 0, 2]), epoch=1)[:, 0].tolist() == [109, 2, 100]
    assert subset.mean().tolist() == [(2 + 9 + 100 + 109) / 4] * 3


def test_each_epoch_reads_the_next_view_which_is_computed_when_it_is_first_read(tmp_path):
    computed = []

    def view(number):
        computed.append(number)
        return [filled(tmp_path, number * 100)]

    subset = FeatureSubset([partial(view, number) for number in range(3)], np.arange(10))
    subset.compute(1)
    assert computed == [0]
    assert [subset.read(np.array([4]), epoch)[0, 0] for epoch in range(5)] == [4, 104, 204, 4, 104]
    assert computed == [0, 1, 2]
