"""Record the provenance, resolved settings and measurements of a run, and print a summary."""

import importlib.metadata
import logging
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import Timer

from opsin.config import RunConfig
from opsin.config.locations import IS_CLONE
from opsin.data import ImageDataModule
from opsin.models import Network
from opsin.models.fine_tuning import FreezeSchedule
from opsin.runs import neutral_keys
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import LATEST, OUTPUT_DIR, RunDirectory
from opsin.runs.flat_keys import Scalar, flat_scalars
from opsin.runs.home import real_path
from opsin.runs.metric_registry import SPLITS, custom_metrics
from opsin.runs.per_class import SplitScores, delete_scores
from opsin.runs.predictions import predictions_file, read_predictions
from opsin.runs.quoting import opsin_command
from opsin.runs.result import (
    Calibration,
    DataFacts,
    Hardware,
    MonitoredMetric,
    ParameterCounts,
    PhaseCounts,
    RunResult,
    Settings,
)
from opsin.runs.training_record import TrainingRecord
from opsin.training.callbacks import Checkpoints, EarlyStopping, Pruning, Throughput
from opsin.training.callbacks.base import is_metric
from opsin.training.distillation import Distillation
from opsin.training.hardware import cpu_name
from opsin.training.metrics import undefined_metrics
from opsin.training.module import Classifier
from opsin.training.plan import RunPlan, time_limits
from opsin.training.run_warnings import warning_lines

log = logging.getLogger(__name__)

NO_HYPERPARAMETERS = (*neutral_keys.TOP_LEVEL, "callbacks", "logger", "monitor")
"""Top-level keys that are not logged as hyperparameters."""

UNLOGGED = ("_target_", "data_dir")
"""Keys of any section that are not hyperparameters."""

PACKAGES = ("opsin", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "timm", "numpy")


class PhaseTimer:
    """Measures the seconds of each phase of a run and their total; a resumed run adds to those of earlier processes.

    As a context manager it records them even if its block raises.

    Args:
        result: The result that receives the seconds.
    """

    def __init__(self, result: RunResult) -> None:
        self._seconds = result.seconds
        self._phase = "setup"
        self._since = time.perf_counter()

    def __enter__(self) -> "PhaseTimer":
        return self

    def __exit__(self, *_: object) -> None:
        self.enter("")

    def enter(self, phase: str) -> None:
        """End the current phase and begin another."""
        now = time.perf_counter()
        total = self._seconds.pop("total", 0.0)  # written last
        for name, before in ((self._phase, self._seconds.get(self._phase, 0.0)), ("total", total)):
            self._seconds[name] = round(before + now - self._since, 3)
        self._phase, self._since = phase, now


def record_provenance(result: RunResult, composed: RunConfig, data: ImageDataModule) -> None:
    """Record the facts that are known before the first step."""
    result.choices = dict(composed.origin.choices)
    result.seed = composed.tree["seed"]
    result.tags = run_tags(composed)
    result.data = data_facts(data)
    result.hardware = hardware()
    result.versions = versions()
    result.commit = commit()


def training_record(result: RunResult, composed: RunConfig, resume_step: int | None) -> TrainingRecord:
    """Return how this process trains, with which `opsin verify` repeats it.

    Args:
        result: The result with its settings, hardware and versions.
        composed: The config of this process; that of the run can change on resume.
        resume_step: The step from which this process resumes; None for a new run.
    """
    settings, machine = result.settings, result.hardware
    assert settings is not None
    assert machine is not None
    return TrainingRecord(
        composed.text, resume_step or 0, settings, machine.cpu, machine.gpus, result.versions["torch"]
    )


def data_facts(data: ImageDataModule) -> DataFacts:
    """Return the facts about the data as the result keeps them."""
    facts = data.facts()
    tuples = {key: tuple(facts[key]) for key in ("classes", "image_size", "mean", "std", "bad_image_reports")}
    return DataFacts(**{**facts, **tuples})


def parameter_counts(network: Network, schedule: FreezeSchedule) -> ParameterCounts:
    """Count the parameters, in all and in each phase if there is more than one."""
    total = sum(p.numel() for p in network.parameters())
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    phases = []
    for phase in schedule.phases if len(schedule.phases) > 1 else ():
        stages = tuple(f"stages.{stage}." for stage in schedule.frozen(phase))
        kept = [p for name, p in network.named_parameters() if name.startswith(stages) or name in network.fixed]
        frozen = sum(p.numel() for p in kept)
        phases.append(PhaseCounts(phase.epoch, tuple(phase.trainable), phase.lr_factor, total - frozen, frozen))
    return ParameterCounts(total, trainable, total - trainable, tuple(phases))


def run_tags(composed: RunConfig) -> tuple[str, ...]:
    """Return the tags of a run as text, each once; a tag such as 1 reads as a number."""
    return tuple(dict.fromkeys(str(tag) for tag in composed.tree.get("tags") or ()))


