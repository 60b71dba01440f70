"""Repeat a stretch of training from one checkpoint of a run to the next, and compare the checkpoints.

Only callbacks of Opsin that affect training are built, never a logger, a profiler or a callback of other packages. The
run directory is only read.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from opsin.commands.verify.checkpoint_contents import differences, distance, raw_weights, read_checkpoint
from opsin.commands.verify.stretches import Stretch
from opsin.config import RunConfig
from opsin.inference import teacher
from opsin.inference.opened_run import OpenedRun
from opsin.models.load_weights import HEAD_LOADED
from opsin.runs.result import Settings
from opsin.training import build
from opsin.training.callbacks import EMA
from opsin.training.callbacks.base import EpochCallback, is_within_epoch
from opsin.training.callbacks.freeze_phases import FreezingCallback
from opsin.training.feature_cache import FeatureCache
from opsin.training.lightning_trainer import make_trainer
from opsin.training.module import load_network
from opsin.training.network_building import for_evaluation, prepare
from opsin.training.optim import plateau
from opsin.training.plan import RunPlan, make_plan
from opsin.training.precision import BY_LIGHTNING_NAME
from opsin.training.threads import use_threads
from opsin.training.validation_schedule import ValidationSchedule

PLACES = ("data_dir", "datamodule.data_dir", "datamodule.path")
"""Keys of the places of images, which may have moved since a stretch was trained."""

REPLAYED = ("EMA", "Checkpoints")
"""Callbacks of Opsin in the config of a replay: the average of weights, and the one that every config needs."""


@dataclass(frozen=True)
class Replayed:
    """The result of a repeated stretch.

    Attributes:
        differences: Parts of the checkpoints at its end that the repetition does not reproduce bit for bit.
        apart: Distance of the repeated weights from the recorded ones, as a multiple of the distance that the weights
            move in the stretch.
    """

    differences: tuple[str, ...]
    apart: float


class _ReachedError(Exception):
    """The step at which a replay ends has been saved."""


class _SaveAt(EpochCallback):
    """Save a checkpoint at a step, at the moment at which the run saved it, and end the training.

    Attributes:
        first: Weights at the start of training.
    """

    def __init__(self, step: int, file: Path) -> None:
        super().__init__()
        self.first: dict[str, Tensor] = {}
        self._step = step
        self._file = file

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the weights."""
        self.first = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within an epoch."""
        if trainer.global_step >= self._step and is_within_epoch(trainer):
            self._end(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the end of an epoch, after the plateau schedule."""
        if trainer.global_step >= self._step:
            self._end(trainer)

    def _end(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self._file)
        raise _ReachedError


def foreign_callbacks(stretch: Stretch, opened: OpenedRun) -> list[str]:
    """Return the callbacks of a stretch that are not of Opsin; a replay leaves them out."""
    sections = _config_of(stretch, opened.config).tree.get("callbacks") or {}
    return [name for name, section in sections.items() if section and not _target(section).startswith("opsin.")]


def replay(stretch: Stretch, opened: OpenedRun) -> Replayed:
    """Repeat a stretch, and compare the result with the checkpoints at its end.

    Raises:
        UserError: The images or the teacher are missing, or the config is damaged.
    """
    settings = stretch.record.settings
    plan = _plan(stretch, opened.config, settings)
    with tempfile.TemporaryDirectory(prefix="opsin-verify-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about callbacks that are left out
        file = Path(folder, "replayed.ckpt")
        first = _train(stretch, plan, opened, settings, file)
        if not file.exists():
            return Replayed((f"training ends before step {stretch.end.step}",), float("inf"))
        again = read_checkpoint(file)
        ends = [(end.name, read_checkpoint(end)) for end in stretch.end.files]
        found = [text for name, end in ends for text in differences(end, again, name)]
        return Replayed(tuple(found), distance(first, raw_weights(ends[0][1]), raw_weights(again)) if found else 0.0)


def _train(stretch: Stretch, plan: RunPlan, opened: OpenedRun, settings: Settings, file: Path) -> dict[str, Tensor]:
    """Train a stretch, save a checkpoint at its end, and return the weights at its start.

    The order is that of `opsin.commands.train.train`: weights and the projector of a teacher draw random numbers.
    """
    start = stretch.start.files[0] if stretch.start.files else None
    threads = torch.get_num_threads()
    use_threads(settings.threads)
    L.seed_everything(plan.run.seed, verbose=False)
    data = build.data(plan, image_format=opened.data_facts.image_format)
    data.setup("fit")
    build.check_same_data(data, opened.data_facts)
    loss = build.loss(plan, data)
    has_head = (opened.directory.read_result().weights or "").endswith(HEAD_LOADED)
    network, _ = build.network(plan, data, loss.num_logits, pretrained=start is None, any_classes=has_head)
    if start:
        load_network(network, start)
    prepare(plan, network)
    freezing = FreezingCallback(build.freeze_schedule(plan, network))
    callbacks = [freezing, *(callback.build() for callback in plan.callbacks.values() if callback.call is EMA)]
    if plan.trainer.limit_val_batches and plan.trainer.validates_within_epochs:
        callbacks.append(ValidationSchedule(plan.trainer.val_check_interval))
    callbacks.append(saving := _SaveAt(stretch.end.step, file))
    trainer = make_trainer(plan.trainer, callbacks=callbacks, loggers=[], folder=file.parent)
    distillation = teacher.distillation(plan, data, network, trainer)
    plan.feature_cache.apply(data, network, freezing.never_trained, trainer)
    classifier = build.classifier(plan, data, network, loss, {}, distillation)
    with contextlib.suppress(_ReachedError):
        try:
            trainer.fit(classifier, data, ckpt_path=start, weights_only=True)
        finally:
            torch.set_num_threads(threads)
    return saving.first


def _plan(stretch: Stretch, config: RunConfig, settings: Settings) -> RunPlan:
    """Return the plan of a stretch: its config without what a replay leaves out, and with every `auto` resolved.

    Validations are left out too, unless the plateau schedule needs them: they do not change the weights.
    """
    trained = _config_of(stretch, config)
    sections = trained.tree.get("callbacks") or {}
    names = {f"opsin.training.callbacks.{name}" for name in REPLAYED}
    kept = {name: section for name, section in sections.items() if section and _target(section) in names}
    plan = make_plan(replace(trained, tree={**trained.tree, "callbacks": kept, "logger": {}}))
    options = replace(
        plan.trainer.on_one_device(),
        threads=settings.threads,
        precision=BY_LIGHTNING_NAME.get(settings.precision, "32"),
        max_time=None,
        limit_val_batches=plan.trainer.limit_val_batches if plan.schedule.call is plateau else 0,
        val_check_interval=plan.trainer.val_check_interval if plan.schedule.call is plateau else 1.0,
    )
    cache = FeatureCache("off") if settings.feature_cache.startswith("off") else plan.feature_cache
    return for_evaluation(replace(plan, trainer=options, feature_cache=cache))


def _config_of(stretch: Stretch, config: RunConfig) -> RunConfig:
    """Return the config with which a stretch was trained, with the present places of the images."""
    trained = config.with_text(stretch.record.config)
    places = {key: value for key in PLACES if (value := _value(config.tree, key)) is not None}
    return trained.changed(places)


def _target(section: Mapping[str, Any]) -> str:
    return str(section.get("_target_", ""))


def _value(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
