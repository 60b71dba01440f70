"""The keys of the `trainer` section, and their settings of this process. `lightning_trainer` makes the trainer."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from opsin.errors import UserError
from opsin.runs.duration import seconds_of
from opsin.training.accelerator import Accelerator, Devices, check_devices, resolve_accelerator
from opsin.training.hardware import keep_freed_memory, prevent_cuda_search
from opsin.training.precision import Precision
from opsin.training.threads import Threads, use_threads

Strategy = Literal["auto", "ddp", "fsdp"]
Limit = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]
PositiveLimit = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class TrainerOptions:
    """The keys of the `trainer` section.

    Attributes:
        accelerator: `auto` takes CUDA, then MPS, then the CPU.
        devices: Number of devices on each machine, or the indices of GPUs, or `auto` for all devices, where all CPUs
            count as one device. Each device has its own process.
        num_nodes: Number of machines. With more than one, torchrun or srun must start the processes.
        strategy: `ddp` keeps the whole network on each device, `fsdp` a part of it; `auto` is ddp.
        sync_batchnorm: Compute the statistics of BatchNorm over the batch of all devices while training; on GPUs, and
            not with fsdp.
        precision: `auto` takes bfloat16 autocast where the hardware gains from it: on CUDA from Ampere on, and on CPUs
            with instructions for bfloat16 by a measurement (`opsin.training.precision.resolve_precision`).
        threads: CPU threads of torch in each process; `auto` is OMP_NUM_THREADS if it is set, else one per
            physical core.
        channels_last: Store images and kernels as NHWC; `auto` does so except on MPS, where nothing is gained.
        gradient_checkpointing: Do not keep the activations of trainable stages; compute them a second time in the
            backward pass. It takes less memory and more time, and the gradients are the same. Not with `compile`.
        compile: Use torch.compile; the first steps then take a minute, and the keys of the state_dict stay the same.
        max_epochs: Total number of epochs, including those before a resume.
        max_steps: Total number of optimizer steps; -1 sets no limit.
        max_time: Stop after this time, "DD:HH:MM:SS"; it includes the time before a resume.
        gradient_clip_norm: Largest norm of all gradients together.
        accumulate_grad_batches: Batches per optimizer step.
        check_val_every_n_epoch: Epochs between validations; the step at which `max_steps` or `max_time` ends training
            is validated in any epoch.
        val_check_interval: Fraction of an epoch, or number of optimizer steps, between validations within an epoch; the
            end of an epoch is a validation too.
        limit_train_batches: Training batches per epoch, as a count or a fraction.
        limit_val_batches: Validation batches, as a count or a fraction; fewer than all are a stratified sample of the
            images, a function of the seed.
        limit_test_batches: Test batches, with the same sampling.
        log_every_n_steps: Steps between the values that are logged by step, such as the learning rate.
        deterministic: Refuse (`strict`) or report (`warn`) operations without a deterministic implementation.
        on_oom: Out of memory, `stop` with an error, or `halve` the batch, double the accumulation and continue from the
            last checkpoint.
        detect_anomaly: Stop with a traceback at the first NaN in a backward pass; slow.
        profiler: A profiler of Lightning; its report goes to the run directory.

    Raises:
        UserError: Two options exclude each other, or a value trains nothing.
    """

    accelerator: Accelerator = "auto"
    devices: Devices = 1
    num_nodes: Annotated[int, Field(ge=1)] = 1
    strategy: Strategy = "auto"
    sync_batchnorm: bool = False
    precision: Precision = "auto"
    threads: Threads = "auto"
    channels_last: Literal["auto"] | bool = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    max_epochs: Annotated[int, Field(ge=1)] = 30
    max_steps: Annotated[int, Field(ge=-1)] = -1
    max_time: str | None = None
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = None
    accumulate_grad_batches: Annotated[int, Field(ge=1)] = 1
    check_val_every_n_epoch: Annotated[int, Field(ge=1)] = 1
    val_check_interval: PositiveLimit = 1.0
    limit_train_batches: PositiveLimit = 1.0
    limit_val_batches: Limit = 1.0
    limit_test_batches: Limit = 1.0
    log_every_n_steps: Annotated[int, Field(ge=1)] = 50
    deterministic: Literal["off", "warn", "strict"] = "off"
    on_oom: Literal["stop", "halve"] = "stop"
    detect_anomaly: bool = False
    profiler: Literal["simple", "advanced", "pytorch"] | None = None

    def __post_init__(self) -> None:
        if self.gradient_checkpointing and self.compile:
            raise UserError(
                "trainer.gradient_checkpointing=true cannot be combined with trainer.compile=true: set one to false"
            )
        if self.devices == []:
            raise UserError("trainer.devices=[] chooses no device: list indices of GPUs, such as [0], or set it to 1")
        if self.validates_within_epochs and self.limit_val_batches == 0:
            raise UserError(
                f"trainer.val_check_interval={self.val_check_interval} has no effect, because "
                "trainer.limit_val_batches=0 turns validation off; leave one of them out"
            )
        if self.max_steps == 0:
            raise UserError("trainer.max_steps=0 trains nothing: set it to at least 1, or to -1 for no limit")
        if self.max_time is not None and seconds_of("trainer.max_time", self.max_time) == 0:
            raise UserError(f"trainer.max_time={self.max_time} trains nothing: raise it, or set it to null")

    @property
    def validates_within_epochs(self) -> bool:
        """Whether there are validations besides those at the end of epochs; `1` is a validation after every step."""
        return isinstance(self.val_check_interval, int) or self.val_check_interval < 1

    def on_one_device(self) -> "TrainerOptions":
        """Return the options for a computation on one device of one machine."""
        return replace(self, devices=1, num_nodes=1, strategy="auto", sync_batchnorm=False, profiler=None)


def check_hardware(options: TrainerOptions) -> Literal["cpu", "gpu", "mps"]:
    """Check that this machine can train with some options; return the accelerator.

    Raises:
        UserError: The accelerator is not available, or does not fit the other options.
    """
    accelerator = resolve_accelerator(options.accelerator)
    check_devices(accelerator, options.devices, options.num_nodes, options.sync_batchnorm)
    return accelerator


def apply_hardware_settings(options: TrainerOptions) -> Literal["cpu", "gpu", "mps"]:
    """Set threads, memory allocation and the precision of matrix products in this process; return the accelerator.

    Raises:
        UserError: The accelerator is not available, or does not fit the other options.
    """
    use_threads(options.threads)
    accelerator = check_hardware(options)
    if accelerator == "gpu":
        torch.set_float32_matmul_precision("high")  # TF32 where an operation stays in float32
    if accelerator == "cpu":
        keep_freed_memory()
        prevent_cuda_search()
    return accelerator
