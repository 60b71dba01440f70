"""Time the training steps of a contender round by round, and measure its memory."""

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from benchmarks.step_work import utilization


class StepTimer:
    """Counts the training steps of one contender, which waits while others run.

    Args:
        connection: Provides the duration of the next round, and receives its figures.
        skip: Number of steps at the start of a round, and of an epoch within it, that do not count; at least 1,
            because timing starts at the end of a step.
    """

    def __init__(self, connection: Connection, skip: int = 1) -> None:
        self._connection = connection
        self.skip = skip
        self._limit = 0.0
        self._begin()

    def wait(self) -> None:
        """Wait for the next round."""
        self._limit = self._connection.recv()
        self._begin()

    def _begin(self) -> None:
        self.images, self.seconds = 0, 0.0
        self.new_epoch()

    def new_epoch(self) -> None:
        """Exclude the time from now to the next step: validation and checkpoints."""
        self.seconds += self._lap()
        self._passed, self._since = 0, None

    def count(self, images: int) -> None:
        """Count a finished step."""
        self._passed += 1
        if self._passed > self.skip:
            self.images += images
        elif self._passed == self.skip:
            _synchronize()
            self._since = time.perf_counter()

    def step(self, images: int) -> None:
        """Count a finished step; report and wait if the round is over."""
        self.count(images)
        if self._since is not None and self.seconds + time.perf_counter() - self._since >= self._limit and self.images:
            self.report()
            self.wait()

    def report(self, **more: Any) -> None:
        """Send the figures of the round."""
        self.seconds += self._lap()
        self._since = None
        figures = {"images": self.images, "seconds": self.seconds, "peak_mb": peak_megabytes(), **more}
        if torch.cuda.is_available():
            figures["utilization"] = utilization()
        self._connection.send(figures)

    _since: float | None = None

    def _lap(self) -> float:
        if self._since is None:
            return 0.0
        _synchronize()
        return time.perf_counter() - self._since


class StepTimerCallback(Callback):
    """Times the steps of any Lightning trainer in this process.

    Attributes:
        timer: Timer of this process; set before the trainer is created.
    """

    timer: ClassVar[StepTimer]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait before the first epoch."""
        if trainer.global_step == 0:
            self.timer.wait()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step; exclude what follows the last step of an epoch."""
        self.timer.step(len(batch[0]))
        if batch_idx + 1 == trainer.num_training_batches:
            self.timer.new_epoch()


class EpochTimerCallback(StepTimerCallback):
    """Variant for loaders with worker processes: a round is one epoch, so that workers do not run beyond it."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the round; the iterator of the loader is created afterwards."""
        self.timer.wait()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and report after the last step of the epoch."""
        self.timer.count(len(batch[0]))
        if batch_idx + 1 == trainer.num_training_batches:
            self.timer.report()


class MemoryGrowthCallback(Callback):
    """Measures the memory growth of an Opsin run from before its first step to after its last.

    Attributes:
        growth: Largest growth in MB since the start of training: `anonymous` is the memory of the process, `file` are
            pages of mapped files, which the system can reclaim; None before a run, and without /proc.
    """

    growth: ClassVar[dict[str, float] | None] = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the baseline."""
        self._before = status_megabytes()
        MemoryGrowthCallback.growth = dict.fromkeys(("anonymous", "file", "total"), 0.0) if self._before else None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the growth."""
        if MemoryGrowthCallback.growth is None:
            return
        now = status_megabytes()
        for name, key in (("anonymous", "RssAnon"), ("file", "RssFile"), ("total", "VmRSS")):
            MemoryGrowthCallback.growth[name] = max(MemoryGrowthCallback.growth[name], now[key] - self._before[key])


class ExitAfterFirstStep(Callback):
    """Ends the process after the first training step."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Exit without cleanup; shutdown time is not part of start-up time."""
        _synchronize()
        os._exit(0)


def status_megabytes(pid: int | str = "self") -> dict[str, float]:
    """Return the sizes in /proc/PID/status in MB; empty if it does not exist."""
    return _megabytes(Path(f"/proc/{pid}/status"))


def _megabytes(file: Path) -> dict[str, float]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines if line.endswith(" kB"))
    return {row[0].rstrip(":"): int(row[1]) * 1024 / 1e6 for row in rows}


def peak_megabytes() -> float | None:
    """Return the peak memory of this process plus the current private memory of its loader workers, in MB.

    Memory that a worker shares with this process since the fork is not private.
    """
    peak = status_megabytes().get("VmHWM")
    if peak is None:
        return None
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    children = [pid for task in tasks for pid in task.read_text().split()]
    return peak + sum(_private_megabytes(pid) for pid in children)


def _private_megabytes(pid: int | str) -> float:
    sizes = _megabytes(Path(f"/proc/{pid}/smaps_rollup"))
    return sizes.get("Private_Clean", 0.0) + sizes.get("Private_Dirty", 0.0)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
