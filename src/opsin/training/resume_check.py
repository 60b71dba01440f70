"""Check a resume before anything is written: read the last checkpoint, and apply `opsin.config.resume_rules`."""

from collections.abc import Mapping
from pathlib import Path

import torch

from opsin.config import RunConfig
from opsin.config.resume_rules import (
    SavedState,
    changed_values,
    check_steps,
    idle_remark,
    refusal,
    refused_by_state,
)
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.flat_keys import flat
from opsin.runs.regular_file import check_regular


def read_state(checkpoint: Path) -> SavedState:
    """Read a checkpoint; its tensors stay on the disk.

    Raises:
        UserError: The checkpoint is damaged.
    """
    try:
        check_regular(checkpoint)
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
        is_internal = isinstance(error, KeyError | TypeError | AttributeError)  # a file of another kind
        reason = "it holds no state of a run" if is_internal else " ".join(str(error).split())[:200]
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
    check_steps(composed.tree, state)
    remark = idle_remark(composed.tree, state)
    _raise_refused(composed, refused_by_state(changes, composed.tree, state), hint=remark)
    applied = ", ".join(f"{key}={new}" for key, (_, new) in changes.items())
    return state, [line for line in (applied and f"changed: {applied}", remark) if line]


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


def _raise_refused(composed: RunConfig, refused: Mapping[str, str], hint: str = "") -> None:
    if not refused:
        return
    new = flat(composed.tree)
    lines = "\n".join(
        f"  - {key}={new.get(key, 'null')} cannot be changed on resume: {why}" for key, why in refused.items()
    )
    way_out = hint or "leave them out, or start a new run"
    raise UserError(f"{composed.run.path} is not resumed and stays as it is:\n{lines}\n{way_out}")
