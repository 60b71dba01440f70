"""The checked plan of a run: every key of the config as a typed field, before anything is loaded."""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from opsin.config import RunConfig
from opsin.config.secrets import refuse_misplaced_secrets
from opsin.config.signatures import defaults
from opsin.config.target_lookup import LIBRARIES, Target
from opsin.config.validation import ROOT, SectionSchema, check
from opsin.data.options import DataOptions
from opsin.data.source import Source
from opsin.errors import UserError
from opsin.models.fine_tuning import FineTuning
from opsin.runs.quoting import opsin_command
from opsin.training.distillation import DistillationWeights
from opsin.training.feature_cache import FeatureCache
from opsin.training.file_arguments import inside_run
from opsin.training.loss import ClassificationLoss
from opsin.training.monitored_metrics import resolve_directions
from opsin.training.optim.parameter_groups import GroupOptions
from opsin.training.permitted_targets import (
    AUGMENTATIONS,
    CALLBACKS,
    DATASETS,
    LOGGERS,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULES,
)
from opsin.training.trainer import TrainerOptions

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.loggers import Logger

Tag = Annotated[str, Field(min_length=1)] | int | float
"""A tag; a number is its text."""


@dataclass(frozen=True)
class RunOptions:
    """The keys that are in no section.

    Attributes:
        data_dir: Downloads and decoded images.
        output_dir: The folder of the run directories.
        seed: Seed of the splits, the weights, the order of the batches and the augmentation.
        resume: Always null in a composed config: the run directory determines which run is resumed.
        test: Evaluate the best checkpoint on the test images, once, at the end.
        report: Write `report.html` at the end.
        tags: Tags that are assigned to the run, for comparisons and loggers.
        verify_checkpoints: Number of stretches of training that `opsin verify` can repeat; 0 keeps no checkpoints.
    """

    data_dir: str
    output_dir: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    resume: str | None = None
    test: bool = True
    report: bool = True
    tags: list[Tag] = field(default_factory=list)
    verify_checkpoints: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class MonitorOptions:
    """The metric that selects the best epoch; never one of the test set.

    Attributes:
        metric: Name of the metric, such as `val/acc`; its direction is in `opsin.runs.metric_registry`.
    """

    metric: str


@dataclass(frozen=True)
class NetworkPlan:
    """The part of a checked config that a trained network needs: a prediction needs neither callbacks nor data.

    Attributes:
        model: The `model` section: the network and its own keys.
        fine_tuning: The `model` section: weights, trainable stages, teacher.
        loss: The `loss` section.
        trainer: The `trainer` section.
    """

    model: Target[nn.Module]
    fine_tuning: FineTuning
    loss: Target[ClassificationLoss]
    trainer: TrainerOptions


@dataclass(frozen=True)
class RunPlan(NetworkPlan):
    """The checked config of a run: options with their defaults, and targets to build.

    Attributes:
        run: The keys in no section.
        dataset: The `datamodule` section: the dataset and its own keys.
        data: The `datamodule` section: the keys of every dataset.
        augmentation: The `augmentation` section.
        distillation: The `distillation` section.
        feature_cache: The `feature_cache` section.
        optimizer: The `optimizer` section: the optimizer and its own keys.
        groups: The `optimizer` section: learning rate and weight decay.
        schedule: The `scheduler` section.
        callbacks: The `callbacks` section, by name.
        loggers: The `logger` section, by name.
        monitor: The `monitor` section.
    """

    run: RunOptions
    dataset: Target[Source]
    data: DataOptions
    augmentation: Target[nn.Module]
    distillation: DistillationWeights
    feature_cache: FeatureCache
    optimizer: Target[Optimizer]
    groups: GroupOptions
    schedule: Target[LRScheduler | list[dict[str, Any]]]
    callbacks: "Mapping[str, Target[L.Callback]]"
    loggers: "Mapping[str, Target[Logger]]"
    monitor: MonitorOptions


