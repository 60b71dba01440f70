"""Warn about options that have no effect in a run, that have the same effect twice, or that experiments change."""

import logging
from collections.abc import Iterator, Sequence

from opsin.config.overrides import key_of
from opsin.config.resume_rules import set_by_schedule
from opsin.config.run_config import RunConfig
from opsin.config.target_lookup import LIBRARIES
from opsin.data import Augmentation, ImageDataModule
from opsin.models.fine_tuning import FreezeSchedule
from opsin.runs.quoting import override
from opsin.training.plan import RunPlan

log = logging.getLogger(__name__)

OF_A_RECIPE = ("model", "augmentation", "optimizer", "scheduler")
"""Sections whose values in an experiment belong together."""


def warn_kept_values(composed: RunConfig) -> None:
    """Log a warning for each typed option of a section in which an experiment sets further values.

    The values of an experiment are applied after the options of all sections: `experiment=mnist_fast
    augmentation=none` trains with the `augmentation.crop_padding` of the experiment.

    Args:
        composed: The config of the run.
    """
    for section in OF_A_RECIPE:
        if not (typed := composed.origin.typed_choice(section)):
            continue
        keys = sorted(composed.origin.set_by_experiment(section) & composed.tree[section].keys())
        places = {key: f"{section}.{key}" for key in keys if not composed.origin.typed(f"{section}.{key}")}
        if places:
            kept = ", ".join(override(place, composed.tree[section][key]) for key, place in places.items())
            log.warning(
                "%s does not replace %s, which experiment=%s sets: type %s=VALUE to change it",
                *(typed, kept, composed.origin.choices["experiment"], next(iter(places.values()))),
            )


def warn_unused(plan: RunPlan, data: ImageDataModule, schedule: FreezeSchedule, overrides: Sequence[str]) -> None:
    """Log a warning for each override that has no effect in a run, and for two options with the same effect.

    Defaults and config files get no warning, because they serve several networks and datasets.

    Args:
        plan: The checked config.
        data: The datamodule after `setup("fit")`.
        schedule: The stages that train, by epoch.
        overrides: The overrides of the command line.
    """
    reasons = dict((*_of_data(data), *_of_model(plan, schedule), *_of_optimizer(plan), *_of_views(plan, data)))
    typed = {key_of(text): text.lstrip("+") for text in overrides if not text.startswith("~")}
    for key, text in typed.items():
        if key in reasons:
            unused = f"the first value of {text}" if key == "optimizer.betas" else text
            log.warning("%s has no effect: %s", unused, reasons[key])
    if plan.data.sampler == "balanced" and plan.loss.arguments.get("class_weights") == "balanced":
        log.warning(
            "datamodule.sampler=balanced and loss.class_weights=balanced both compensate for rare classes, so the "
            "weight of these classes is too large: leave one of them out"
        )


def _of_data(data: ImageDataModule) -> Iterator[tuple[str, str]]:
    """Yield the keys of data and augmentation that have no effect, each with the reason."""
    name, given, folds = data.source.name, data.source.splits, data.split_options.num_folds
    if "test" in given:
        yield "datamodule.test_fraction", f"{name} has test images of its own"
    if folds is not None:
        yield "datamodule.val_fraction", f"val is a fold (datamodule.num_folds={folds})"
    elif "val" in given:
        yield "datamodule.val_fraction", f"{name} has val images of its own"
    if type(data.augmentation) is Augmentation:  # a subclass may use every option
        for option, operations in data.augmentation.unused().items():
            yield f"augmentation.{option}", f"it needs {' or '.join(operations)}"
        if data.source.channels == 1:
            for option in ("saturation", "grayscale"):
                yield f"augmentation.{option}", f"the images of {name} are gray"


def _of_model(plan: RunPlan, schedule: FreezeSchedule) -> Iterator[tuple[str, str]]:
    """Yield the keys of network and training that have no effect, each with the reason."""
    is_pretrained = plan.model.call.__module__.startswith("opsin.models.pretrained.")
    if is_pretrained and plan.model.arguments.get("head") != "dense":
        for option in ("head_units", "head_dropout"):
            yield f"model.{option}", "it needs model.head=dense"
    if is_pretrained and plan.model.arguments.get("auxiliary") is False:
        yield "model.auxiliary_weight", "model.auxiliary is false"
    target = f"{plan.schedule.call.__module__}.{plan.schedule.name}"
    set_at_steps = set_by_schedule({**plan.schedule.arguments, "_target_": target})
    sets_rates = f"the schedule {plan.schedule.name} sets all learning rates" if "lr" in set_at_steps else None
    if reason := sets_rates or (None if schedule.ever_trained else "only the head trains"):
        for option in ("backbone_lr_factor", "layer_decay"):
            yield f"model.{option}", reason
    if not plan.distillation.logits:
        yield "distillation.temperature", "distillation.logits is 0"
    for option, reason in set_at_steps.items():
        if option != "momentum" or not plan.optimizer.takes("betas"):  # of the two, schedules set the betas
            yield f"optimizer.{option}", reason


def _of_optimizer(plan: RunPlan) -> Iterator[tuple[str, str]]:
    """Yield the keys of weight decay that have no effect, each with the reason."""
    of_library = plan.optimizer.call.__module__.partition(".")[0] in LIBRARIES  # your own may build another optimizer
    if of_library and not plan.optimizer.takes("weight_decay"):
        yield "optimizer.weight_decay", f"{plan.optimizer.name} has no weight decay"
    if not plan.groups.weight_decay:
        yield "optimizer.decay_norm_and_bias", "optimizer.weight_decay is 0"


def _of_views(plan: RunPlan, data: ImageDataModule) -> Iterator[tuple[str, str]]:
    """Yield the number of cached views if no views of an image are cached, with the reason."""
    if plan.feature_cache.mode == "off":
        yield "feature_cache.views", "feature_cache=off"
    elif type(data.augmentation) is Augmentation and not data.augmentation.active:
        yield "feature_cache.views", "training images are not augmented"
