"""Work of a training step: floating-point operations, bytes, and the share of the measured peak of the machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

REPEATS = 15
SIDES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product measures the peak."""


@dataclass(frozen=True)
class StepWork:
    """Work of a training step in bfloat16, per image of its batch: forward pass, loss and backward pass.

    Attributes:
        flops: Floating-point operations of convolutions and matrix products; a multiply-add counts as two.
        bytes: Bytes that the operators read and write, if none are fused. A cache can hold part of them.
    """

    flops: float
    bytes: float

    def share(self, images_per_second: float, peak: "Peak") -> float:
        """Return the share of the peak that a training speed uses."""
        return self.flops * images_per_second / peak.flops


@dataclass(frozen=True, order=True)
class Peak:
    """Measured peak of this machine: the faster of a bfloat16 and a float32 matrix product; a faster one is greater.

    Attributes:
        flops: Floating-point operations per second of the fastest of `REPEATS` products.
        precision: `bfloat16` or `float32`.
        side: Rows and columns of the matrices.
    """

    flops: float
    precision: str
    side: int

    def __str__(self) -> str:
        """The peak and how it is measured."""
        return f"{self.flops / 1e9:,.0f} GFLOP/s ({self.precision} product of {self.side} x {self.side} matrices)"


class _BytesMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of inputs and outputs of all operators that are not views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        return result


def step_work(network: nn.Module, shape: tuple[int, int, int], batch_size: int) -> StepWork:
    """Count the work of one training step on the CPU; stages that are frozen have no gradients.

    Args:
        network: The network; its mode, parameters and buffers stay as they are.
        shape: Shape of one image, `(C, H, W)`.
        batch_size: Number of images of the step.
    """
    images = torch.zeros(batch_size, *shape).contiguous(memory_format=torch.channels_last)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    counted, flops = _BytesMode(), FlopCounterMode(display=False)
    with flops, counted:
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(images).float().logsumexp(1).mean()
        loss.backward()
    network.zero_grad()
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    return StepWork(flops.get_total_flops() / batch_size, counted.bytes / batch_size)


def measure_peak(device: torch.device, threads: int | None = None) -> Peak:
    """Measure the fastest matrix product of the device.

    Args:
        device: Device to measure.
        threads: Threads of the CPU; None leaves their number unchanged.
    """
    before, side = torch.get_num_threads(), SIDES.get(device.type, SIDES["cpu"])
    torch.set_num_threads(threads or before)
    try:
        found = [Peak(_product_flops(dtype, device, side), str(dtype)[6:], side) for dtype in _PRECISIONS]
    finally:
        torch.set_num_threads(before)
    return max(found)


_PRECISIONS = (torch.bfloat16, torch.float32)


def _product_flops(dtype: torch.dtype, device: torch.device, side: int) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = min(_timed(lambda: left @ right, device) for _ in range(REPEATS))
    return float(2 * side**3 / seconds)


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def utilization() -> float | None:
    """Return the recent utilization of the GPU in [0, 1]; None without a GPU or without NVML's Python package."""
    if not torch.cuda.is_available():
        return None
    try:
        return torch.cuda.utilization() / 100
    except (ModuleNotFoundError, RuntimeError):
        return None