SCHEMA = {
    ROOT: SectionSchema({"run": RunOptions}),
    "datamodule": SectionSchema(
        {"data": DataOptions}, target="dataset", constructors=DATASETS, computed=frozenset({"data_dir"})
    ),
    "model": SectionSchema(
        {"fine_tuning": FineTuning},
        target="model",
        constructors=NETWORKS,
        computed=frozenset({"num_logits", "num_classes", "in_channels", "image_size"}),
    ),
    "augmentation": SectionSchema(
        target="augmentation", constructors=AUGMENTATIONS, computed=frozenset({"num_classes"})
    ),
    "loss": SectionSchema(target="loss", call=ClassificationLoss, computed=frozenset({"class_counts"})),
    "distillation": SectionSchema({"distillation": DistillationWeights}),
    "feature_cache": SectionSchema({"feature_cache": FeatureCache}),
    "optimizer": SectionSchema(
        {"groups": GroupOptions},
        target="optimizer",
        constructors=OPTIMIZERS,
        computed=frozenset({"params", "lr", "weight_decay"}),
    ),
    "scheduler": SectionSchema(
        target="schedule",
        constructors=SCHEDULES,
        computed=frozenset({"optimizer", "total_steps", "steps_per_epoch"}),
    ),
    "trainer": SectionSchema({"trainer": TrainerOptions}),
    "callbacks": SectionSchema(target="callbacks", constructors=CALLBACKS, computed=frozenset({"run"}), many=True),
    "logger": SectionSchema(
        target="loggers",
        constructors=LOGGERS,
        computed=frozenset({"run", "save_dir", "resume_step"}),
        many=True,
    ),
    "monitor": SectionSchema({"monitor": MonitorOptions}),
}
"""The keys that each section of a run's config accepts, and the fields of `RunPlan` for their values."""

UNUSABLE_CALLBACKS = {
    "BackboneFinetuning": "it needs a module with a backbone. Set model.phases or model.unfreeze_every",
    "BatchSizeFinder": "the results and checkpoints would state another batch size. Set datamodule.batch_size=auto",
    "GradientAccumulationScheduler": "the schedule of the learning rate would count other steps than are taken. Set "
    "trainer.accumulate_grad_batches",
    "LearningRateFinder": "it needs a module with a learning rate. Use {find_lr}",
    "ModelPruning": "it changes the weights after their validation, so the best checkpoint would not have its recorded "
    "metrics. Leave it out",
    "RichProgressBar": "Opsin has a progress bar of its own: callbacks.progress. Leave it out",
    "StochasticWeightAveraging": "no checkpoint would have the averaged weights, and the test would ignore them. Use "
    "callbacks=ema",
    "TQDMProgressBar": "Opsin has a progress bar of its own: callbacks.progress. Leave it out",
}
"""Callbacks of Lightning that cannot train a network of Opsin, each with the reason and the way out.

`{find_lr}` stands for the command that finds a learning rate.
"""

NETWORK_SECTIONS = ("model", "loss", "trainer")
"""The sections that `NetworkPlan` is made of."""


def make_network_plan(config: RunConfig) -> NetworkPlan:
    """Check the sections of a config that a trained network needs, without loading Lightning.

    Raises:
        UserError: Names every key that is wrong.
    """
    refuse_misplaced_secrets(config.tree)
    tree = {name: config.tree.get(name) for name in NETWORK_SECTIONS}
    return NetworkPlan(**check(tree, {name: SCHEMA[name] for name in NETWORK_SECTIONS}, config.origin))


