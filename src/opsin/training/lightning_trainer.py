"""The Lightning Trainer from the keys of the `trainer` section."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch import profilers
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from opsin.training.distributed.environment import Environment
from opsin.training.distributed.fsdp import Sharded
from opsin.training.lightning_patches import (
    AtomicCheckpointIO,
    NoProfiler,
    count_epochs,
    drop_empty_hooks,
    no_trainer_variables,
    pass_step_arguments,
    stop_after_steps,
    validate_at_end,
)
from opsin.training.precision import LIGHTNING_PRECISION, resolve_precision
from opsin.training.quiet_logging import hide_notices
from opsin.training.trainer import TrainerOptions, apply_hardware_settings

DETERMINISTIC: dict[str, Any] = {"off": False, "warn": "warn", "strict": True}
"""Values of Lightning by those of `trainer.deterministic`."""

PROFILERS = {
    "simple": profilers.SimpleProfiler,
    "advanced": profilers.AdvancedProfiler,
    "pytorch": profilers.PyTorchProfiler,
}


def make_trainer(
    options: TrainerOptions, *, callbacks: list[L.Callback], loggers: list[Logger], folder: Path
) -> L.Trainer:
    """Make the trainer.

    Args:
        options: The keys of the `trainer` section.
        callbacks: The callbacks.
        loggers: The loggers.
        folder: The run directory.

    Raises:
        UserError: The accelerator is not available, or does not fit the other options.
    """
    hide_notices()  # here, because every command that could print them makes its trainer here
    accelerator = apply_hardware_settings(options)
    drop_empty_hooks(callbacks)
    with no_trainer_variables():
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=Sharded() if options.strategy == "fsdp" else options.strategy,
            sync_batchnorm=options.sync_batchnorm,
            precision=LIGHTNING_PRECISION[resolve_precision(options.precision, accelerator).precision],
            max_epochs=options.max_epochs,
            max_steps=options.max_steps,
            max_time=options.max_time,
            gradient_clip_val=options.gradient_clip_norm,
            accumulate_grad_batches=options.accumulate_grad_batches,
            check_val_every_n_epoch=options.check_val_every_n_epoch,
            limit_train_batches=options.limit_train_batches,
            limit_val_batches=options.limit_val_batches,
            limit_test_batches=options.limit_test_batches,
            log_every_n_steps=options.log_every_n_steps,
            deterministic=DETERMINISTIC[options.deterministic],
            benchmark=accelerator == "gpu" and options.deterministic == "off",  # the images of a run have one size
            detect_anomaly=options.detect_anomaly,
            profiler=_profiler(options.profiler, folder),
            plugins=[AtomicCheckpointIO(folder), Environment()],
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=folder,
            num_sanity_val_steps=0,  # the first epoch ends in a validation, and the config has been checked
            enable_progress_bar=False,  # opsin.training.callbacks has one
            enable_model_summary=False,  # opsin.models has one
            use_distributed_sampler=False,  # the batches are divided among processes by opsin.data
        )
    # Lightning takes the rank of its loggers from any launcher, and other ranks than 0 log nothing.
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]
    pass_step_arguments(trainer)
    count_epochs(trainer)
    stop_after_steps(trainer)
    validate_at_end(trainer)
    return trainer


def _profiler(name: str | None, folder: Path) -> Any:
    return PROFILERS[name](dirpath=folder, filename="profile") if name else NoProfiler()
