"""Choices that depend on the hardware: accelerator, threads, memory format."""

import ctypes
import os
import platform
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from opsin.errors import UserError
from opsin.runs.cpu_cores import available_cores, own_threads
from opsin.runs.quoting import torchrun_command

Accelerator = Literal["auto", "cpu", "gpu", "mps"]


Threads = Literal["auto"] | Annotated[int, Field(ge=1)]


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3): they control when freed memory is returned to the system, and whether large blocks are
requested directly from the system."""


def use_threads(threads: Threads, devices: Any = 1) -> None:
    """Set the number of CPU threads of torch in this process; the number affects how sums are rounded.

    With `auto` it is OMP_NUM_THREADS if it is set. Otherwise it is torch's choice, one per physical core, within the
    cores that a container or a scheduler grants, divided among the processes of a run on several devices. It never
    depends on the load of the machine, so a seed gives the same result on a busy machine.

    Args:
        threads: the number, or `auto`.
        devices: the devices of the run on this machine; only a number gives the number of processes.
    """
    count = torch.get_num_threads()
    if threads != "auto":
        count = threads
    elif own_threads() is None:
        processes = devices if isinstance(devices, int) else 1
        count = min(count, max(1, available_cores() // processes))
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


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


def usable_accelerator(accelerator: Accelerator) -> Literal["cpu", "gpu", "mps"]:
    """Return the accelerator for an evaluation: the given one, or that of `auto` if this machine lacks it."""
    available = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return resolve_accelerator(accelerator if available.get(accelerator, True) else "auto")


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


def cpu_name() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
