"""Build the objects of a run from its plan: the one place where data and networks meet."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from opsin.config.target_lookup import Target
from opsin.data import ImageDataModule
from opsin.data.augmentation.image_transform import ImageTransform, as_augmentation
from opsin.data.fit import Interpolation
from opsin.data.normalization import ExpectedInput, choose_image_size
from opsin.data.source import Source
from opsin.errors import UserError
from opsin.models import LoadedWeights, Network, Weights, weights_facts
from opsin.models.fine_tuning import FreezeSchedule
from opsin.models.freezing import fixed_message
from opsin.models.plain_network import first_channels
from opsin.models.weights import KINDS, recorded_format
from opsin.models.whitening import whiten_stem
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path
from opsin.runs.quoting import opsin_command
from opsin.runs.result import DataFacts, ImageFormat
from opsin.training.callbacks.busy_machine import BusyMachine
from opsin.training.callbacks.finite_loss import FiniteLoss
from opsin.training.callbacks.freeze_phases import FreezingCallback
from opsin.training.callbacks.replay_points import ReplayPoints
from opsin.training.distillation import Distillation
from opsin.training.lightning_patches import drop_empty_hooks, unscale_before_step
from opsin.training.lightning_trainer import make_trainer
from opsin.training.loss import ClassificationLoss
from opsin.training.module import Classifier
from opsin.training.network_building import computed_arguments, for_evaluation, new_network, recorded_data
from opsin.training.optim.parameter_groups import parameter_groups
from opsin.training.plan import RunPlan
from opsin.training.validation_schedule import ValidationSchedule

SAMPLED_PIXELS = 2**19
"""Number of pixels whose patches whiten the stem of a network."""


SCHEDULE_RESULT = 'a schedule of torch, or the list [{"scheduler": SCHEDULE, "interval": "step"}]'
"""The result of a function of the user that makes a schedule, for a message."""

PLATEAU_RESULT = 'its metric too: [{"scheduler": SCHEDULE, "monitor": "val/loss"}]'
"""The result of such a function for a schedule that depends on a metric, for a message."""


def data(plan: RunPlan, image_format: ImageFormat | None = None) -> ImageDataModule:
    """Build the datamodule, with the input that the network and its weights expect.

    Args:
        plan: The checked config.
        image_format: The images that a trained network expects; it takes precedence over the config.
    """
    source = plan.dataset.build(data_dir=plan.data.data_dir)
    if not isinstance(source, Source):
        raise _wrong_result("datamodule", plan.dataset, source, "an opsin.data.source.Source")
    options, expected = plan.data, ExpectedInput()
    if image_format:
        recorded = asdict(image_format)
        channels = recorded.pop("channels")
        options = replace(options, **recorded)
    else:
        expected = expected_input(plan)
        channels = _input_channels(plan, source, choose_image_size(options, expected, source))
    data = ImageDataModule(
        source,
        options,
        expected_input=expected,
        augmentation=as_augmentation(plan.augmentation.build(num_classes=len(source.classes))),
        seed=plan.run.seed,
        channels=channels,
    )
    if isinstance(data.augmentation, ImageTransform):
        data.augmentation.check(data.channels, data.image_size)
    return data


def _input_channels(plan: RunPlan, source: Source, size: tuple[int, int]) -> int | None:
    """Return the input channels of a network that does not take any number; None for those of the dataset.

    Gray images are repeated for RGB networks. The first layer of a user's network determines its number of channels.
    """
    ours = plan.model.call.__module__.startswith("opsin.")
    if plan.model.takes("in_channels"):
        rgb = ours and inspect.signature(plan.model.call).parameters["in_channels"].default == 3
        return 3 if rgb and source.channels == 1 else None
    if ours:
        return 3
    with torch.random.fork_rng(devices=[]):
        built = plan.model.build(**computed_arguments(len(source.classes), 3, size))
    found = first_channels(built, size) or 3
    if found < source.channels:
        raise UserError(
            f"{plan.model.name} takes images of {found} channels, but those of {source.name} have {source.channels}: "
            "give its constructor the parameter in_channels, which Opsin sets"
        )
    return found


def expected_input(plan: RunPlan) -> ExpectedInput:
    """Return the input with which a model's pretrained weights were trained, from a run, a file or their library."""
    weights = plan.fine_tuning.weights
    if weights == "none":
        return ExpectedInput()
    if recorded := _recorded_format(weights):
        interpolation = cast("Interpolation", recorded.interpolation)
        return ExpectedInput(recorded.image_size, recorded.mean, recorded.std, interpolation)
    facts: Weights | None = weights_facts(plan.model.call, weights, plan.model.arguments)
    return ExpectedInput(facts.size, facts.mean, facts.std, facts.interpolation) if facts else ExpectedInput()


