"""A warning about other programs that slow a run down."""

import logging
import math
import statistics
import time
from typing import Any

import lightning as L
import torch

from opsin.runs.cpu_cores import available_cores
from opsin.runs.cpu_usage import CpuSample, others_cores

log = logging.getLogger(__name__)

WINDOW_S = 2.0
"""Training time of one measurement of the speed, in seconds."""

SUSTAINED = 5
"""Windows of which the median is compared with the best median so far."""

COLLAPSE = 0.5
"""Share of the best speed below which training has collapsed."""

OTHERS = 0.5
"""Cores in use by other programs from which they are the reason."""


class BusyMachine(L.Callback):
    """Warn once if other programs need the cores on which the threads of a run wait for each other.

    The threads of a step end together, so one thread that has to share its core delays all. The warning appears at the
    start, or when the speed of training has collapsed. It names a number of threads that fits, which only the user can
    set, because it changes the rounding of results. The callback watches runs on a CPU with more than one thread.

    Attributes:
        message: The warning; empty if there was none.
    """

    def __init__(self) -> None:
        self.message = ""
        self._watches = False
        self._windows: list[tuple[float, CpuSample]] = []  # the last ones: images per second, and the first sample
        self._best = 0.0
        self._begin()

    def _begin(self) -> None:
        self._sample = CpuSample.now()
        self._images, self._seconds, self._last = 0, 0.0, float("nan")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide whether the run is watched."""
        one_cpu = trainer.world_size == 1 and pl_module.device.type == "cpu"
        self._watches = one_cpu and torch.get_num_threads() > 1
        self._begin()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave out the time between epochs."""
        self._last = float("nan")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave out validations and checkpoints."""
        self._last = float("nan")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images, and look at the machine after each window."""
        if self._watches:
            self.count(len(batch.targets), time.perf_counter())

    def count(self, images: int, now: float) -> None:
        """Count the images of a step that ended now, and look at the machine after each window.

        Args:
            images: Number of images.
            now: Seconds of a steady clock.
        """
        if not math.isnan(self._last):  # the first step after a pause has no beginning
            self._images += images
            self._seconds += now - self._last
        self._last = now
        if self._seconds >= WINDOW_S:
            self._windows = [*self._windows[1 - SUSTAINED :], (self._images / self._seconds, self._sample)]
            self._begin()
            self._last = now
            self._look()

    def _look(self) -> None:
        recent = self._windows
        complete = len(recent) == SUSTAINED
        speed = statistics.median(rate for rate, _ in recent)
        collapsed = complete and speed < COLLAPSE * self._best
        if complete:
            self._best = max(self._best, speed)
        if not collapsed and len(recent) > 1:
            return
        slow = recent[-(SUSTAINED // 2 + 1) :]  # as many windows make a median slow
        others = others_cores(slow[0][1], self._sample)
        found = "" if others is None else busy_message(others, available_cores(), torch.get_num_threads())
        if found:
            slower = f"training has slowed down to {speed / self._best:.0%} of its best speed: " if collapsed else ""
            self.message = slower + found
            self._watches = False
            log.warning("%s", self.message)


def busy_message(others: float, cores: int, threads: int) -> str:
    """Return the warning that the threads of a run do not fit beside other programs; empty if they do.

    Args:
        others: Number of cores that other programs use.
        cores: Number of cores that this process may use.
        threads: Number of threads of the run.
    """
    if others < OTHERS or cores - others > threads - OTHERS:
        return ""
    fitting = max(1, math.floor(cores - others + 0.25))
    if fitting >= threads:
        return ""
    return (
        f"other programs use {others:.1f} of {cores} cores, and the {threads} threads of this run wait for each other; "
        f"trainer.threads={fitting} is often several times as fast while they run (results are rounded differently)"
    )
