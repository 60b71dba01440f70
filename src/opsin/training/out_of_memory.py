"""Out-of-memory errors in training: one clear message, or a smaller batch.

`trainer.on_oom` chooses: `stop` is the default, `halve` continues with smaller batches.

These errors count (`opsin.errors.is_out_of_memory`): `MemoryError`, any exception of the name `OutOfMemoryError` (such
as `torch.OutOfMemoryError`), and a `RuntimeError` whose text has "out of memory", "can't allocate memory",
"CUBLAS_STATUS_ALLOC_FAILED" or "CUDNN_STATUS_ALLOC_FAILED". They are handled while a run trains and validates, not
while it tests.

With `halve`, `memory_errors` saves the new config and raises `RestartTraining`. The loop that catches it and trains
again in the same process, from the last checkpoint, is at the end of `opsin.commands.train_cli`.
"""

import contextlib
import gc
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch

from opsin.config import RunConfig
from opsin.data import ImageDataModule
from opsin.errors import RestartTraining, UserError, is_out_of_memory
from opsin.runs.quoting import opsin_command, override
from opsin.runs.result import RunResult
from opsin.training.lightning_patches import drop_empty_hooks
from opsin.training.plan import RunPlan
from opsin.training.trainer import TrainerOptions

log = logging.getLogger(__name__)

VAL_LIMIT = "trainer.limit_val_batches"


class FailedStep(L.Callback):
    """Record the step and the stage in which training failed.

    Attributes:
        step: Number of completed optimizer steps.
        in_validation: Whether a validation failed.
    """

    step = 0
    in_validation = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Record the step and the stage, because Lightning resets them."""
        self.step, self.in_validation = trainer.global_step, trainer.validating


@contextlib.contextmanager
def memory_errors(
    composed: RunConfig, plan: RunPlan, data: ImageDataModule, trainer: L.Trainer, result: RunResult
) -> Iterator[None]:
    """Handle an out-of-memory error raised in the block according to `trainer.on_oom`; other errors are not changed.

    With `halve` the batch size is halved and the accumulation doubled; an odd batch size is divided by its smallest
    divisor above 1. In a validation, `datamodule.eval_batch_size` becomes smaller. The new config is saved and
    recorded.

    Args:
        composed: The config of the run.
        plan: The plan of the run.
        data: The datamodule.
        trainer: The trainer that runs in the block.
        result: The result of the run.

    Raises:
        RestartTraining: Memory ran out with `halve`: training must begin again from the last checkpoint, with the new
            config.
        UserError: Memory ran out with `stop`, or with `halve` and a batch that cannot be divided; or, before the
            block, `halve` is set for several processes.
    """
    failed = FailedStep()
    drop_empty_hooks([failed])
    trainer.callbacks.append(failed)  # type: ignore[attr-defined]
    if plan.trainer.on_oom == "halve" and trainer.world_size > 1:
        raise UserError("trainer.on_oom=halve works on one device only; set trainer.on_oom=stop")
    try:
        yield
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        values = smaller_batches(plan, data, failed.in_validation) if plan.trainer.on_oom == "halve" else {}
        if not values:
            raise UserError(_stopped(composed, plan, data, failed, trainer.world_size, error)) from None
        reason = _reason(error)
    smaller = composed.changed(values)
    smaller.save()
    result.out_of_memory = (*result.out_of_memory, {"step": failed.step, **values})
    changes = ", ".join(f"{key}={value}" for key, value in values.items())
    log.warning(
        "out of memory after step %d (%s): continuing from the last checkpoint with %s", failed.step, reason, changes
    )
    raise RestartTraining(smaller)


def smaller_batches(plan: RunPlan, data: ImageDataModule, in_validation: bool) -> dict[str, Any]:
    """Return the values of a config with smaller batches and the same effective batch; empty if none is possible.

    The limits of batches are converted, so that they limit the same images.

    Args:
        plan: The plan of the run.
        data: The datamodule after `setup("fit")`.
        in_validation: Whether the validation batches are too large, not the training batches.
    """
    options, limits = plan.trainer, _evaluation_limits(plan.trainer)
    if in_validation:
        return _smaller_evaluation(data, limits)
    size = int(data.batch_size)
    factor = next((factor for factor in range(2, size) if size % factor == 0), None)
    if factor is None:  # only batches of one image would be left, which BatchNorm cannot normalize
        return {}
    values: dict[str, Any] = {
        "datamodule.batch_size": size // factor,
        "trainer.accumulate_grad_batches": options.accumulate_grad_batches * factor,
    }
    if _limits(limit := options.limit_train_batches):
        key = "trainer.limit_train_batches"
        count = limit if isinstance(limit, int) else data.train_dataloader().limit(limit, key)
        values[key] = count * factor
    if limits and data.eval_batch_size == size:  # its default follows the batch size
        values["datamodule.eval_batch_size"] = size
    return values


def _smaller_evaluation(data: ImageDataModule, limits: Mapping[str, int | float]) -> dict[str, Any]:
    """Return the values of a config with smaller validation batches; limited evaluations keep their images."""
    key, size, images = "datamodule.eval_batch_size", int(data.eval_batch_size), len(data.subset("val"))
    if not limits:
        size = min(size, images)
        return {key: size // 2} if size > 1 else {}
    factor = next((factor for factor in range(2, size + 1) if size % factor == 0 and size // factor < images), None)
    if factor is None:
        return {}
    values: dict[str, Any] = {key: size // factor}
    for name, limit in limits.items():
        if isinstance(limit, int):
            values[name] = limit * factor
        elif name == VAL_LIMIT:  # of test, which is measured once, the same fraction is read
            values[name] = data.val_dataloader().limit(limit, name) * factor
    return values


def _evaluation_limits(options: TrainerOptions) -> dict[str, int | float]:
    """Return the limits of validation and test batches that are set, by config key."""
    limits = {VAL_LIMIT: options.limit_val_batches, "trainer.limit_test_batches": options.limit_test_batches}
    return {key: limit for key, limit in limits.items() if _limits(limit)}


def _limits(limit: int | float) -> bool:
    """Return whether a limit of batches is a number or a fraction below 1."""
    return isinstance(limit, int) or limit < 1


def free_memory() -> None:
    """Release the memory of a failed training, which the next one needs."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _stopped(
    composed: RunConfig,
    plan: RunPlan,
    data: ImageDataModule,
    failed: FailedStep,
    processes: int,
    error: BaseException,
) -> str:
    ways = ["trainer.gradient_checkpointing=true"] if not plan.trainer.gradient_checkpointing else []
    if failed.in_validation:
        half = max(int(data.eval_batch_size) // 2 // processes, 1) * processes  # the processes share it equally
        ways = [f"datamodule.eval_batch_size={half}"]
    elif plan.trainer.on_oom == "stop":
        ways.insert(0, "trainer.on_oom=halve")
    resume = opsin_command("train", override("resume", composed.run.path), *ways[:1])
    event = f"out of memory after step {failed.step} with datamodule.batch_size={data.batch_size}"
    if failed.in_validation:
        event = f"out of memory in the validation after step {failed.step}"
    more = f", or with {ways[1]}" if ways[1:] else ""
    return (
        f"{event} ({_reason(error)}). Resume with: {resume}{more}; a new "
        "run can have smaller images (datamodule.image_size) or batches (datamodule.batch_size)"
    )
