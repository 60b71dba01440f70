"""Settings of this process and of a network that depend on the hardware, such as memory format and allocator."""

import ctypes
import os
import platform
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from opsin.training.accelerator import Accelerator, resolve_accelerator

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3): they control when freed memory is returned to the system, and whether large blocks are
requested directly from the system."""


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
        network: Any network.
        accelerator: Where it will run.
        channels_last: Store images and kernels as NHWC; `auto` does so except on MPS, where nothing is gained.
        compile_network: Use torch.compile; the keys of the state_dict stay the same.

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
