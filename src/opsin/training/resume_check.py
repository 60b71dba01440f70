"""Check a resume before anything is written: find the newest good checkpoint, and apply `opsin.config.resume_rules`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from opsin.config.saved_config import start_command
from opsin.errors import UserError
from opsin.runs.atomic import link_atomically
from opsin.runs.checkpoint_files import fault_of
from opsin.runs.directory import RunDirectory
from opsin.runs.flat_keys import flat
from opsin.runs.metrics_csv import read_epochs
from opsin.training.permitted_targets import CALLBACKS
from opsin.training.plan import with_defaults


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint from which a run resumes.

    Attributes:
        file: The checkpoint.
        state: Its state.
        is_best: Whether it also replaces a missing or damaged `best.ckpt`; it holds the same weights.
    """

    file: Path
    state: SavedState
    is_best: bool

    def restore(self, run: RunDirectory) -> None:
        """Make the checkpoint the `last.ckpt` of the run, and its `best.ckpt` if that is needed."""
        for target in (run.last, *([run.best] if self.is_best else [])):
            if target.is_dir():  # no file can replace it
                target.rename(target.with_name(f"{target.name}.damaged"))
            if not (target.exists() and target.samefile(self.file)):
                link_atomically(self.file, target)


def read_state(checkpoint: Path) -> SavedState:
    """Read a checkpoint; its tensors stay on the disk.

    Raises:
        UserError: The checkpoint is damaged.
    """
    from opsin.training.callbacks.early_stopping import final_stop

    try:
        content = torch.load(checkpoint, weights_only=True, mmap=True, map_location="cpu")
        states = [(key.split("{")[0], state) for key, state in content["callbacks"].items()]
        best, timer = dict(states)["Checkpoints"], dict(states).get("Timer", {})
        stopping: Mapping[str, Any] = next(
            (state for name, state in states if name == "EarlyStopping" and "reason" in state), {}
        )
        ends = next(((name, reason) for name, state in states if (reason := final_stop(state))), None)
        return SavedState(
            int(content["global_step"]),
            best["step"],
            best["epochs"],
            best["epoch"],
            ends[1] if ends else stopping.get("reason"),
            int(stopping.get("wait_count", 0)),
            float(timer.get("time_elapsed", {}).get("train", 0.0)),
            ends[0] if ends else None,
        )
    except Exception as error:  # a damaged file raises anything
        is_internal = isinstance(error, KeyError | TypeError | AttributeError)  # a file of another kind
        reason = "it holds no state of a run" if is_internal else " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint} is damaged ({reason})") from None


def check_resume(composed: RunConfig) -> tuple[ResumePoint | None, list[str]]:
    """Check that a run can be resumed with a config, before anything is written.

    Returns:
        The checkpoint to resume from, None if the run has not written any; and lines that describe the resume.

    Raises:
        UserError: A changed value would have no effect or does not match the saved state, or no checkpoint is good.
    """
    run, tree = composed.run, with_defaults(composed.tree)
    changes = changed_values(composed, RunConfig.load(run))
    refused = {key: refusal(key, tree, changes) or average_refusal(key, changes[key]) for key in changes}
    _raise_refused(composed, {key: reason for key, reason in refused.items() if reason})
    point, lines = find_resume_point(run)
    if point is None:
        return None, lines
    check_steps(tree, point.state)
    remark = idle_remark(tree, point.state)
    _raise_refused(composed, refused_by_state(changes, tree, point.state), hint=remark)
    applied = ", ".join(f"{key}={new}" for key, (_, new) in changes.items())
    return point, [*lines, *(line for line in (applied and f"changed: {applied}", remark) if line)]


def average_refusal(key: str, change: tuple[Any, Any]) -> str | None:
    """Return the reason why no callback that averages weights can be added or removed; None for another change.

    The weights in the checkpoints of a run with such a callback are the average.
    """
    if not key.startswith("callbacks.") or not key.endswith("._target_"):
        return None
    averages = any(keeps_average(str(target)) for target in change if target)
    return "the saved weights are averages, or would become averages" if averages else None


