"""Who is measured. Each runs in a process of its own, because memory and thread settings hold for whole processes."""

import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import baseline_lightning
from benchmarks.timing import EpochPaceCallback, Pace, PaceCallback, Resident, peak_megabytes
from benchmarks.workloads import Workload
from opsin.commands import train
from opsin.config import compose
from opsin.data import ImageDataModule
from opsin.models import Network
from opsin.runs.directory import RunDirectory
from opsin.training import build
from opsin.training.hardware import keep_freed_memory, prepare_network, resolve_accelerator, resolve_precision
from opsin.training.plan import RunPlan, make_plan
from opsin.training.quiet_logging import quieten

TRIAL_SECONDS = 1.0
"""For each number of loader workers that is tried."""


@dataclass(frozen=True)
class Task:
    """A workload, where its images lie, and where a contestant may write."""

    workload: Workload
    images: Path
    folder: Path

    @cached_property
    def plan(self) -> RunPlan:
        """What Opsin would do."""
        return make_plan(compose(self.words(), self.folder / "plan"))

    def words(self, contestant: str = "opsin") -> list[str]:
        """Opsin's command line."""
        places = [f"data_dir={self.folder}/data", f"output_dir={self.folder}/outputs"]
        return [*self.workload.command(self.images, contestant), *places]

    def network(self) -> tuple[ImageDataModule, Network]:
        """The data, ready, and the network that all contestants train."""
        L.seed_everything(0, verbose=False)
        data = build.data(self.plan)
        data.setup("fit")
        network, _ = build.network(self.plan, data, build.loss(self.plan, data).num_logits)
        return data, network


def bare(task: Task, connection: Connection, same_settings: bool = False) -> None:
    """The shortest honest loop: normalised images in memory, forward, backward, step. It does not augment."""
    data, network = task.network()
    accelerator = resolve_accelerator("auto")
    device = torch.device({"gpu": "cuda"}.get(accelerator, accelerator))
    part = data.subset("train")
    pixels = torch.from_numpy(part.read(np.arange(len(part)))).permute(0, 3, 1, 2)
    images = data.preprocess(pixels).contiguous().to(device)
    targets = torch.from_numpy(part.targets).to(device)
    network.to(device).train()
    precision = "32"
    if same_settings:
        keep_freed_memory()
        precision = resolve_precision("auto", accelerator)
        options = task.plan.trainer
        if prepare_network(
            network,
            accelerator=accelerator,
            channels_last=options.channels_last,
            compile_network=options.compile,
        ):
            images = images.contiguous(memory_format=torch.channels_last)
    binary = len(data.source.classes) == 2
    criterion = _binary_loss if binary else nn.CrossEntropyLoss()
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-3, fused=same_settings or None)
    pace, size = Pace(connection), min(task.workload.batch_size, len(images))
    connection.send({"ready": True})
    pace.wait()
    while True:
        order = torch.randperm(len(images), device=device)
        for index in order[: len(order) // size * size].view(-1, size):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = criterion(network(images[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pace.step(size)


def bare_same(task: Task, connection: Connection) -> None:
    """The bare loop with Opsin's precision, memory format, compile choice, fused optimizer and allocator setting."""
    bare(task, connection, same_settings=True)


def _binary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1).float(), targets.float())


def common_steps(task: Task, connection: Connection) -> None:
    """Common practice, one epoch a round, with the number of workers that is fastest here."""
    data, network = task.network()
    preprocess, size = data.preprocess, task.workload.batch_size
    images = baseline_lightning.dataset(task.workload, task.images, "train", preprocess.mean, preprocess.std)
    module = baseline_lightning.CommonModule(network, len(data.source.classes))
    connection.send({"ready": True})
    seconds = connection.recv()
    speeds = {
        workers: _trial(module, images, size, workers, task.folder) for workers in baseline_lightning.worker_counts()
    }
    workers = max(speeds, key=lambda count: speeds[count])
    skip = 2 * workers + 1  # what is prefetched when a round begins was not prepared in it
    batches = max(2 * skip, round(speeds[workers] * seconds / size) + skip)
    connection.send({"images": 1, "seconds": 1.0, "workers": workers, "tried": {str(k): v for k, v in speeds.items()}})
    EpochPaceCallback.pace = Pace(connection, skip)
    loader = baseline_lightning.loader(images, size, workers, batches * size)
    baseline_lightning.trainer(task.folder, -1, [EpochPaceCallback()], validates=False).fit(module, loader)


def _trial(module: L.LightningModule, images: Any, size: int, workers: int, folder: Path) -> float:
    """Images/s with so many workers: a guess at the length of a trial first, then the trial if the guess was short."""
    speed = 0.0
    for _ in range(2):
        batches = max(2 * workers + 4, min(round(speed * TRIAL_SECONDS / size), 400))
        stopwatch = _Stopwatch(2 * workers + 1)
        loader = baseline_lightning.loader(images, size, workers, batches * size)
        baseline_lightning.trainer(folder, 1, [stopwatch], validates=False).fit(module, loader)
        speed = stopwatch.speed
        if stopwatch.seconds >= TRIAL_SECONDS:
            break
    return speed