def _recorded_format(weights: str) -> ImageFormat | None:
    """Return the images that the weights of a run or of a file were trained on; None if they are not recorded."""
    if weights in KINDS:  # the name of weights, even if such a folder exists
        return None
    path = user_path(weights)
    run = RunDirectory(path)
    if run.config.exists():
        return recorded_data(run)
    return recorded_format(path) if path.is_file() else None


def check_same_data(data: ImageDataModule, recorded: DataFacts) -> None:
    """Check that the images are still those with which a run began.

    Raises:
        UserError: Images, their order or splits have changed, so results would not be comparable.
    """
    if data.facts()["fingerprint"] != recorded.fingerprint:
        raise UserError(
            f"The images of {data.source.name} are not those of the run: after its start, files were added, removed or "
            "changed, or new names changed their order, so training images could now be in the test set. Restore the "
            f"images, or start a new run. {opsin_command('predict')} classifies any images."
        )


def loss(plan: RunPlan, data: ImageDataModule) -> ClassificationLoss:
    """Build the loss; its `num_logits` is the number of outputs that the network needs."""
    return plan.loss.build(class_counts=data.facts()["class_counts"]["train"])


def network(
    plan: RunPlan, data: ImageDataModule, num_logits: int, pretrained: bool = True, any_classes: bool = False
) -> tuple[Network, LoadedWeights | None]:
    """Build the network for these data, load its pretrained weights, whiten its stem and freeze its frozen stages.

    Args:
        plan: The checked config.
        data: The images, for their channels and their size.
        num_logits: Outputs of the head.
        pretrained: Whether to set the weights that the config names or whitens; otherwise all are random.
        any_classes: Whether to load the head of weights of other classes too, as earlier versions did.
    """
    built = new_network(plan, num_logits, data.channels, data.image_size)
    if plan.fine_tuning.whitened_stem and pretrained:
        whiten_stem(built, _sample(data))
    return built, plan.fine_tuning.apply(built, pretrained, None if any_classes else data.source.classes)


