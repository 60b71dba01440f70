"""Check a resume before anything is written: the changed values and the last checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opsin.config import RunConfig
from opsin.config.resume_rules import changed_values, flat, refusal
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory


@dataclass(frozen=True)
class SavedState:
    """The state of the training in the last checkpoint.

    Attributes:
        step: Number of optimizer steps.
        epochs: Number of trained epochs; a fraction within an epoch.
        best_epoch: Number of epochs at the best validation so far; None if there is none.
        stopped: The reason of early stopping; None if it did not end the training.
        waited: Validations without improvement.
    """

    step: int
    epochs: float
    best_epoch: float | None
    stopped: str | None
    waited: int


def read_state(checkpoint: Path) -> SavedState:
    """Read a checkpoint; its tensors stay on the disk.

    Raises:
        UserError: The checkpoint is damaged.
    """
    try:
        content = torch.load(checkpoint, weights_only=True, mmap=True, map_location="cpu")
        states = {key.split("{")[0]: state for key, state in content["callbacks"].items()}
        best, stopping = states.get("Checkpoints", {}), states.get("EarlyStopping", {})
        return SavedState(
            int(content["global_step"]),
            best.get("epochs", content["epoch"]),
            best.get("epoch"),
            stopping.get("reason"),
            int(stopping.get("wait_count", 0)),
        )
    except Exception as error:  # a damaged file raises anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint} is damaged ({reason}): restore it from a backup, or start a new run") from None


def check_resume(composed: RunConfig) -> tuple[SavedState | None, list[str]]:
    """Check that a run can be resumed with a config, before anything is written.

    Returns:
        The state of the last checkpoint, None if the run has none; and lines that describe the resume.

    Raises:
        UserError: A changed value would have no effect or does not match the saved state, or a checkpoint is missing.
    """
    run = composed.run
    changes = changed_values(composed, RunConfig.load(run))
    _raise_refused(composed, {key: reason for key in changes if (reason := refusal(key, composed.tree, changes))})
    state = _state(run)
    if state is None:
        return None, []
    lines = _plan(composed.tree, state)
    steps = int(composed.tree.get("trainer", {}).get("max_steps", -1))
    if 0 <= steps < state.step:
        raise UserError(f"trainer.max_steps={steps} cannot be changed on resume: {state.step} steps are completed")
    if nothing_to_train(composed.tree, state):
        idle = {key: "no further epoch is trained" for key, (_, new) in changes.items() if _needs_training(key, new)}
        _raise_refused(composed, idle, hint=lines[0])
    applied = ", ".join(f"{key}={new}" for key, (_, new) in changes.items())
    return state, [*([f"changed: {applied}"] if applied else []), *lines]


def nothing_to_train(tree: Mapping[str, Any], state: SavedState) -> bool:
    """Return whether a resume trains no further epoch."""
    return state.epochs >= int(tree.get("trainer", {}).get("max_epochs", 0)) or _stays_stopped(tree, state)


def _state(run: RunDirectory) -> SavedState | None:
    """Return the state of the last checkpoint; None if no epoch is completed.

    Raises:
        UserError: One of the two checkpoints is missing.
    """
    if not run.last.exists():
        if run.best.exists():
            raise UserError(
                f"{run.last} is missing, so the run cannot be resumed where it ended: restore it, or copy {run.best} "
                "there to train again from the best epoch on"
            )
        return None
    state = read_state(run.last)
    if state.best_epoch is not None and not run.best.exists():
        same = f", or copy {run.last} there (it is from the same epoch)" if state.best_epoch == state.epochs else ""
        raise UserError(
            f"{run.best} is missing (the checkpoint of the best epoch): restore it{same}, or start a new run"
        )
    return state


def _plan(tree: Mapping[str, Any], state: SavedState) -> list[str]:
    """Return one line with the reason if the resume trains no further epoch, else an empty list."""
    epochs = int(tree.get("trainer", {}).get("max_epochs", 0))
    if _stays_stopped(tree, state):
        return [
            f"no further epoch is trained, because the run stopped early: {state.stopped}; to continue training, set "
            f"callbacks.early_stopping.patience={state.waited + 1} or more, or callbacks.early_stopping=null"
        ]
    if state.epochs >= epochs:
        return [
            f"no further epoch is trained, because {state.epochs} of trainer.max_epochs={epochs} epochs are completed; "
            f"to continue training, set trainer.max_epochs={int(state.epochs) + 1} or more"
        ]
    return []


def _stays_stopped(tree: Mapping[str, Any], state: SavedState) -> bool:
    stopping = [
        section
        for section in (tree.get("callbacks") or {}).values()
        if section and str(section.get("_target_", "")).endswith(".EarlyStopping")
    ]
    return bool(state.stopped and stopping) and state.waited >= int(stopping[0].get("patience", 10))


def _needs_training(key: str, new: Any) -> bool:
    """Return whether a changed value has an effect only while epochs are trained; a removed callback has none."""
    options = key.endswith((".patience", ".min_delta", ".decay")) and new is not None
    return options or key.startswith(("optimizer.", "scheduler.", "augmentation.", "trainer.gradient_clip_norm"))


def _raise_refused(composed: RunConfig, refused: Mapping[str, str], hint: str = "") -> None:
    if not refused:
        return
    new = flat(composed.tree)
    lines = "\n".join(
        f"  - {key}={new.get(key, 'null')} cannot be changed on resume: {why}" for key, why in refused.items()
    )
    way_out = hint or "leave them out, or start a new run"
    raise UserError(f"{composed.run.path} is not resumed and stays as it is:\n{lines}\n{way_out}")
