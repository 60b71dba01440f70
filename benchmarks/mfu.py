"""How close training comes to what the hardware could do."""

import torch

from opsin.runs.network_summary import Summary

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
"""Dense bfloat16 with float32 accumulation, in TFLOP/s, from the makers' data sheets; SXM where there are several."""


def training_flops(summary: Summary) -> int:
    """Floating-point operations of a training step, for one image.

    A multiply-add is two operations. The backward pass costs twice the forward one, and no more than that is counted:
    a stage that does not train, and before which none does, has only the forward pass.
    """
    flops, trains = 0, False
    for row in summary.rows:
        trains = trains or row.trainable > 0
        flops += 2 * row.mult_adds * (3 if trains else 1)
    return flops


def compute_share(summary: Summary, images_per_second: float, device: str | None) -> float | None:
    """The share of the card's peak that training uses; None where the card, or its peak, is not known."""
    peak = next((peak for name, peak in PEAK_TFLOPS.items() if device and name in device), None)
    return None if peak is None else training_flops(summary) * images_per_second / (peak * 1e12)


def utilisation() -> float | None:
    """Share of the last moments in which the GPU was at work; None without one, or without NVML's Python package."""
    if not torch.cuda.is_available():
        return None
    try:
        return torch.cuda.utilization() / 100
    except (ModuleNotFoundError, RuntimeError):
        return None
