"""Rules of a resume: the values that can change, and those that are refused by name.

Some rules need only the two configs (`refuse_other_parts`, `refusal`). Others depend on the state of the last
checkpoint (`check_steps`, `refused_by_state`). `opsin.training.resume_check` reads the checkpoint and applies them; it
has the rule about callbacks that average the weights, which are known by their class.

The config of the resumed run (`tree`) has all keys of its trainer, schedule and callbacks, also those at their defaults
(`opsin.training.plan.with_defaults`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from opsin.config.overrides import key_of
from opsin.config.run_config import RunConfig
from opsin.errors import UserError
from opsin.runs import neutral_keys
from opsin.runs.duration import seconds_of
from opsin.runs.flat_keys import flat
from opsin.runs.quoting import printed_override

FIXED = ("model.", "distillation.", "datamodule.image_size", "datamodule.mean", "datamodule.std", "datamodule.resize")
"""Keys that determine the meaning of the weights of a run; a resume cannot change them."""

APPLIED = {
    "": neutral_keys.TOP_LEVEL,
    "datamodule": neutral_keys.DATAMODULE,
    "optimizer": ("lr", "weight_decay", "betas", "eps", "momentum", "nesterov", "dampening"),
    "trainer": (
        *neutral_keys.TRAINER,
        *("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "precision", "deterministic"),
        *("channels_last", "gradient_checkpointing", "compile", "gradient_clip_norm", "on_oom"),
        *("max_epochs", "max_steps", "max_time", "check_val_every_n_epoch", "limit_test_batches"),
    ),
}
"""Keys, by section, that a resumed run applies. They include the neutral keys (`opsin.runs.neutral_keys`):

- top level: `data_dir`, `output_dir`, `resume`, `report`, `test`, `tags`, `verify_checkpoints`;
- `datamodule`: `data_dir`, `path`, `download`, `eval_batch_size`, `on_device`;
- `trainer`: `threads`, `log_every_n_steps`, `profiler`, `detect_anomaly`.

`scheduler`, `callbacks` and the other sections of `WHOLE_SECTIONS` have rules in `refusal`. So has
`eval_batch_size`, which is fixed if `trainer.limit_val_batches` limits the validation images."""

WHOLE_SECTIONS = ("augmentation", "feature_cache", "logger", "callbacks", "scheduler")
"""Sections whose values a resumed run takes from the config, with the exceptions that `refusal` names."""

REASONS = {
    "model": "the weights of the run belong to this network",
    "loss": "losses before and after the change could not be compared to find the best epoch",
    "distillation": "losses before and after the change could not be compared to find the best epoch",
    "monitor": "the best epoch so far was selected by another metric",
    "seed": "it determines the splits, so training images could get into the test set",
    "datamodule": "it determines the images, the splits or the batches, which define the saved position in the epoch",
    "trainer": "it determines the number of steps or the validation images, so the best epoch could not be compared",
    "optimizer": "the saved state of the optimizer does not fit it",
    "datamodule.eval_batch_size": "with trainer.limit_val_batches it determines the validation images, so the best "
    "epoch could not be compared",
    "trainer.val_check_interval": "it determines the validations that early stopping counts and checkpoints follow",
}


@dataclass(frozen=True)
class SavedState:
    """The state of the training in the last checkpoint.

    Attributes:
        step: Number of optimizer steps.
        best_step: Number of optimizer steps at the best validation so far; None before the first one.
        epochs: Number of trained epochs; not a whole number within an epoch.
        best_epoch: Number of epochs at the best validation so far; None before the first one.
        stopped: The reason of early stopping; None if it did not end the training.
        waited: Validations without improvement.
        seconds: Seconds of training that count for `trainer.max_time`, over all processes of the run.
        stopped_by: Name of the callback class of Lightning that ended the training; None if none did.
    """

    step: int
    best_step: int | None
    epochs: float
    best_epoch: float | None
    stopped: str | None
    waited: int
    seconds: float = 0.0
    stopped_by: str | None = None


def refuse_other_parts(saved: RunConfig, overrides: Sequence[str]) -> None:
    """Refuse overrides that a saved run cannot have: another network, other images, or other options of a group.

    Raises:
        UserError: An override is one of them.
    """
    for override in overrides:
        key = key_of(override)
        if key.startswith(FIXED):
            weights = printed_override("model.weights", saved.run.path)
            raise UserError(
                f"{override} cannot be changed: the weights of {saved.run.path} belong to the network and "
                f"the images that the run was started with. To build on them, start a new run with {weights}."
            )
        if key in saved.origin.choices or override.startswith("~"):
            raise UserError(
                f"{override} cannot be changed: {saved.run.path} keeps the options that it was started with, "
                "and only values such as trainer.max_epochs=20 can change. Start a new run instead."
            )


def changed_values(composed: RunConfig, saved: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of every changed key, by dotted key, without those of unchanged references."""
    old, new = flat(saved.tree), flat(composed.tree)
    written, text = flat(yaml.safe_load(saved.text)), flat(yaml.safe_load(composed.text))
    follows = {key for key, value in text.items() if str(value).startswith("${") and written.get(key) == value}
    keys = [key for key in dict.fromkeys([*new, *old]) if old.get(key) != new.get(key) and key not in follows]
    return {key: (old.get(key), new.get(key)) for key in keys}


