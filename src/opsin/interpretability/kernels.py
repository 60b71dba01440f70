"""The kernels of the first convolution as images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from opsin.errors import UserError
from opsin.models import Network
from opsin.visualization.images import Pixels, colorize, to_uint8


def first_kernels(network: Network) -> tuple[str, NDArray[np.float32]]:
    """Return the name of the first convolution and a copy of its kernels `(O, I, kh, kw)`.

    Raises:
        UserError: The network has no convolution.
    """
    for name, module in network.stages.named_modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                return name, module.weight.float().cpu().numpy().copy()
    raise UserError(f"{network.name} has no convolution, so there are no kernels to show")


def kernel_pictures(kernels: NDArray[np.float32], *, own_scale: bool = False) -> list[Pixels]:
    """Return kernels `(O, I, kh, kw)` as images `(kh, kw, 3)`, one per filter; zero is the middle of the scale.

    Kernels with three input channels are shown as RGB, with zero as gray; kernels with one channel in blue (negative),
    white and red (positive). For other numbers of channels, the mean over the channels is shown.

    Args:
        kernels: Any values.
        own_scale: Whether each kernel is scaled to full contrast; otherwise all share one scale.
    """
    kernels = np.asarray(kernels, np.float32)
    shown = kernels if kernels.shape[1] in (1, 3) else kernels.mean(axis=1, keepdims=True)
    reach = np.abs(shown).reshape(len(shown), -1).max(axis=1)
    if not own_scale:
        # The largest tenth is clipped, so that the others have contrast.
        reach = np.full_like(reach, np.quantile(reach, 0.9))
    reach = np.maximum(reach, np.finfo(np.float32).tiny)
    if shown.shape[1] == 3:
        return [to_uint8(kernel.transpose(1, 2, 0), -r, r) for kernel, r in zip(shown, reach.tolist(), strict=True)]
    return [colorize(kernel[0], "RdBu_r", -r, r) for kernel, r in zip(shown, reach.tolist(), strict=True)]
