"""A digest of the bits of a tensor."""

import hashlib

import torch
from torch import Tensor


def digest(tensor: Tensor) -> str:
    """Return a digest of a tensor's type, shape and bits; its device and memory format do not matter."""
    plain = tensor.detach().cpu().contiguous()
    made = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    made.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()[:32]
