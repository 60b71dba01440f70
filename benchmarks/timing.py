"""How a contestant is let run for a round, stopped, and read."""

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from benchmarks.mfu import utilisation


class Pace:
    """Counts the training steps of one contestant, which waits while others run.

    Args:
        connection: gives the seconds of the next round, and takes its figures.
        skip: steps at the start of a round, and of an epoch within it, that are not counted. One is the least:
            the clock starts at a step's end.
    """

    def __init__(self, connection: Connection, skip: int = 1) -> None:
        self._connection = connection
        self.skip = skip
        self._limit = 0.0
        self._begin()

    def wait(self) -> None:
        """Sleep until the next round."""
        self._limit = self._connection.recv()
        self._begin()

    def _begin(self) -> None:
        self.images, self.seconds = 0, 0.0
        self.new_epoch()

    def new_epoch(self) -> None:
        """Do not count what lies between the last step and the next: validation, checkpoints."""
        self.seconds += self._lap()
        self._passed, self._since = 0, None

    def count(self, images: int) -> None:
        """A step is done."""
        self._passed += 1
        if self._passed > self.skip:
            self.images += images
        elif self._passed == self.skip:
            _finish_queued()
            self._since = time.perf_counter()

    def step(self, images: int) -> None:
        """A step is done; report and wait if the round's time is over."""
        self.count(images)
        if self._since is not None and self.seconds + time.perf_counter() - self._since >= self._limit and self.images:
            self.report()
            self.wait()

    def report(self, **more: Any) -> None:
        """Send the round's figures."""
        self.seconds += self._lap()
        self._since = None
        figures = {"images": self.images, "seconds": self.seconds, "peak_mb": peak_megabytes(), **more}
        if torch.cuda.is_available():
            figures["utilisation"] = utilisation()
        self._connection.send(figures)

    _since: float | None = None

    def _lap(self) -> float:
        if self._since is None:
            return 0.0
        _finish_queued()
        return time.perf_counter() - self._since


class PaceCallback(Callback):
    """Lets a Lightning trainer run by the pace of this process, whoever made the trainer.

    Attributes:
        pace: of this process; set before the trainer is made.
    """

    pace: ClassVar[Pace]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave out what lay between the epochs; before the very first, wait."""
        if trainer.global_step == 0:
            self.pace.wait()
        self.pace.new_epoch()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step."""
        self.pace.step(len(batch[0]))


class EpochPaceCallback(PaceCallback):
    """The same for a trainer whose loader has worker processes: a round is an epoch, so that none works beyond it."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the round: the loader's iterator is made after this."""
        self.pace.wait()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and report after the epoch's last."""
        self.pace.count(len(batch[0]))
        if batch_idx + 1 == trainer.num_training_batches:
            self.pace.report()


class Resident(Callback):
    """Follows the memory of a run of Opsin, from before its first step to after its last.

    Attributes:
        growth: largest growth in MB since training began: `anonymous` is the process's own, `file` are pages of mapped
            files, which the system can take back; None before a run, and where there is no /proc.
    """

    growth: ClassVar[dict[str, float] | None] = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the base line."""
        self._before = status_megabytes()
        Resident.growth = dict.fromkeys(("anonymous", "file", "total"), 0.0) if self._before else None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare with it."""
        if Resident.growth is None:
            return
        now = status_megabytes()
        for name, key in (("anonymous", "RssAnon"), ("file", "RssFile"), ("total", "VmRSS")):
            Resident.growth[name] = max(Resident.growth[name], now[key] - self._before[key])


class FirstStep(Callback):
    """Ends the process as soon as the first training step is done."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave without the goodbyes, whose time is no part of starting up."""
        _finish_queued()
        os._exit(0)


def status_megabytes(pid: int | str = "self") -> dict[str, float]:
    """The sizes in /proc/PID/status, in MB; empty where there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines if line.endswith(" kB"))
    return {row[0].rstrip(":"): int(row[1]) * 1024 / 1e6 for row in rows}


def peak_megabytes() -> float | None:
    """Largest memory of this process so far, with what its children (loader workers) now hold of their own, in MB."""
    peak = status_megabytes().get("VmHWM")
    if peak is None:
        return None
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    children = [pid for task in tasks for pid in task.read_text().split()]
    return peak + sum(status_megabytes(pid).get("RssAnon", 0.0) for pid in children)


def _finish_queued() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
