"""Copy tensors to a device without waiting for the work that is queued on it."""

import torch


def copy_to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device.

    On CUDA the copy comes from pinned memory, so neither the copy nor the previous step is waited for. On other devices
    an asynchronous copy is not safe.

    Args:
        tensor: A tensor on any device.
        device: The device.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