def _sample(data: ImageDataModule) -> torch.Tensor:
    """Return about half a million pixels of evenly spaced training images, normalized `(N, C, H, W)`."""
    subset, (height, width) = data.subset("train"), data.image_size
    count = max(1, min(len(subset), SAMPLED_PIXELS // (height * width)))
    pixels = subset.read(np.linspace(0, len(subset) - 1, count).astype(np.int64))
    return data.preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def freeze_schedule(plan: RunPlan, network: Network) -> FreezeSchedule:
    """Return which stages of a network train in which epoch of the run."""
    return plan.fine_tuning.freeze_schedule(network, plan.trainer.max_epochs)


def classifier(
    plan: RunPlan,
    data: ImageDataModule,
    network: Network,
    loss: ClassificationLoss,
    record: Mapping[str, Any],
    distillation: Distillation | None = None,
) -> Classifier:
    """Build the LightningModule around a network."""
    stages = freeze_schedule(plan, network).ever_trained
    fixed = f". {fixed_message(network)}" if network.fixed else ""

    def optimizer(network: nn.Module) -> Optimizer:
        groups = parameter_groups(network, plan.groups, plan.fine_tuning, stages)
        if not groups:
            raise UserError(f"model.trainable selects no parameter to train: set model.trainable=head or more{fixed}")
        if distillation is not None:
            projector = {"params": list(distillation.parameters()), "lr": plan.groups.lr, "weight_decay": 0.0}
            groups.append({"name": "distillation", **projector})
        # Every group has a rate and a decay of its own; the optimizer's are those of the config.
        computed = {"params": groups, "lr": plan.groups.lr, "weight_decay": plan.groups.weight_decay}
        if not plan.optimizer.arguments.get("foreach") and "fused" not in plan.optimizer.arguments:
            computed["fused"] = True
        built = plan.optimizer.build(**computed)
        if not isinstance(built, Optimizer):
            raise _wrong_result("optimizer", plan.optimizer, built, "a torch.optim.Optimizer")
        if plan.trainer.gradient_clip_norm is not None:
            unscale_before_step(built)
        return built

    def schedule(optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> list[dict[str, Any]]:
        built = plan.schedule.build(optimizer=optimizer, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        if isinstance(built, LRScheduler):  # torch's schedules count epochs unless they know the number of steps
            built = [{"scheduler": built, "interval": "step" if plan.schedule.takes("total_steps") else "epoch"}]
        if not isinstance(built, list) or not all(isinstance(part, dict) and "scheduler" in part for part in built):
            raise _wrong_result("scheduler", plan.schedule, built, SCHEDULE_RESULT)
        plateaus = (part for part in built if isinstance(part["scheduler"], ReduceLROnPlateau))
        if unmonitored := [part["scheduler"] for part in plateaus if "monitor" not in part]:
            raise _wrong_result("scheduler", plan.schedule, unmonitored[0], PLATEAU_RESULT)
        return built

    built = Classifier(
        network,
        loss,
        num_images=data.facts()["counts"],
        optimizer=optimizer,
        schedule=schedule,
        record={**record, "batch_size": data.batch_size},
        distillation=distillation,
    )
    drop_empty_hooks([built])
    return built


def _wrong_result(section: str, target: Target[Any], result: Any, wanted: str) -> UserError:
    """Return the error for a function of the user that returns an object of the wrong kind."""
    kind = "nothing" if result is None else f"an object of type {type(result).__name__}"
    return UserError(f"{section}._target_: {target.name} returns {kind}. Let it return {wanted}")


def trainer(
    plan: RunPlan, run: RunDirectory, resume_step: int | None = None, unfreezing: FreezingCallback | None = None
) -> L.Trainer:
    """Build the trainer of a run, with its callbacks and loggers.

    Raises:
        UserError: Two callbacks would have the same place in a checkpoint.
    """
    built = {key: callback.build(run=run) for key, callback in plan.callbacks.items()}
    _refuse_equal_callbacks(built)
    callbacks = [*built.values()]
    if unfreezing:
        callbacks.insert(0, unfreezing)  # before those that read learning rates
    if not plan.loggers:  # it needs a logger
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    callbacks += [FiniteLoss(run), BusyMachine()]
    if plan.trainer.validates_within_epochs:
        callbacks.append(ValidationSchedule(plan.trainer.val_check_interval))
    if plan.run.verify_checkpoints:
        callbacks.append(ReplayPoints(run, plan.run.verify_checkpoints))
    loggers = [
        logger.build(run=run, save_dir=str(run.path), resume_step=resume_step) for logger in plan.loggers.values()
    ]
    return make_trainer(plan.trainer, callbacks=callbacks, loggers=loggers, folder=run.path)


def _refuse_equal_callbacks(callbacks: Mapping[str, L.Callback]) -> None:
    """Refuse callbacks, by their names in the config, whose saved states Lightning cannot tell apart."""
    names: dict[str, str] = {}
    for name, callback in callbacks.items():
        if type(callback).state_dict is L.Callback.state_dict:  # it saves no state
            continue
        other = names.setdefault(callback.state_key, name)
        if other != name:
            raise UserError(
                f"callbacks.{other} and callbacks.{name} have the same place in a checkpoint, {callback.state_key}: "
                f"leave one of them out, for example with callbacks.{other}=null"
            )


def evaluator(plan: RunPlan, run: RunDirectory) -> L.Trainer:
    """Build a trainer for evaluation: one device, no callbacks, no loggers; everything else as in the run."""
    return make_trainer(for_evaluation(plan).trainer, callbacks=[], loggers=[], folder=run.path)
