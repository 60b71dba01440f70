"""Choices that depend on the hardware: accelerator, precision, threads, memory format."""

import ctypes
import os
import platform
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from opsin.errors import UserError
from opsin.runs.quoting import torchrun_command

Accelerator = Literal["auto", "cpu", "gpu", "mps"]


Precision = Literal["auto", "32", "bf16", "16", "bf16-true", "64", 32, 16, 64]
LIGHTNING_PRECISION: dict[str, Any] = {
    "32": "32-true",
    "64": "64-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
    "bf16-true": "bf16-true",
}
"""Lightning's name of each precision."""

Threads = Literal["auto"] | Annotated[int, Field(ge=1)]


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3): they control when freed memory is returned to the system, and whether large blocks are
requested directly from the system."""


def use_threads(threads: Literal["auto"] | int, devices: Any = 1) -> None:
    """Set the number of CPU threads of torch in this process; the number affects how sums are rounded.

    Args:
        threads: the number; `auto` is torch's choice, divided among the processes of a run on several devices.
        devices: the devices of the run on this machine; only a number gives the number of processes.
    """
    if threads != "auto":
        torch.set_num_threads(threads)
    elif isinstance(devices, int) and devices > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices))


def resolve_accelerator(accelerator: Accelerator) -> Literal["cpu", "gpu", "mps"]:
    """Return the accelerator that `auto` stands for on this machine.

    Raises:
        UserError: the machine lacks the given accelerator.
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


def num_devices(accelerator: Accelerator, devices: Literal["auto"] | int | list[int], num_nodes: int) -> int:
    """Return the number of devices that share a batch, on all machines.

    Args:
        accelerator: the accelerator of the run.
        devices: their number on each machine, or their indices; `auto` is all GPUs, or one device otherwise.
        num_nodes: number of machines.

    Raises:
        UserError: the machine lacks the accelerator.
    """
    if devices == "auto":
        devices = torch.cuda.device_count() if resolve_accelerator(accelerator) == "gpu" else 1
    return (len(devices) if isinstance(devices, list) else devices) * num_nodes


def check_devices(accelerator: str, num_nodes: int, sync_batchnorm: bool) -> None:
    """Refuse settings that would hang or fail only after several processes have started.

    Raises:
        UserError: names the key.
    """
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


def resolve_precision(precision: Precision, accelerator: str) -> str:
    """Return the precision that `auto` stands for.

    It is bfloat16 autocast if the device has matrix units for bfloat16 (CUDA capability 8.0 and later, Intel AMX), else
    float32.
    """
    if precision != "auto":
        return str(precision)
    if accelerator == "gpu":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "32"
    return "bf16" if accelerator == "cpu" and has_amx() else "32"


def has_amx() -> bool:
    """Return whether this processor multiplies bfloat16 matrices in tiles (Intel AMX, Sapphire Rapids and later)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def keep_freed_memory() -> None:
    """Let glibc keep large blocks of memory for the next step; without glibc, do nothing.

    By default glibc returns every block above 32 MB to the system at once, and the kernel zeroes it again for the next
    activation map: more than half of the time of a large network on the CPU (EfficientNet-Lite0 at 224 pixels).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(parameter, value)


def prevent_cuda_search() -> None:
    """Prevent a search for CUDA in every optimizer step on a machine without CUDA.

    torch's optimizers ask in each step whether a CUDA graph is being captured; a build with CUDA then tries to load the
    driver's library, which takes as long as a step of Adam on a small network. If no device is visible, torch does not
    load the driver.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def prepare_network(
    network: nn.Module, *, accelerator: Accelerator, channels_last: Literal["auto"] | bool, compile_network: bool
) -> bool:
    """Set the memory format of a network and compile it, in place.

    Args:
        network: any network.
        accelerator: where it will run.
        channels_last: store images and kernels as NHWC; `auto` does so except on MPS, where nothing is gained.
        compile_network: use torch.compile; the keys of the state_dict stay the same.

    Returns:
        Whether the memory format is NHWC.
    """
    if channels_last == "auto":
        channels_last = resolve_accelerator(accelerator) != "mps"
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compile_network:
        network.compile()
    return channels_last
