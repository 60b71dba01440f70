import mmap
import multiprocessing
from types import SimpleNamespace

import pytest

from benchmarks import timing as module
from benchmarks.timing import EpochPaceCallback, Pace, PaceCallback, peak_megabytes, status_megabytes


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now.seconds)
    return now


def talk():
    ours, theirs = multiprocessing.Pipe()
    return ours, theirs


def test_a_round_counts_the_steps_between_its_first_end_and_its_last(clock):
    ours, theirs = talk()
    pace = Pace(theirs)
    ours.send(2.5)
    ours.send(100.0)
    pace.wait()
    clock.seconds = 50.0  # what was before the first step's end does not count
    for _ in range(4):
        pace.step(10)
        clock.seconds += 1.0
    figures = ours.recv()
    assert (figures["images"], figures["seconds"]) == (30, 3.0)


def test_what_lies_between_epochs_does_not_count(clock):
    ours, theirs = talk()
    pace = Pace(theirs)
    ours.send(3.0)
    ours.send(100.0)
    pace.wait()
    pace.step(10)
    for _ in range(2):
        clock.seconds += 1.0
        pace.step(10)
    pace.new_epoch()
    clock.seconds += 1000.0
    pace.step(10)
    clock.seconds += 1.0
    pace.step(10)
    figures = ours.recv()
    assert (figures["images"], figures["seconds"]) == (30, 3.0)


def test_prefetched_batches_are_skipped_and_a_round_is_an_epoch(clock):
    ours, theirs = talk()
    EpochPaceCallback.pace = Pace(theirs, skip=3)
    callback, trainer = EpochPaceCallback(), SimpleNamespace(num_training_batches=6)
    ours.send(1.0)
    callback.on_train_epoch_start(trainer, None)
    for batch in range(6):
        clock.seconds += 1.0
        callback.on_train_batch_end(trainer, None, None, ([0] * 4,), batch)
    figures = ours.recv()
    assert (figures["images"], figures["seconds"]) == (12, 3.0)
    assert PaceCallback.__dict__.get("pace") is None or PaceCallback.pace is not EpochPaceCallback.pace


def test_memory_is_read_where_there_is_proc():
    sizes = status_megabytes()
    if not sizes:
        pytest.skip("no /proc")
    assert sizes["VmRSS"] == pytest.approx(sizes["RssAnon"] + sizes["RssFile"] + sizes["RssShmem"], rel=0.05)
    before = peak_megabytes()
    room = int((before - sizes["VmRSS"]) * 1e6)  # what earlier tests took, and gave back
    with mmap.mmap(-1, room + 200_000_000) as ballast:  # not from malloc, which may still hold it
        ballast.write(b"x" * len(ballast))
        assert peak_megabytes() - before > 100
    assert status_megabytes(2**30) == {}