def hyperparameters(composed: RunConfig) -> dict[str, Scalar]:
    """Return the values that distinguish runs: the option of each config group, and every value by its dotted key."""
    chosen = {name: option for name, option in composed.origin.choices.items() if option}
    kept = {key: value for key, value in composed.tree.items() if key not in NO_HYPERPARAMETERS}
    values = flat_scalars(kept)
    return chosen | {key: value for key, value in values.items() if key.rpartition(".")[2] not in UNLOGGED}


def settings(
    plan: RunPlan,
    trainer: L.Trainer,
    channels_last: bool,
    data: ImageDataModule,
    feature_cache: str,
    distillation: Distillation | None,
) -> Settings:
    """Return the settings that affect speed and numerical results, with every `auto` resolved."""
    return Settings(
        accelerator=trainer.strategy.root_device.type,
        devices=trainer.world_size,
        precision=str(trainer.precision),
        channels_last=channels_last,
        gradient_checkpointing=plan.trainer.gradient_checkpointing,
        compile=plan.trainer.compile,
        deterministic=plan.trainer.deterministic,
        threads=torch.get_num_threads(),
        wait_policy=os.environ.get("OMP_WAIT_POLICY"),
        batch_size=int(data.batch_size),
        max_epochs=trainer.max_epochs,
        augmentation=str(data.augmentation),
        feature_cache=feature_cache,
        teacher=f"{plan.fine_tuning.teacher} ({distillation.weights})" if distillation else None,
    )


@dataclass(frozen=True)
class Measurement:
    """Metrics of the last validation or test loop.

    Attributes:
        metrics: Scalars by name, `<split>/<metric>`.
        per_class: Scores of the classes, by split.
    """

    metrics: dict[str, float]
    per_class: dict[str, SplitScores]


def measured(trainer: L.Trainer, classifier: Classifier, data: ImageDataModule) -> Measurement:
    """Return the metrics of the last loop."""
    scalars = {name: float(value) for name, value in trainer.callback_metrics.items() if is_metric(name)}
    return Measurement(scalars, _split_scores(classifier.confusion, data.source.classes))


def _split_scores(confusion: Mapping[str, torch.Tensor], classes: Sequence[str]) -> dict[str, SplitScores]:
    return {split: SplitScores.of(matrix.numpy(), classes) for split, matrix in confusion.items()}


def write_scores(run: RunDirectory, classifier: Classifier, checkpoints: Checkpoints, classes: Sequence[str]) -> None:
    """Write the scores of the classes on train and val at the best epoch, and on test with its checkpoint.

    The scores of a split without measurement, which an earlier end of the run has written, are deleted.
    """
    confusion = checkpoints.best_confusion | {k: v for k, v in classifier.confusion.items() if k == "test"}
    measured = _split_scores(confusion, classes)
    for split in SPLITS:
        if split in measured:
            measured[split].write(run, split)
        else:
            delete_scores(run, split)


def record_outcome(
    result: RunResult,
    plan: RunPlan,
    trainer: L.Trainer,
    classifier: Classifier,
    checkpoints: Checkpoints,
    data: ImageDataModule,
) -> None:
    """Record training and validation metrics of the best epoch, and test metrics of its checkpoint."""
    test = measured(trainer, classifier, data).metrics
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    pruned = [c.reason for c in callbacks if isinstance(c, Pruning) and c.reason]
    speed = [c.images_per_second for c in callbacks if isinstance(c, Throughput)]
    result.data = data_facts(data)  # again: the test images have been read only now
    result.metrics = checkpoints.best_metrics | {n: value for n, value in test.items() if n.startswith("test/")}
    result.undefined_metrics = undefined_metrics(result.metrics)
    result.best_epoch = checkpoints.best_epoch
    result.epochs = checkpoints.epochs
    result.stopped = pruned[0] if pruned else _early_end(plan, trainer, checkpoints.epochs)
    result.pruned = bool(pruned)
    result.monitor = MonitoredMetric(checkpoints.monitor, checkpoints.best_value)
    result.custom_metrics = custom_metrics()
    if speed and speed[0] is not None:  # None if no epoch was trained
        result.throughput = speed[0]


