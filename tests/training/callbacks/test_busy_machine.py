"""The warning about other programs: its conditions and its text."""

import logging
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from opsin.runs.cpu_usage import CpuSample
from opsin.training.callbacks import busy_machine
from opsin.training.callbacks.busy_machine import SUSTAINED, WINDOW_S, BusyMachine, busy_message


@pytest.mark.parametrize(
    ("others", "cores", "threads", "fitting"),
    [
        (1.0, 2, 2, 1),
        (0.6, 2, 2, 1),
        (1.9, 2, 2, 1),
        (3.0, 8, 8, 5),
        (0.3, 2, 2, None),  # not enough to matter
        (1.0, 2, 1, None),  # one thread waits for no other thread
        (2.0, 8, 4, None),  # enough cores are free
    ],
)
def test_the_message_names_threads_that_fit(others: float, cores: int, threads: int, fitting: int | None) -> None:
    found = busy_message(others, cores, threads)
    assert (f"trainer.threads={fitting} " in found) if fitting else found == ""


class Run:
    """A run with given speeds, in windows of `WINDOW_S`, beside given numbers of cores in use by others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int = 2) -> None:
        self.now, self.busy = 0.0, 0.0
        self.callback = BusyMachine()
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(busy_machine, "available_cores", lambda: 2)
        monkeypatch.setattr(CpuSample, "now", lambda: CpuSample(self.now, self.busy, 0.0))
        monkeypatch.setattr(busy_machine, "time", SimpleNamespace(perf_counter=lambda: self.now))
        module = SimpleNamespace(device=torch.device("cpu"))
        self.callback.on_train_start(SimpleNamespace(world_size=1), module)  # type: ignore[arg-type]

    def train(self, windows: Sequence[tuple[float, float]], pause: bool = False) -> str:
        """Train windows of (images per second, cores of others); return the warning."""
        step, batch = WINDOW_S / 10, SimpleNamespace(targets=None)
        for rate, others in windows:
            batch.targets = [0] * round(rate * step)
            if pause:
                self.now += 100.0  # a validation
                self.callback.on_validation_start(None, None)  # type: ignore[arg-type]
            for _ in range(11 if pause else 10):
                self.now, self.busy = self.now + step, self.busy + others * step
                self.callback.on_train_batch_end(None, None, None, batch, 0)  # type: ignore[arg-type]
        return self.callback.message


QUIET, BUSY, SLOW = (1000.0, 0.1), (150.0, 1.0), (150.0, 0.1)


def test_a_busy_machine_is_named_once_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert "other programs use 1.0 of 2 cores" in Run(monkeypatch).train([BUSY] * 30)
    assert len(caplog.records) == 1
    assert "trainer.threads=1" in caplog.text


def test_a_lasting_slowdown_gives_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(monkeypatch)
    assert run.train([QUIET] * 6 + [BUSY] + [QUIET] * 6 + [BUSY] * 2) == ""  # short moments
    assert run.train([BUSY] * 10).startswith("training has slowed down to 15% of its best speed: other programs use")
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


@pytest.mark.parametrize("windows", [[QUIET] * 20, [QUIET] * 10 + [SLOW] * 10, [QUIET, *[(900.0, 1.0)] * 20]])
def test_no_warning_without_a_slowdown_by_other_programs(
    windows: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Run(monkeypatch).train(windows) == ""


def test_a_long_run_keeps_the_last_windows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    assert run.train([QUIET] * 40) == ""
    assert len(run.callback._windows) == SUSTAINED


def test_time_in_validation_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Run(monkeypatch).train([QUIET] * 20, pause=True) == ""


def test_a_run_with_one_thread_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Run(monkeypatch, threads=1).train([BUSY] * 20) == ""
