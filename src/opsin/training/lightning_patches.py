"""Private names and undocumented behavior of Lightning that Opsin uses, written for Lightning 2.6.

`tests/training/test_lightning_patches.py` fails and names the part that a new version of Lightning
has changed.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loops.fit_loop import _FitLoop as FitLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher as ScriptLauncher
from torch.optim import Optimizer

from opsin.errors import UserError
from opsin.runs.atomic import atomic_open
from opsin.runs.hidden_variables import hidden_variables
from opsin.training.checkpoint_values import check_values

__all__ = [
    "STEP_HOOKS",
    "AppendingWriter",
    "AtomicCheckpointIO",
    "NoProfiler",
    "ScriptLauncher",
    "count_epochs",
    "drop_empty_hooks",
    "log_epoch",
    "no_trainer_variables",
    "pass_step_arguments",
    "set_launcher",
    "stop_after_steps",
    "torch_optimizer",
    "unscale_before_step",
    "validate_at_end",
    "validate_within_epoch",
    "validates_epoch",
]

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def no_trainer_variables() -> AbstractContextManager[None]:
    """Hide the variables `PL_TRAINER_*` within a block, which set arguments of Lightning's Trainer that are not given.

    `PL_TRAINER_FAST_DEV_RUN=1`, left over from another program, would end each run after one batch, and no file of the
    run would say so.
    """
    return hidden_variables("PL_TRAINER_")


def drop_empty_hooks(owners: Iterable[L.Callback | L.LightningModule]) -> None:
    """Remove the step hooks that callbacks and modules do not override: Lightning skips a hook that is not callable."""
    for owner in owners:
        base = L.Callback if isinstance(owner, L.Callback) else L.LightningModule
        for name in STEP_HOOKS:
            if getattr(type(owner), name) is getattr(base, name):
                setattr(owner, name, None)


def pass_step_arguments(trainer: L.Trainer) -> None:
    """Pass batch and batch index to every training step; Lightning would inspect the signature before each one."""

    def arguments(kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
        kwargs["batch"], kwargs["batch_idx"] = batch, batch_idx
        return kwargs

    trainer.fit_loop.epoch_loop._build_kwargs = arguments  # type: ignore[method-assign]


class NoProfiler(PassThroughProfiler):
    """A profiler that does nothing: Lightning opens sixty of its contexts per step, and its own default takes time."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Return a context that does nothing."""
        return self._nothing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: after a kill, either the old or the new file is complete.

    Lightning's own class writes into the folder for temporary files, which may be on another disk, and does not flush.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint of the run; a damaged or foreign checkpoint can name any file as its predecessor.

        Raises:
            UserError: The path lies outside the run directory.
        """
        if not Path(path).resolve().is_relative_to(self._folder.resolve()):
            raise UserError(f"{path} is not deleted, because it is no checkpoint of the run {self._folder}")
        super().remove_checkpoint(path)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            UserError: It holds a value that could not be loaded.
        """
        check_values(checkpoint)
        with atomic_open(Path(path)) as file:
            torch.save(checkpoint, file)


class AppendingWriter(ExperimentWriter):
    """A writer of Lightning's CSV logger that adds rows to a file; its own class deletes the file.

    Args:
        folder: Folder of the file.
        columns: Columns of the file.
    """

    def __init__(self, folder: str, columns: Iterable[str]) -> None:
        super().__init__(folder)
        self.metrics_keys = sorted(columns)

    def _check_log_dir_exists(self) -> None:
        """Leave the file as it is."""


def set_launcher(strategy: Strategy, launcher: ScriptLauncher) -> None:
    """Replace the launcher of a strategy, which Lightning makes itself."""
    strategy._launcher = launcher


def validate_within_epoch(trainer: L.Trainer, batches: Collection[int]) -> None:
    """Make a trainer validate after some batches of an epoch, counted from 1, besides the end of the epoch.

    Lightning's `val_check_interval` takes multiples of one number, which may leave out the end of the epoch.
    """
    loop = trainer.fit_loop.epoch_loop
    validates_now = loop._should_check_val_fx

    def should_validate(data_fetcher: Any) -> bool:
        within = validates_epoch(trainer) and loop.batch_progress.current.ready in batches
        return within or validates_now(data_fetcher)

    loop._should_check_val_fx = should_validate  # type: ignore[method-assign]


def validate_at_end(trainer: L.Trainer) -> None:
    """Make a trainer validate at the step at which `max_steps` or `max_time` ends training.

    Lightning validates at the end of an epoch only, and not in an epoch that `check_val_every_n_epoch` leaves out. A
    resume from the checkpoint of such a validation does not repeat it: checkpoints within an epoch are written at the
    end of a step, or after a validation.
    """
    loop = trainer.fit_loop.epoch_loop
    validates_now = loop._should_check_val_fx

    def should_validate(data_fetcher: Any) -> bool:
        validated = loop.restarting and loop.restarted_on_last  # the trainer then skips the validation
        stops = trainer.should_stop and trainer.fit_loop._can_stop_early
        ends = validated or stops or trainer.global_step == trainer.max_steps
        return (ends and trainer.enable_validation) or validates_now(data_fetcher)

    loop._should_check_val_fx = should_validate  # type: ignore[method-assign]


def validates_epoch(trainer: L.Trainer) -> bool:
    """Return whether `check_val_every_n_epoch` selects the current epoch for validation."""
    return trainer.fit_loop.epoch_loop._should_check_val_epoch()


class _SteppingLoop(FitLoop):
    """A loop over epochs that does not stop while gradients accumulate."""

    @property
    def _can_stop_early(self) -> bool:
        return super()._can_stop_early and not self.epoch_loop._should_accumulate()


def stop_after_steps(trainer: L.Trainer) -> None:
    """Make a trainer with `should_stop`, which `max_time` and callbacks set, stop after a complete optimizer step.

    Lightning stops after any batch. The gradients of the batches since the last step are not in a checkpoint, so the
    first step of a resumed run would lack them.
    """
    trainer.fit_loop.__class__ = _SteppingLoop


def count_epochs(trainer: L.Trainer) -> None:
    """Make a trainer with `max_steps` resume like any other trainer.

    With `max_steps`, Lightning repeats the end of the last epoch of a checkpoint, counts this epoch twice, and so stops
    one epoch before `max_epochs`.
    """

    def by_steps() -> bool:
        return False

    trainer.fit_loop._iteration_based_training = by_steps  # type: ignore[method-assign]


def log_epoch(trainer: L.Trainer) -> None:
    """Write the metrics of the epoch to the loggers at once.

    Lightning does so at the very end of the epoch, after the checkpoints. A process that is killed in between would
    leave a gap in the curves, because a resumed run does not repeat the epoch.
    """
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped -= 1  # as Lightning does: the step of the last batch
    trainer._logger_connector.update_train_epoch_metrics()
    loop._batches_that_stepped += 1


def torch_optimizer(optimizer: Optimizer | LightningOptimizer) -> Optimizer:
    """Return the torch optimizer inside Lightning's wrapper."""
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def unscale_before_step(optimizer: Optimizer) -> None:
    """Make Lightning unscale the gradients of `trainer.precision=16` before the step of a fused optimizer.

    Lightning refuses to clip gradients that the fused kernel unscales itself, even if the precision scales none.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
