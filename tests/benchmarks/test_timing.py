import mmap
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import timing as module
from benchmarks.timing import EpochTimerCallback, StepTimer, StepTimerCallback, peak_megabytes, status_megabytes


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now.seconds)
    return now


def connected():
    ours, theirs = multiprocessing.Pipe()
    return ours, theirs


def test_a_round_counts_the_steps_after_the_first(clock):
    ours, theirs = connected()
    timer = StepTimer(theirs)
    ours.send(2.5)
    ours.send(100.0)
    timer.wait()
    clock.seconds = 50.0  # time before the end of the first step does not count
    for _ in range(4):
        timer.step(10)
        clock.seconds += 1.0
    figures = ours.recv()
    assert (figures["images"], figures["seconds"]) == (30, 3.0)


def test_time_between_epochs_does_not_count(clock):
    ours, theirs = connected()
    StepTimerCallback.timer = StepTimer(theirs)
    callback, trainer = StepTimerCallback(), SimpleNamespace(num_training_batches=3, global_step=0)
    ours.send(4.0)
    ours.send(100.0)
    for _ in range(2):
        callback.on_train_epoch_start(trainer, None)
        for batch in range(3):
            clock.seconds += 1.0
            callback.on_train_batch_end(trainer, None, None, ([0] * 10,), batch)
            trainer.global_step += 1
        clock.seconds += 1000.0  # validation and checkpoint
    figures = ours.recv()
    assert (figures["images"], figures["seconds"]) == (40, 4.0)
    del StepTimerCallback.timer


def test_memory_that_workers_share_with_their_parent_is_not_counted():
    shared = np.ones(200_000_000, np.uint8)
    before = peak_megabytes()
    reader, writer = multiprocessing.get_context("fork").Pipe()

    def worker() -> None:
        own = np.ones(50_000_000, np.uint8)
        writer.send(int(shared[::4096].sum() + own[0]))
        writer.recv()

    process = multiprocessing.get_context("fork").Process(target=worker)
    process.start()
    assert reader.recv()
    grown = peak_megabytes() - before
    reader.send(0)
    process.join()
    assert 45 < grown < 150


def test_prefetched_batches_are_skipped_and_a_round_is_an_epoch(clock):
    ours, theirs = connected()
    EpochTimerCallback.timer = StepTimer(theirs, skip=3)
    callback, trainer = EpochTimerCallback(), SimpleNamespace(num_training_batches=6)
    ours.send(1.0)
    callback.on_train_epoch_start(trainer, None)
    for batch in range(6):
        clock.seconds += 1.0
        callback.on_train_batch_end(trainer, None, None, ([0] * 4,), batch)
    figures = ours.recv()
    assert (figures["images"], figures["seconds"]) == (12, 3.0)
    assert StepTimerCallback.__dict__.get("timer") is None or StepTimerCallback.timer is not EpochTimerCallback.timer


def test_memory_is_read_from_proc():
    sizes = status_megabytes()
    if not sizes:
        pytest.skip("no /proc")
    assert sizes["VmRSS"] == pytest.approx(sizes["RssAnon"] + sizes["RssFile"] + sizes["RssShmem"], rel=0.05)
    before = peak_megabytes()
    room = int((before - sizes["VmRSS"]) * 1e6)  # memory that earlier tests have freed
    with mmap.mmap(-1, room + 200_000_000) as ballast:  # not from malloc, which may reuse freed memory
        ballast.write(b"x" * len(ballast))
        assert peak_megabytes() - before > 100
    assert status_megabytes(2**30) == {}
