"""Model FLOPs utilization: training speed relative to the peak of the GPU."""

import torch

from opsin.runs.result import NetworkSummary

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 with float32 accumulation in TFLOP/s, from the data sheets; the SXM version if there are several."""


def training_flops(summary: NetworkSummary) -> int:
    """Return the floating-point operations of a training step per image.

    A multiply-add counts as two operations, and the backward pass as twice the forward pass. Frozen stages before the
    first trainable stage have a forward pass only.
    """
    flops, trains = 0, False
    for row in summary.rows:
        trains = trains or row.trainable > 0
        flops += 2 * row.mult_adds * (3 if trains else 1)
    return flops


def compute_share(summary: NetworkSummary, images_per_second: float, device: str | None) -> float | None:
    """Return the share of the GPU's peak that training uses; None if the GPU or its peak is unknown."""
    peak = next((peak for name, peak in PEAK_TFLOPS.items() if device and name in device), None)
    return None if peak is None else training_flops(summary) * images_per_second / (peak * 1e12)


def utilization() -> float | None:
    """Return the recent utilization of the GPU in [0, 1]; None without a GPU or without NVML's Python package."""
    if not torch.cuda.is_available():
        return None
    try:
        return torch.cuda.utilization() / 100
    except (ModuleNotFoundError, RuntimeError):
        return None
