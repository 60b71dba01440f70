"""The Lightning Trainer from plain values, and the choices that depend on the hardware."""

from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import torch
from pydantic import Field

from opsin.training.distributed.environment import Environment
from opsin.training.distributed.fsdp import Sharded
from opsin.training.hardware import (
    Accelerator,
    Precision,
    check_devices,
    keep_freed_memory,
    look_for_no_gpu,
    resolve_accelerator,
    resolve_precision,
    use_threads,
)
from opsin.training.lightning_patches import AtomicCheckpointIO, NoProfiler, drop_empty_hooks

Strategy = Literal["auto", "ddp", "fsdp"]
Limit = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]
PositiveLimit = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]


LIGHTNING_PRECISION: dict[str, Any] = {
    "32": "32-true",
    "64": "64-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
    "bf16-true": "bf16-true",
}


def make_trainer(
    *,
    accelerator: Accelerator = "auto",
    devices: Literal["auto"] | Annotated[int, Field(ge=1)] | list[int] = 1,
    num_nodes: Annotated[int, Field(ge=1)] = 1,
    strategy: Strategy = "auto",
    sync_batchnorm: bool = False,
    precision: Precision = "auto",
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto",
    max_epochs: Annotated[int, Field(ge=1)] = 10,
    max_steps: Annotated[int, Field(ge=-1)] = -1,
    max_time: str | None = None,
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = None,
    accumulate_grad_batches: Annotated[int, Field(ge=1)] = 1,
    check_val_every_n_epoch: Annotated[int, Field(ge=1)] = 1,
    limit_train_batches: PositiveLimit = 1.0,
    limit_val_batches: Limit = 1.0,
    limit_test_batches: Limit = 1.0,
    log_every_n_steps: Annotated[int, Field(ge=1)] = 50,
    deterministic: Literal["off", "warn", "strict"] = "off",
    detect_anomaly: bool = False,
    profiler: Literal["simple", "advanced", "pytorch"] | None = None,
    callbacks: list[L.Callback],
    loggers: list[Any],
    folder: Path,
) -> L.Trainer:
    """Make the trainer.

    Args:
        accelerator: `auto` takes CUDA, then MPS, then the CPU.
        devices: how many on each machine, which, or `auto` for all (of CPUs there is one); each has its own process.
        num_nodes: machines; torchrun or srun has to start the processes of more than one.
        strategy: how several devices share the work: `ddp` has the network on each, `fsdp` a part of it; `auto`: ddp.
        sync_batchnorm: let BatchNorm see the batch of all devices together while it trains; on GPUs.
        precision: `auto` takes bfloat16 autocast where the hardware gains from it: CUDA from Ampere on, AMX on CPU.
        threads: of torch on the CPU, in each process; `auto` leaves it to torch. see `use_threads`.
        max_epochs: epochs, in all; a resumed run counts on.
        max_steps: optimizer steps, in all; -1 sets no limit.
        max_time: stop after this long, "DD:HH:MM:SS".
        gradient_clip_norm: largest norm of all gradients together.
        accumulate_grad_batches: batches per optimizer step.
        check_val_every_n_epoch: epochs between validations.
        limit_train_batches: batches per epoch, as a count or a share.
        limit_val_batches: the same for validation.
        limit_test_batches: the same for the test.
        log_every_n_steps: steps between the values that are logged by step, such as the learning rate.
        deterministic: refuse (`strict`) or report (`warn`) operations without a deterministic implementation.
        detect_anomaly: stop with a traceback at the first NaN in a backward pass; slow.
        profiler: one of Lightning's; its report goes to the run directory.
        callbacks: of the run.
        loggers: of the run.
        folder: the run directory.

    Raises:
        UserError: the accelerator is not there, or does not go with the other values.
    """
    use_threads(threads)
    accelerator = resolve_accelerator(accelerator)
    check_devices(accelerator, num_nodes, sync_batchnorm)
    if accelerator == "gpu":
        torch.set_float32_matmul_precision("high")  # TF32 where an operation stays in float32
    if accelerator == "cpu":
        keep_freed_memory()
        look_for_no_gpu()
    drop_empty_hooks(callbacks)
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=Sharded() if strategy == "fsdp" else strategy,
        sync_batchnorm=sync_batchnorm,
        precision=LIGHTNING_PRECISION[resolve_precision(precision, accelerator)],
        max_epochs=max_epochs,
        max_steps=max_steps,
        max_time=max_time,
        gradient_clip_val=gradient_clip_norm,
        accumulate_grad_batches=accumulate_grad_batches,
        check_val_every_n_epoch=check_val_every_n_epoch,
        limit_train_batches=limit_train_batches,
        limit_val_batches=limit_val_batches,
        limit_test_batches=limit_test_batches,
        log_every_n_steps=log_every_n_steps,
        deterministic={"off": False, "warn": "warn", "strict": True}[deterministic],  # type: ignore[arg-type]
        detect_anomaly=detect_anomaly,
        profiler=_profiler(profiler, folder) if profiler else NoProfiler(),
        plugins=[AtomicCheckpointIO(), Environment()],
        callbacks=callbacks,
        logger=loggers,
        default_root_dir=folder,
        num_sanity_val_steps=0,  # the first epoch ends in a validation, and the config was checked already
        enable_progress_bar=False,  # opsin.training.callbacks has one
        enable_model_summary=False,  # opsin.models has one
        use_distributed_sampler=False,  # the batches are divided among processes by opsin.data
    )


def _profiler(name: str, folder: Path) -> Any:
    from lightning.pytorch import profilers

    kinds = {
        "simple": profilers.SimpleProfiler,
        "advanced": profilers.AdvancedProfiler,
        "pytorch": profilers.PyTorchProfiler,
    }
    return kinds[name](dirpath=folder, filename="profile")
