"""The contenders. Each runs in a separate process, because memory and thread settings apply to whole processes."""

import contextlib
import logging
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
from benchmarks.timing import EpochTimerCallback, MemoryGrowthCallback, StepTimer, StepTimerCallback, peak_megabytes
from benchmarks.workloads import Workload
from opsin.commands import train
from opsin.config import compose
from opsin.data import ImageDataModule
from opsin.models import Network
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override
from opsin.training import build
from opsin.training.accelerator import resolve_accelerator
from opsin.training.hardware import keep_freed_memory, prepare_network, prevent_cuda_search
from opsin.training.plan import RunPlan, make_plan
from opsin.training.precision_timing import decide_precision
from opsin.training.quiet_logging import hide_notices

TRIAL_SECONDS = 1.0
"""Duration of the trial of each number of loader workers."""


@dataclass(frozen=True)
class Task:
    """A workload, the folder of its images, and the folder a contender writes to."""

    workload: Workload
    images: Path
    folder: Path

    @cached_property
    def plan(self) -> RunPlan:
        """The plan of an Opsin run."""
        return make_plan(compose(self.overrides(), self.folder / "plan"))

    def overrides(self, contender: str = "opsin") -> list[str]:
        """Return the overrides of an Opsin run."""
        places = [override("data_dir", self.folder / "data"), override("output_dir", self.folder / "outputs")]
        return [*self.workload.command(self.images, contender), *places]

    def network(self) -> tuple[ImageDataModule, Network]:
        """Return the data after setup, and the network that all contenders train."""
        L.seed_everything(0, verbose=False)
        data = build.data(self.plan)
        data.setup("fit")
        network, _ = build.network(self.plan, data, build.loss(self.plan, data).num_logits)
        return data, network


def bare(task: Task, connection: Connection, same_settings: bool = False) -> None:
    """Run a bare training loop: normalized images in memory, forward, backward, step, without augmentation."""
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
        if accelerator == "cpu":
            keep_freed_memory()
            prevent_cuda_search()
        shape = (data.channels, *data.image_size)
        options, _ = decide_precision(task.plan.trainer, network, shape, data.base_batch_size)
        precision = str(options.precision)
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
    timer, size = StepTimer(connection), min(task.workload.batch_size, len(images))
    connection.send({"ready": True})
    timer.wait()
    while True:
        order = torch.randperm(len(images), device=device)
        for index in order[: len(order) // size * size].view(-1, size):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = criterion(network(images[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            timer.step(size)


def bare_same(task: Task, connection: Connection) -> None:
    """Run the bare loop with Opsin's precision, memory format, compile setting, fused optimizer and allocator."""
    bare(task, connection, same_settings=True)


def _binary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1).float(), targets.float())


def common_steps(task: Task, connection: Connection) -> None:
    """Run common practice, one epoch per round, with the number of workers that is fastest on this machine."""
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
    skip = 2 * workers + 1  # batches prefetched before the round do not count
    batches = max(2 * skip, round(speeds[workers] * seconds / size) + skip)
    connection.send({"images": 1, "seconds": 1.0, "workers": workers, "tried": {str(k): v for k, v in speeds.items()}})
    EpochTimerCallback.timer = StepTimer(connection, skip)
    loader = baseline_lightning.loader(images, size, workers, batches * size)
    baseline_lightning.trainer(task.folder, -1, [EpochTimerCallback()], validates=False).fit(module, loader)


def _trial(module: L.LightningModule, images: Any, size: int, workers: int, folder: Path) -> float:
    """Return images/s with a number of workers: a short trial first, then a longer one if it was too short."""
    speed = 0.0
    for _ in range(2):
        batches = max(2 * workers + 4, min(round(speed * TRIAL_SECONDS / size), 400))
        stopwatch = _SpeedCallback(2 * workers + 1)
        loader = baseline_lightning.loader(images, size, workers, batches * size)
        baseline_lightning.trainer(folder, 1, [stopwatch], validates=False).fit(module, loader)
        speed = stopwatch.speed
        if stopwatch.seconds >= TRIAL_SECONDS:
            break
    return speed


class _SpeedCallback(L.Callback):
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
    """Run Opsin as `python train.py` does, with default callbacks and logger; validation is limited to one batch."""
    StepTimerCallback.timer = StepTimer(connection)
    overrides = [
        *task.overrides(),
        "trainer.max_epochs=1000000",
        "trainer.limit_val_batches=1",
        "callbacks.early_stopping.patience=1000000",
        "+callbacks.timer._target_=benchmarks.timing.StepTimerCallback",
    ]
    connection.send({"ready": True})
    _train_opsin(overrides, task.folder)


def _train_opsin(overrides: list[str], folder: Path) -> RunDirectory:
    place = folder / f"run{time.time_ns()}"
    place.mkdir(parents=True)
    train.train(compose(overrides, place))
    return RunDirectory(place)


def opsin_runs(task: Task, connection: Connection) -> None:
    """Run whole Opsin runs, each with the overrides received from the connection."""
    connection.send({"ready": True})
    while True:
        overrides = connection.recv()
        start = time.perf_counter()
        overrides = [*overrides, "+callbacks.resident._target_=benchmarks.timing.MemoryGrowthCallback"]
        done = _train_opsin(overrides, task.folder)
        seconds = time.perf_counter() - start
        result = done.read_result()
        figures = {"parts": result.seconds, "growth": MemoryGrowthCallback.growth, "peak_mb": peak_megabytes()}
        assert result.data is not None
        connection.send({"images": result.data.counts["train"], "seconds": seconds, **figures})


def common_runs(task: Task, connection: Connection) -> None:
    """Run whole runs of common practice: train and validate every epoch, then test the best checkpoint."""
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


CONTENDERS: dict[str, dict[str, Callable[[Task, Connection], None]]] = {
    "steps": {"bare": bare, "bare_same": bare_same, "common": common_steps, "opsin": opsin_steps},
    "runs": {"common": common_runs, "opsin": opsin_runs, "opsin_uncached": opsin_runs},
}


def run_contender(name: str, task: Task, connection: Connection) -> None:
    """Run a contender in its process; its output goes to a file, and its error to the connection."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that it can be killed together with its loader workers
    if sys.platform == "linux":  # a spawned process would spawn its loader workers, which import torch again
        multiprocessing.set_start_method("fork", force=True)
    with (task.folder / "log.txt").open("w") as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        hide_notices()
        logging.getLogger("opsin").setLevel(logging.WARNING)
        try:
            CONTENDERS[task.workload.measure][name](task, connection)
        except (KeyboardInterrupt, EOFError):
            pass
        except BaseException as error:
            traceback.print_exc()
            with contextlib.suppress(OSError):
                connection.send({"error": f"{type(error).__name__}: {error}"})
