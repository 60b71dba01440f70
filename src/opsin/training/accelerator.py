"""Accelerator and number of devices: `trainer.accelerator`, `trainer.devices` and `trainer.num_nodes`.

`auto` is CUDA if it is available, else MPS, else the CPU.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field

from opsin.errors import UserError
from opsin.runs.quoting import torchrun_command

Accelerator = Literal["auto", "cpu", "gpu", "mps"]
Devices = Literal["auto"] | Annotated[int, Field(ge=1)] | list[int]


def resolve_accelerator(accelerator: Accelerator) -> Literal["cpu", "gpu", "mps"]:
    """Return the accelerator that `auto` stands for on this machine.

    Raises:
        UserError: The machine lacks the given accelerator.
    """
    available = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return "gpu" if available["gpu"] else "mps" if available["mps"] else "cpu"
    if not available[accelerator]:
        usable = ", ".join(f"trainer={name}" for name, ok in available.items() if ok)
        raise UserError(
            f"trainer.accelerator={accelerator}: not available on this machine; available: {usable}, trainer=auto"
        )
    return accelerator


def usable_accelerator(accelerator: Accelerator) -> Literal["cpu", "gpu", "mps"]:
    """Return the accelerator for an evaluation: the given one, or the choice of `auto` if it is missing here."""
    available = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return resolve_accelerator(accelerator if available.get(accelerator, True) else "auto")


def num_devices(accelerator: Accelerator, devices: Devices, num_nodes: int) -> int:
    """Return the number of devices that share a batch, on all machines.

    Args:
        accelerator: The accelerator of the run.
        devices: Their number on each machine, or their indices; `auto` is all GPUs, or one device otherwise.
        num_nodes: Number of machines.

    Raises:
        UserError: The machine lacks the accelerator.
    """
    if devices == "auto":
        devices = torch.cuda.device_count() if resolve_accelerator(accelerator) == "gpu" else 1
    return (len(devices) if isinstance(devices, list) else devices) * num_nodes


def check_devices(accelerator: str, devices: Devices, num_nodes: int, sync_batchnorm: bool) -> None:
    """Refuse settings that do not fit the accelerator, and those that fail only after several processes have started.

    Raises:
        UserError: Names the key.
    """
    if accelerator == "cpu" and isinstance(devices, list):
        raise UserError(
            f"trainer.devices={devices}: indices choose GPUs; on a CPU, give a number of processes, such as 1"
        )
    if num_nodes > 1 and not _is_launched():
        options = (
            f"--nnodes={num_nodes} --nproc-per-node=DEVICES --rdzv-backend=c10d --rdzv-endpoint=FIRST_MACHINE:29500"
        )
        raise UserError(
            f"trainer.num_nodes={num_nodes}: the run was not started on {num_nodes} machines. Start it on each of "
            f"them with {torchrun_command(options)} ..., or on all of them with srun"
        )
    if sync_batchnorm and accelerator != "gpu":
        raise UserError(
            f"trainer.sync_batchnorm=true: torch supports this on CUDA devices only, not on {accelerator}; "
            "without it, each process normalizes its own share of the batch"
        )


def _is_launched() -> bool:
    from opsin.training.distributed.environment import launched  # loads Lightning, which predictions do not need

    return launched() is not None