def refusal(key: str, tree: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]]) -> str | None:
    """Return the reason to refuse a changed key on resume; None if the run applies it.

    Args:
        key: The dotted key.
        tree: The config of the resumed run.
        changes: All changed keys with their old and new values.
    """
    section, _, name = key.partition(".") if "." in key else ("", "", key)
    if section == "scheduler":
        return _schedule_refusal(name, tree)
    if section == "callbacks":
        return _callback_refusal(key, tree, changes)
    if name == "_target_":
        return "the saved state belongs to another class"
    if section in WHOLE_SECTIONS:
        return None
    is_fixed = key == "datamodule.eval_batch_size" and _samples_validation(tree)
    if is_fixed or name.split(".")[0] not in APPLIED.get(section, ()):
        return REASONS.get(key) or REASONS.get(section, "a resumed run does not apply it")
    return _optimizer_refusal(name, tree, changes.get(key, (None, None))) if section == "optimizer" else None


def set_by_schedule(scheduler: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of the optimizer whose values a schedule replaces, each with the reason.

    Args:
        scheduler: The section `scheduler`: `_target_` and the options.
    """
    kind = str(scheduler.get("_target_", "")).rpartition(".")[2]
    has_rates = kind in ("CyclicLR", "OneCycleLR")
    cycles = kind == "onecycle" or (has_rates and scheduler.get("cycle_momentum", True))
    names = (*(["lr"] if has_rates else []), *(["momentum", "betas"] if cycles else []))
    return dict.fromkeys(names, f"the schedule {kind} sets it at every step")


def refused_by_state(
    changes: Mapping[str, tuple[Any, Any]], tree: Mapping[str, Any], state: SavedState
) -> dict[str, str]:
    """Return, by key, the reason why a change has no effect: no further epoch is trained.

    Args:
        changes: All changed keys with their old and new values.
        tree: The config of the resumed run.
        state: The state of the last checkpoint.
    """
    if not nothing_to_train(tree, state):
        return {}
    return {key: "no further epoch is trained" for key, (_, new) in changes.items() if _needs_training(key, new)}


def changes_without_training(key: str, new: Any, tree: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Return whether a resume that trains no further epoch applies a new value, such as `test=true` after a sweep.

    Args:
        key: The dotted key.
        new: Its new value.
        tree: The config with the new value.
        changes: All changed keys with their old and new values.
    """
    return refusal(key, tree, changes) is None and not _needs_training(key, new)


def check_steps(tree: Mapping[str, Any], state: SavedState) -> None:
    """Check that a limit of steps is not below the number of completed steps.

    Raises:
        UserError: It is below.
    """
    steps = _limits(tree)[1]
    if 0 <= steps < state.step:
        raise UserError(f"trainer.max_steps={steps} cannot be changed on resume: {state.step} steps are completed")


def nothing_to_train(tree: Mapping[str, Any], state: SavedState) -> bool:
    """Return whether a resume takes no further step."""
    return idle_remark(tree, state) != ""


def idle_remark(tree: Mapping[str, Any], state: SavedState) -> str:
    """Return one line with the reason if the resume trains no further epoch, else an empty text."""
    epochs, steps = _limits(tree)
    if way_out := _way_to_continue(tree, state):
        stopped = f"no further epoch is trained, because the run stopped early: {state.stopped}"
        return f"{stopped}; to continue training, set {way_out}"
    if state.epochs >= epochs:
        return (
            f"no further epoch is trained, because {state.epochs} of trainer.max_epochs={epochs} epochs are completed; "
            f"to continue training, set trainer.max_epochs={int(state.epochs) + 1} or more"
        )
    if 0 <= steps <= state.step:
        return (
            f"no further epoch is trained, because {state.step} of trainer.max_steps={steps} steps are completed; "
            f"to continue training, set trainer.max_steps={state.step + 1} or more, or -1 for no limit"
        )
    key, limit = _time_limit(tree)
    if isinstance(limit, str) and state.seconds >= seconds_of(key, limit):
        return (
            f"no further epoch is trained, because {key}={limit} is used up: the run has trained for "
            f"{state.seconds:.1f} seconds; to continue training, set a longer time, or {key}=null"
        )
    return ""


def _time_limit(tree: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the key that limits the training time, and the limit; a `Timer` callback of Lightning has one too."""
    for name, section in _callback_sections(tree, ".Timer").items():
        return f"callbacks.{name}.duration", section.get("duration")
    return "trainer.max_time", tree.get("trainer", {}).get("max_time")


def _limits(tree: Mapping[str, Any]) -> tuple[int, int]:
    """Return the limits of epochs and of steps; the latter is -1 without a limit."""
    return int(tree["trainer"]["max_epochs"]), int(tree["trainer"]["max_steps"])


def _samples_validation(tree: Mapping[str, Any]) -> bool:
    """Return whether validations read a sample of the images, whose size depends on the size of a batch."""
    limit = tree["trainer"]["limit_val_batches"]
    return limit >= 1 if isinstance(limit, int) else 0 < limit < 1


def _schedule_refusal(name: str, tree: Mapping[str, Any]) -> str | None:
    target = str((tree.get("scheduler") or {}).get("_target_", ""))
    if name == "_target_" or not target.startswith("opsin."):
        return "the saved state belongs to another schedule"
    if name in ("monitor", "mode"):
        return REASONS["monitor"]
    if name == "warmup_epochs" and target.endswith(".plateau"):
        return "the warm-up of this schedule cannot be recomputed"
    return None


def _callback_refusal(key: str, tree: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]]) -> str | None:
    old, new = changes.get(".".join([*key.split(".")[:2], "_target_"]), (None, None))
    if old or new:  # the callback is added, removed or exchanged
        stateful = any(str(target).endswith(".Checkpoints") for target in (old, new))
        return "the saved state belongs to another class" if (old and new) or stateful else None
    name = key.split(".")[1]
    target = str(_callback_sections(tree, ".EarlyStopping").get(name, {}).get("_target_", "opsin."))
    if key.endswith(".patience") and not target.startswith("opsin."):
        return "Lightning's callback restores the saved patience"
    return REASONS["monitor"] if key.endswith((".monitor", ".mode")) else None


def _optimizer_refusal(name: str, tree: Mapping[str, Any], change: tuple[Any, Any]) -> str | None:
    old, new = change
    if name == "weight_decay" and bool(old) != bool(new):
        return "a change from or to 0 needs other parameter groups than the saved ones"
    return set_by_schedule(tree.get("scheduler") or {}).get(name)


def _way_to_continue(tree: Mapping[str, Any], state: SavedState) -> str:
    """Return the override that lets a run train again after early stopping; empty text if none is needed."""
    if not state.stopped:
        return ""
    if state.stopped_by:  # Lightning restores the patience too
        return " ".join(f"callbacks.{name}=null" for name in _callback_sections(tree, f".{state.stopped_by}"))
    for name, section in _callback_sections(tree, ".EarlyStopping").items():
        if state.waited >= int(section["patience"]):
            return f"callbacks.{name}.patience={state.waited + 1} or more, or callbacks.{name}=null"
    return ""


def _callback_sections(tree: Mapping[str, Any], ending: str) -> dict[str, Mapping[str, Any]]:
    """Return the sections of the callbacks whose `_target_` has an ending, by their names."""
    callbacks = tree.get("callbacks") or {}
    return {
        name: section
        for name, section in callbacks.items()
        if section and str(section.get("_target_", "")).endswith(ending)
    }


def _needs_training(key: str, new: Any) -> bool:
    """Return whether a changed value has an effect only while epochs are trained; a removed callback has none."""
    options = key.endswith((".patience", ".min_delta", "_threshold", ".decay")) and new is not None
    return options or key.startswith(("optimizer.", "scheduler.", "augmentation.", "trainer.gradient_clip_norm"))
