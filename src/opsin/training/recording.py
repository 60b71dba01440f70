"""What a run records: where it came from, what `auto` became, what was measured; and how a person is told."""

import importlib.metadata
import logging
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from opsin.config import RunConfig
from opsin.data import ImageDataModule
from opsin.models import Network
from opsin.models.fine_tuning import FreezeSchedule
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import printed_command
from opsin.training.callbacks import Checkpoints, EarlyStopping, Pruning, Throughput
from opsin.training.callbacks.base import is_metric
from opsin.training.distillation import Distillation
from opsin.training.metrics import per_class
from opsin.training.module import Classifier
from opsin.training.plan import RunPlan
from opsin.training.tensorboard import Value

log = logging.getLogger(__name__)

UNTOLD = ("callbacks", "logger", "monitor", "output_dir", "report", "resume", "test")
"""Sections that say nothing about what is learned."""

PACKAGES = ("opsin", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "timm", "numpy")


OUTCOME = ("metrics", "best_epoch", "epochs", "stopped", "pruned", "monitor", "per_class")
"""What a run that goes on has not come to again yet."""


class PhaseTimer:
    """Seconds of each part of a run, and of all, over every process that worked on it and was not killed.

    As a context it keeps them in the record however its block ends.

    Args:
        record: what is recorded; the seconds of earlier processes are taken from it.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self._seconds: dict[str, float] = record.setdefault("seconds", {})
        self._part = "setup"
        self._since = time.perf_counter()

    def __enter__(self) -> "PhaseTimer":
        return self

    def __exit__(self, *_: object) -> None:
        self.enter("")

    def enter(self, part: str) -> None:
        """End the part under way, and begin another."""
        now = time.perf_counter()
        total = self._seconds.pop("total", 0.0)  # the last of them
        for name, before in ((self._part, self._seconds.get(self._part, 0.0)), ("total", total)):
            self._seconds[name] = round(before + now - self._since, 3)
        self._part, self._since = part, now


def provenance(composed: RunConfig, data: ImageDataModule, network: Network) -> dict[str, Any]:
    """What is known before the first step."""
    total = sum(p.numel() for p in network.parameters())
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return {
        "choices": dict(composed.origin.choices),
        "seed": composed.tree["seed"],
        "data": data.facts(),
        "parameters": {"total": total, "trainable": trainable, "frozen": total - trainable},
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
    }


def by_phase(network: Network, schedule: FreezeSchedule) -> dict[str, Any]:
    """How many parameters train in each phase of a run; empty where there is one phase only."""
    if len(schedule.phases) == 1:
        return {}
    total = sum(p.numel() for p in network.parameters())
    phases = []
    for phase in schedule.phases:
        frozen = sum(p.numel() for stage in schedule.frozen(phase) for p in network.stages[stage].parameters())
        facts = {"epoch": phase.epoch, "stages": list(phase.trainable), "lr_factor": phase.lr_factor}
        phases.append({**facts, "trainable": total - frozen, "frozen": frozen})
    return {"phases": phases}


def hyperparameters(composed: RunConfig) -> dict[str, Value]:
    """What tells runs apart: the option of each part, and every value by its dotted key."""
    chosen = {name: option for name, option in composed.origin.choices.items() if option}
    told = {key: value for key, value in composed.tree.items() if key not in UNTOLD}
    return chosen | _flat(told)


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        elif value is not None and key not in ("_target_", "data_dir"):
            found[f"{above}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


def settings(
    plan: RunPlan,
    trainer: L.Trainer,
    channels_last: bool,
    data: ImageDataModule,
    feature_cache: str,
    distillation: Distillation | None,
) -> dict[str, Any]:
    """What every `auto` became, and the other settings that decide about speed."""
    taught = {"teacher": f"{plan.fine_tuning.teacher} ({distillation.weights})"} if distillation else {}
    return {
        "accelerator": trainer.strategy.root_device.type,
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "channels_last": channels_last,
        "compile": plan.trainer.compile,
        "deterministic": plan.trainer.deterministic,
        "threads": torch.get_num_threads(),
        "batch_size": data.batch_size,
        "max_epochs": trainer.max_epochs,
        "augmentation": str(data.augmentation),
        "feature_cache": feature_cache,
        **taught,
    }


def measured(trainer: L.Trainer, classifier: Classifier, data: ImageDataModule) -> dict[str, Any]:
    """The scalar metrics of the last loop, and those of each class with the confusion matrix."""
    scalars = {name: float(value) for name, value in trainer.callback_metrics.items() if is_metric(name)}
    return {"metrics": scalars, "per_class": _tables(classifier.confusion, data.source.classes)}


def _tables(confusion: Mapping[str, torch.Tensor], classes: Sequence[str]) -> dict[str, Any]:
    return {
        split: {"classes": per_class(matrix, classes), "confusion": matrix.tolist()}
        for split, matrix in confusion.items()
    }


def outcome(
    trainer: L.Trainer, classifier: Classifier, checkpoints: Checkpoints, data: ImageDataModule
) -> dict[str, Any]:
    """What came out: training and validation metrics of the best epoch, test metrics of its checkpoint."""
    classes = data.source.classes
    test = measured(trainer, classifier, data)["metrics"]
    tests = {name: value for name, value in test.items() if name.startswith("test/")}
    confusion = checkpoints.best_confusion | {k: v for k, v in classifier.confusion.items() if k == "test"}
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    stopped = [c.reason for c in callbacks if isinstance(c, (EarlyStopping, Pruning)) and c.reason]
    speed = [c.images_per_second for c in callbacks if isinstance(c, Throughput)]
    return {
        "data": data.facts(),  # again: only now were the test images read
        "metrics": checkpoints.best_metrics | tests,
        "best_epoch": checkpoints.best_epoch,
        "epochs": checkpoints.epochs,
        "stopped": stopped[0] if stopped else None,
        "pruned": any(isinstance(c, Pruning) and c.reason for c in callbacks),
        "monitor": {"metric": checkpoints.monitor, "mode": checkpoints.mode, "best": checkpoints.best_value},
        "per_class": _tables(confusion, classes),
        **({"throughput": speed[0]} if speed and speed[0] is not None else {}),  # else nothing was left to train
    }


def step_of(checkpoint: Path) -> int:
    """The optimizer step at which a checkpoint was written; its tensors stay on the disk."""
    return int(torch.load(checkpoint, weights_only=True, mmap=True, map_location="cpu")["global_step"])


def announce(record: Mapping[str, Any], table: str, run: RunDirectory, resume_step: int | None) -> None:
    """Tell what is about to be trained, on what, and how; keep the table of the network in the run directory."""
    data, chosen, parameters = record["data"], record["settings"], record["parameters"]
    height, width = data["image_size"]
    counts = ", ".join(f"{n:,} {split} ({data['origin'][split]})" for split, n in data["counts"].items())
    lines = [
        f"data       {data['name']}: {counts}; {len(data['classes'])} classes, {data['channels']}x{height}x{width}",
        f"network    {record['choices'].get('model')}: {parameters['total']:,} parameters, "
        f"{parameters['trainable']:,} trainable; weights: {record['weights']}",
        "settings   " + ", ".join(f"{key}={value}" for key, value in chosen.items()),
        f"run        {run.path}" + (f", going on from step {resume_step}" if resume_step else ""),
    ]
    for phase in reversed(parameters.get("phases", [])[1:]):
        rates = f", learning rates x {phase['lr_factor']:g}" if phase["lr_factor"] != 1 else ""
        names = ", ".join([*phase["stages"], "head"])
        lines.insert(2, f"           after {phase['epoch']} epochs: {names} train, {phase['trainable']:,}{rates}")
    if data["bad_images"]:
        reports = ", ".join(data["bad_image_reports"])
        lines.insert(1, f"           {data['bad_images']} images cannot be read and are left out: {reports}")
    log.info("%s\n%s", "\n".join(lines), table)
    write_atomically(run.path / "model.txt", table + "\n")


def closing_words(record: Mapping[str, Any], run: RunDirectory) -> str:
    """The last thing a run prints: the result, and what to do next."""
    metrics, monitor = record["metrics"], record["monitor"]
    place = run.path.relative_to(Path.cwd()) if run.path.is_relative_to(Path.cwd()) else run.path
    test = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
    others = ", ".join(f"{name} {value:.4f}" for name, value in test.items() if name != "acc")
    lines = [
        "",
        f"test accuracy {test['acc']:.2%}   ({others})" if test else "no test images were read",
        f"best epoch {record['best_epoch']} of {record['epochs']}, by {monitor['metric']} {monitor['best']:.4f}; "
        f"{record['seconds']['total']:.0f} s in all"
        + (f"; {record['throughput']:,.0f} training images/s" if record.get("throughput") else ""),
        "",
        *([f"report      {place}/report.html"] if (run.path / "report.html").exists() else []),
        f"result      {place}/result.json",
        f"test again  {printed_command(['python', 'scripts/evaluate.py', place])}",
        "dashboard   make dashboard",
    ]
    if teacher := record["settings"].get("teacher"):  # what the figures mean that stand above
        lines.insert(3, f"teacher {teacher}")
    return "\n".join(lines)


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and accelerators of this machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1) if pages else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "platform": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def commit() -> str | None:
    """The commit of Opsin's own checkout, with `-dirty` where files differ; None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
