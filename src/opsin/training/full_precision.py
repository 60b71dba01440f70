"""Modules whose tensors stay in full precision while the weights of a network are converted to half precision."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


class FullPrecision(nn.Module):
    """A module whose buffers and metric states move with the device and never become half precision.

    Sums over many images, and weights that multiply losses in full precision, would lose most of their digits.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FullPrecision":
        def keep(tensor: Tensor) -> Tensor:
            converted = fn(tensor)
            return tensor.to(converted.device) if converted.dtype in HALF else converted

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        return self


def upcast(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision if it has half precision."""
    return tensor.float() if tensor.dtype in HALF else tensor
