"""The Lightning Trainer from plain values, and the choices that depend on the hardware."""

import contextlib
import ctypes
import os
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler
from pydantic import Field
from torch import nn

from opsin.errors import UserError
from opsin.training.distributed.environment import Environment, launched
from opsin.training.distributed.fsdp import Sharded

Accelerator = Literal["auto", "cpu", "gpu", "mps"]
Strategy = Literal["auto", "ddp", "fsdp"]
Precision = Literal["auto", "32", "bf16", "16", "bf16-true", "64", 32, 16, 64]
Limit = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3): when freed memory goes back to the system, and whether large blocks come from there."""

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
    limit_train_batches: Limit = 1.0,
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


def use_threads(threads: Literal["auto"] | int, devices: Any = 1) -> None:
    """Let torch use so many threads on the CPU; sums are rounded otherwise with another number.

    Args:
        threads: of this process; `auto`: torch's choice, divided among the processes of a run on several devices.
        devices: of the run on this machine; only a number says how many processes there are.
    """
    if threads != "auto":
        torch.set_num_threads(threads)
    elif isinstance(devices, int) and devices > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices))


def resolve_accelerator(accelerator: Accelerator) -> Literal["cpu", "gpu", "mps"]:
    """What `auto` stands for on this machine.

    Raises:
        UserError: the one asked for is not there.
    """
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return "gpu" if there["gpu"] else "mps" if there["mps"] else "cpu"
    if not there[accelerator]:
        usable = ", ".join(f"trainer={name}" for name, ok in there.items() if ok)
        raise UserError(f"trainer.accelerator={accelerator}: this machine has none; here work: {usable}, trainer=auto")
    return accelerator


def check_devices(accelerator: str, num_nodes: int, sync_batchnorm: bool) -> None:
    """Refuse what would hang or fail only once several processes train.

    Raises:
        UserError: names the key.
    """
    if num_nodes > 1 and launched() is None:
        raise UserError(
            f"trainer.num_nodes={num_nodes}: nothing has started this run on {num_nodes} machines. Start it on each of "
            f"them by torchrun --nnodes={num_nodes} --nproc-per-node=DEVICES --rdzv-backend=c10d "
            "--rdzv-endpoint=FIRST_MACHINE:29500 train.py ..., or on all by srun"
        )
    if sync_batchnorm and accelerator != "gpu":
        raise UserError(
            f"trainer.sync_batchnorm=true: torch can do that on CUDA devices only, not on {accelerator}; without it "
            "each process normalises its own share of the batch"
        )


def resolve_precision(precision: Precision, accelerator: str) -> str:
    """What `auto` stands for: bfloat16 autocast where matrix units for it are, else float32."""
    if precision != "auto":
        return str(precision)
    if accelerator == "gpu":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "32"
    return "bf16" if accelerator == "cpu" and has_amx() else "32"


def has_amx() -> bool:
    """Whether this processor multiplies bfloat16 matrices in tiles (Intel AMX, Sapphire Rapids and later)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def keep_freed_memory() -> None:
    """Let glibc keep large blocks for the next step, where there is glibc.

    By default it gives every block above 32 MB back at once, and the kernel zeroes it again for the next activation
    map: more than half of the time of a large network on the CPU (measured with EfficientNet-Lite0 at 224 pixels).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(parameter, value)


def look_for_no_gpu() -> None:
    """Spare every optimizer step a search for CUDA where there is none.

    torch's optimizers ask each time whether a GPU is being captured; a build with CUDA then loads the driver's library
    anew, in vain, which takes as long as a step of Adam on a small network. With no device visible it does not look.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def drop_empty_hooks(callbacks: list[L.Callback]) -> None:
    """Spare every step the calls that do nothing: Lightning passes over a hook that cannot be called."""
    for callback in callbacks:
        for name in STEP_HOOKS:
            if getattr(type(callback), name) is getattr(L.Callback, name):
                setattr(callback, name, None)


class NoProfiler(PassThroughProfiler):
    """Measures nothing, and so quickly that sixty of its contexts in a step do not show."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """A context in which nothing is done."""
        return self._nothing


@dataclass(frozen=True)
class Layout:
    """How the network is laid out for the hardware: what `auto` became."""

    channels_last: bool
    compile: bool


def lay_out(
    network: nn.Module,
    accelerator: Accelerator,
    *,
    channels_last: Literal["auto"] | bool = "auto",
    compile: bool = False,  # noqa: A002 - the word people type
) -> Layout:
    """Set a network's memory format and compile it, in place.

    Args:
        network: any network.
        accelerator: where it will run.
        channels_last: store images and kernels as NHWC; `auto` does so but on MPS, where nothing is gained.
        compile: use torch.compile; the first steps then take a minute, and state_dict keys stay as they are.
    """
    if channels_last == "auto":
        channels_last = resolve_accelerator(accelerator) != "mps"
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compile:
        network.compile()
    return Layout(channels_last, compile)


def _profiler(name: str, folder: Path) -> Any:
    from lightning.pytorch import profilers

    kinds = {
        "simple": profilers.SimpleProfiler,
        "advanced": profilers.AdvancedProfiler,
        "pytorch": profilers.PyTorchProfiler,
    }
    return kinds[name](dirpath=folder, filename="profile")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it to the disk and renames it: a kill leaves the old one whole.

    Lightning's own writes in the folder for temporary files, which may be another disk, and does not flush.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint`; either the old file or the new one is at `path` at every moment."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