def keeps_average(target: str) -> bool:
    """Return whether a callback replaces the weights in checkpoints by their average; False for an unknown class."""
    from lightning.pytorch.callbacks import WeightAveraging

    try:
        found = CALLBACKS.resolve(target)
    except UserError:  # a removed callback may no longer exist
        return False
    return isinstance(found, type) and issubclass(found, WeightAveraging)


def find_resume_point(run: RunDirectory) -> tuple[ResumePoint | None, list[str]]:
    """Return the newest good checkpoint, and lines about files that are damaged, missing or not of the best epoch.

    A checkpoint is good by the rules of `opsin.runs.checkpoint_files`. The points of `verify_checkpoints` are read only
    if no other checkpoint is good.

    Returns:
        None for the checkpoint if the run has not written any.

    Raises:
        UserError: The run has written checkpoints, and none is good.
    """
    files = [file for file in (run.last, run.step, run.best) if file.exists()]
    points = sorted(run.replay_points.glob("*.ckpt"), reverse=True)
    if not files and not points and not _has_saved(run):
        return None, ["no checkpoint was written before the run ended: training begins at the first step"]
    faults: dict[Path, str] = {file: "is missing" for file in (run.last, run.best) if file not in files}
    states = _intact(files, faults)
    best = states.get(run.best)
    newest_first = sorted(states, key=lambda file: states[file].step, reverse=True)  # stable: last comes before step
    for file in (*newest_first, *points):
        state = states.get(file) or _intact([file], faults).get(file)
        if state is None:
            continue
        is_best = state.best_step == state.step
        if state.best_step is None or is_best or (best and best.step == state.best_step):
            point = ResumePoint(file, state, is_best and best is None)
            return point, _fallback_lines(run, point, faults)
        faults.setdefault(run.best, f"is not of the best epoch, {state.best_epoch}")
    listed = "; ".join(f"{file.name} {fault}" for file, fault in faults.items())
    raise UserError(
        f"{run.path} has no good checkpoint to resume from: {listed}. Restore the file from a backup, or start the run "
        f"again with the same command: {start_command(run)}"
    )


def _intact(files: Sequence[Path], faults: dict[Path, str]) -> dict[Path, SavedState]:
    """Return the states of the intact checkpoints among some files, and add the faults of the others to `faults`."""
    found = {}
    for file in files:
        if fault := fault_of(file):
            faults[file] = fault
            continue
        try:
            found[file] = read_state(file)
        except UserError as error:  # a complete archive of something else
            faults[file] = str(error).removeprefix(f"{file} ")
    return found


def _has_saved(run: RunDirectory) -> bool:
    """Return whether a run that has no checkpoints now once had some.

    A row is written just before its checkpoint, so two rows prove one.
    """
    return run.read_result().status == "finished" or len(read_epochs(run.metrics)) > 1


def _fallback_lines(run: RunDirectory, point: ResumePoint, faults: Mapping[Path, str]) -> list[str]:
    lines = []
    for file, fault in faults.items():
        if file == run.best and point.is_best:
            lines.append(f"{file} {fault}: replaced by {point.file}, which has the weights of the best epoch")
        elif not (file == run.best and point.state.best_step is None):  # there is none before the first validation
            lines.append(
                f"{file} {fault}: resuming from {point.file}, after step {point.state.step} (epoch "
                f"{point.state.epochs:g})"
            )
    return lines


def _raise_refused(composed: RunConfig, refused: Mapping[str, str], hint: str = "") -> None:
    if not refused:
        return
    new = flat(composed.tree)
    lines = "\n".join(
        f"  - {key}={new.get(key, 'null')} cannot be changed on resume: {why}" for key, why in refused.items()
    )
    way_out = hint or "leave them out, or start a new run"
    raise UserError(f"{composed.run.path} is not resumed and stays as it is:\n{lines}\n{way_out}")