def make_plan(config: RunConfig) -> RunPlan:
    """Check a composed config as a whole, before anything is loaded.

    Raises:
        UserError: Names every key that is wrong.
    """
    from opsin.training.callbacks.checkpoints import Checkpoints  # loads Lightning, which a network plan does not need

    refuse_misplaced_secrets(config.tree)
    plan = RunPlan(**check(resolve_directions(config.tree, config.origin), SCHEMA, config.origin))
    plan = replace(
        plan,
        callbacks=inside_run("callbacks", plan.callbacks, config.run),
        loggers=inside_run("logger", plan.loggers, config.run),
    )
    if not any(callback.call is Checkpoints for callback in plan.callbacks.values()):
        raise UserError(
            "callbacks must include opsin.training.callbacks.Checkpoints: the test uses the best checkpoint"
        )
    plan.fine_tuning.check_length(plan.trainer.max_epochs, f"trainer.max_epochs={plan.trainer.max_epochs}")
    return plan


def with_defaults(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with all keys of its trainer, schedule and callbacks; a key that is not set has its default.

    A callback or schedule that cannot be found, such as one of another project, has only the keys that are set.

    Args:
        tree: Plain, resolved values, which need not be checked.
    """
    callbacks = {
        name: _filled(section, SCHEMA["callbacks"]) if section else section
        for name, section in (tree.get("callbacks") or {}).items()
    }
    filled = {name: _filled(tree.get(name) or {}, SCHEMA[name]) for name in ("trainer", "scheduler")}
    return {**tree, **filled, "callbacks": callbacks}


def _filled(section: Mapping[str, Any], schema: SectionSchema) -> dict[str, Any]:
    calls: list[Callable[..., Any]] = [*schema.options.values()]
    if schema.constructors:
        with contextlib.suppress(UserError):
            calls.append(schema.constructors.resolve(section.get("_target_")))
    found: dict[str, Any] = {}
    for call in calls:
        found |= defaults(call)
    return {**found, **section}


def time_limits(plan: RunPlan) -> dict[str, Any]:
    """Return the limits of the training time by their keys: `trainer.max_time`, and Lightning's `Timer` callbacks."""
    from lightning.pytorch.callbacks import Timer  # loads Lightning, which a network plan does not need

    limits = {
        f"callbacks.{name}.duration": callback.arguments.get("duration")
        for name, callback in plan.callbacks.items()
        if inspect.isclass(callback.call) and issubclass(callback.call, Timer)
    }
    return limits if plan.trainer.max_time is None else {**limits, "trainer.max_time": plan.trainer.max_time}


def check_trainable(plan: RunPlan) -> None:
    """Check the options that stop only a training: runs of an earlier version can have them.

    Raises:
        UserError: An option excludes another one, or every optimizer step; or a callback of Lightning cannot be used.
    """
    for key, callback in plan.callbacks.items():
        if name := _unusable_callback(callback):
            reason = UNUSABLE_CALLBACKS[name].format(find_lr=opsin_command("find-lr"))
            raise UserError(f"callbacks.{key}: {name} of Lightning cannot be used: {reason}")
    if len(limits := time_limits(plan)) > 1:
        raise UserError(f"{' and '.join(limits)}: only one limit of the training time has an effect; keep one of them")
    if plan.trainer.strategy == "fsdp" and plan.trainer.sync_batchnorm:
        raise UserError(
            "trainer.strategy=fsdp cannot be combined with trainer.sync_batchnorm=true: set it to false, or use "
            "trainer.strategy=ddp"
        )
    of_library = plan.optimizer.call.__module__.partition(".")[0] in LIBRARIES
    if of_library and plan.optimizer.arguments.get("differentiable"):
        raise UserError(
            "optimizer.differentiable=true cannot train a network: torch refuses to change its weights. Leave it out"
        )


def _unusable_callback(callback: "Target[L.Callback]") -> str | None:
    """Return the name of the class in `UNUSABLE_CALLBACKS` that a callback is made of, or None."""
    bases = inspect.getmro(callback.call) if inspect.isclass(callback.call) else ()
    of_lightning = (base.__name__ for base in bases if base.__module__.startswith("lightning.pytorch.callbacks."))
    return next((name for name in of_lightning if name in UNUSABLE_CALLBACKS), None)