class _Stopwatch(L.Callback):
    """Images/s after the first few batches of one epoch."""

    def __init__(self, skip: int) -> None:
        self._skip = skip
        self._images = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self._skip:
            self._since = time.perf_counter()
        elif batch_idx >= self._skip:
            self._images += len(batch[0])
            self.seconds = time.perf_counter() - self._since
            self.speed = self._images / self.seconds


def opsin_steps(task: Task, connection: Connection) -> None:
    """Opsin as `python train.py` runs it, default callbacks and logger included; validation cut to one batch."""
    PaceCallback.pace = Pace(connection)
    words = [
        *task.words(),
        "trainer.max_epochs=1000000",
        "trainer.limit_val_batches=1",
        "callbacks.early_stopping.patience=1000000",
        "+callbacks.pace._target_=benchmarks.timing.PaceCallback",
    ]
    connection.send({"ready": True})
    _opsin(words, task.folder)


def _opsin(words: list[str], folder: Path) -> RunDirectory:
    place = folder / f"run{time.time_ns()}"
    place.mkdir(parents=True)
    train.train(compose(words, place))
    return RunDirectory(place)


def opsin_runs(task: Task, connection: Connection) -> None:
    """Whole runs of Opsin, each with the words it is sent besides the task's own; `{new}` in one is a new folder."""
    connection.send({"ready": True})
    while True:
        words = connection.recv()
        start = time.perf_counter()
        words = [*words, "+callbacks.resident._target_=benchmarks.timing.Resident"]
        done = _opsin(words, task.folder)
        seconds = time.perf_counter() - start
        result = done.read_result()
        figures = {"parts": result.seconds, "growth": Resident.growth, "peak_mb": peak_megabytes()}
        assert result.data is not None
        connection.send({"images": result.data.counts["train"], "seconds": seconds, **figures})


def common_runs(task: Task, connection: Connection) -> None:
    """Whole runs of common practice: train and validate every epoch, then test the best checkpoint."""
    workload = task.workload
    data, _ = task.network()
    mean, std = data.preprocess.mean, data.preprocess.std
    connection.send({"ready": True})
    speeds: dict[int, float] = {}
    while True:
        connection.recv()
        splits = {
            name: baseline_lightning.dataset(workload, task.images, name, mean, std)
            for name in ("train", "val", "test")
        }
        if not speeds:  # the first run is a warm-up
            module = baseline_lightning.CommonModule(task.network()[1], len(data.source.classes))
            counts = baseline_lightning.worker_counts()
            speeds = {n: _trial(module, splits["train"], workload.batch_size, n, task.folder) for n in counts}
            connection.send({"images": 1, "seconds": 1.0, "tried": {str(k): v for k, v in speeds.items()}})
            continue
        workers = max(speeds, key=lambda count: speeds[count])
        start = time.perf_counter()
        module = baseline_lightning.CommonModule(task.network()[1], len(data.source.classes))
        loaders = {
            name: baseline_lightning.loader(images, workload.batch_size, workers, shuffle=name == "train")
            for name, images in splits.items()
        }
        trainer = baseline_lightning.trainer(task.folder, workload.epochs, [])
        trainer.fit(module, loaders["train"], loaders["val"])
        trainer.test(module, loaders["test"], ckpt_path="best", weights_only=False, verbose=False)
        figures = {"seconds": time.perf_counter() - start, "peak_mb": peak_megabytes(), "workers": workers}
        connection.send({"images": len(splits["train"]), **figures})  # type: ignore[arg-type]


CONTESTANTS: dict[str, dict[str, Callable[[Task, Connection], None]]] = {
    "steps": {"bare": bare, "bare_same": bare_same, "common": common_steps, "opsin": opsin_steps},
    "runs": {"common": common_runs, "opsin": opsin_runs, "opsin_uncached": opsin_runs},
}


def enter(name: str, task: Task, connection: Connection) -> None:
    """The life of a contestant's process; what it prints goes to a file, and how it fails to the connection."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that it can be ended together with its loader workers
    if sys.platform == "linux":  # a spawned process would spawn its loader workers too, which import torch anew
        multiprocessing.set_start_method("fork", force=True)
    with (task.folder / "log.txt").open("w") as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        quieten(False)
        try:
            CONTESTANTS[task.workload.measure][name](task, connection)
        except (KeyboardInterrupt, EOFError):
            pass
        except BaseException as error:
            traceback.print_exc()
            with contextlib.suppress(OSError):
                connection.send({"error": f"{type(error).__name__}: {error}"})