def _early_end(plan: RunPlan, trainer: L.Trainer, epochs: float) -> str | None:
    """Return why training diverged or ended before its last epoch or step, and log it; None if it did neither."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    complete = epochs >= plan.trainer.max_epochs or trainer.global_step == plan.trainer.max_steps
    reasons = [c.reason for c in callbacks if isinstance(c, EarlyStopping) and (c.diverged or not complete)]
    if not complete:
        of_lightning = (c for c in callbacks if isinstance(c, LightningEarlyStopping))
        reasons += [c.stopping_reason_message for c in of_lightning if not isinstance(c, EarlyStopping)]
        reasons += [_end_of_time(plan, c) for c in callbacks if isinstance(c, Timer)]
    reason = next(filter(None, reasons), None)
    if reason:
        log.info("stopped early: %s", reason)
    return reason


def _end_of_time(plan: RunPlan, timer: Timer) -> str | None:
    """Return that the limit of the training time is used up; None if time is left."""
    left = timer.time_remaining()
    if left is None or left > 0:
        return None
    key, limit = next(iter(time_limits(plan).items()))
    return f"{key}={limit} is used up"


def record_calibration(result: RunResult, run: RunDirectory) -> None:
    """Fit the temperature on the predictions on val at the best epoch, if they were measured, and record it."""
    if not predictions_file(run, "val").is_file():
        result.calibration = Calibration(
            reason="val was not measured at the best epoch, so there is nothing to fit it on"
        )
        return
    from opsin.evaluation.calibration import calibrate  # scipy delays the start of a run

    predictions = read_predictions(run, "val")
    result.calibration = calibrate(predictions.logits, predictions.targets)


def announce(
    result: RunResult, tables: tuple[str, str], run: RunDirectory, resume_step: int | None, split_seed: int
) -> None:
    """Log the data, network and settings before training, and write the tables of the network to `model.txt`.

    Args:
        result: The result, with data, settings and parameters.
        tables: The stages of the network, which are also logged, and its layers.
        run: The run directory.
        resume_step: The step at which the run resumes; None for a new run.
        split_seed: Seed of the split.
    """
    data, settings, parameters = result.data, result.settings, result.parameters
    assert data is not None
    assert settings is not None
    assert parameters is not None
    height, width = data.image_size
    counts = _split_counts(data, split_seed)
    lines = [
        f"data       {data.name}: {counts}; {len(data.classes)} classes, {data.channels}x{height}x{width}",
        f"network    {result.choices.get('model')}: {parameters.total:,} parameters, "
        f"{parameters.trainable:,} trainable; weights: {result.weights}",
        "settings   " + ", ".join(f"{key}={value}" for key, value in settings.known().items()),
        f"run        {run.path}" + (f", resumed at step {resume_step}" if resume_step else ""),
    ]
    for phase in reversed(parameters.phases[1:]):
        rates = f", learning rates x {phase.lr_factor:g}" if phase.lr_factor != 1 else ""
        names = ", ".join([*phase.stages, "head"])
        lines.insert(2, f"           after {phase.epoch} epochs: {names} train, {phase.trainable:,}{rates}")
    if (decided := result.precision_auto) and decided.speedup is not None:
        lines.insert(-1, f"precision  auto: {decided.precision}, because {decided.reason}")
    if data.bad_images:
        reports = ", ".join(data.bad_image_reports)
        images, verb = ("image", "is") if data.bad_images == 1 else ("images", "are")
        lines.insert(1, f"           {data.bad_images} {images} cannot be read and {verb} left out: {reports}")
    log.info("%s\n%s", "\n".join(lines), tables[0])
    write_atomically(run.network_table, "\n".join(tables))


def _split_counts(data: DataFacts, seed: int) -> str:
    """Return the number of images of each split and the way in which they were split."""
    carved = "carved" in data.origin.values()

    def is_random(split: str) -> bool:
        return data.origin[split] == "carved" or (split == "train" and carved)

    groups = []
    for random, splits in groupby(data.counts, is_random):
        counts = ", ".join(f"{data.counts[split]:,} {split}" for split in splits)
        groups.append(f"{counts} ({f'split at random, seed {seed}' if random else 'given'})")
    return ", ".join(groups)


def closing_message(result: RunResult, run: RunDirectory) -> str:
    """Return the last message of a run: its result and the next commands."""
    monitor, settings = result.monitor, result.settings
    assert monitor is not None
    assert settings is not None
    place = run.path.relative_to(Path.cwd()) if run.path.is_relative_to(Path.cwd()) else run.path
    latest = Path(OUTPUT_DIR, LATEST)
    shortest = latest if real_path(latest) == real_path(run.path) else place
    test = {name.removeprefix("test/"): value for name, value in result.metrics.items() if name.startswith("test/")}
    others = ", ".join(f"{name} {value:.4f}" for name, value in test.items() if name != "acc")
    lines = [
        "",
        f"test accuracy {test['acc']:.2%}   ({others})" if test else "no test images were read",
        f"best epoch {result.best_epoch} of {result.epochs}, by {monitor.metric} {monitor.best:.4f}; "
        f"{result.seconds['total']:.0f} s of setup, training and test"
        + (f"; {result.throughput:,.0f} training images/s" if result.throughput else ""),
        f"temperature of predictions: {result.calibration}",
        *warning_lines(result.warnings),
        "",
        *([f"report      {place / run.report.name}"] if run.report.exists() else []),
        f"result      {place / run.result.name}",
        f"test again  {opsin_command('evaluate', place)}",
        f"predict     {opsin_command('predict', shortest, 'FILE')}",
        f"dashboard   {opsin_command('dashboard', *([] if Path(OUTPUT_DIR) in place.parents else [place]))}",
    ]
    if settings.teacher:  # it explains the figures above
        lines.insert(3, f"teacher {settings.teacher}")
    return "\n".join(lines)


def hardware() -> Hardware:
    """Return processor, cores, memory and accelerators of this machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return Hardware(
        cpu=cpu_name(),
        cores=os.cpu_count(),
        memory_gib=round(pages / 2**30, 1) if pages else None,
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        platform=platform.platform(),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def commit() -> str | None:
    """Return the commit of Opsin's own checkout, with `-dirty` if files differ; None outside a checkout."""
    if not IS_CLONE:  # the folder of the packages may be in a checkout of something else
        return None
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
