"""The kernels that the first layer has learned, as pictures: the only ones that look at the image itself."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from opsin.errors import UserError
from opsin.models import Network
from opsin.visualization.images import Pixels, coloured, stretched


def first_kernels(network: Network) -> tuple[str, NDArray[np.float32]]:
    """The name of the first convolution and its kernels `(O, I, kh, kw)`: a copy.

    Raises:
        UserError: The network has no convolution.
    """
    for name, module in network.stages.named_modules():
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                return name, module.weight.float().cpu().numpy().copy()
    raise UserError(f"{network.name} has no convolution, and so no kernels to show")


def kernel_pictures(kernels: NDArray[np.float32], *, own_scale: bool = False) -> list[Pixels]:
    """Kernels `(O, I, kh, kw)` as pictures `(kh, kw, 3)`, one for each filter; zero is the middle of the scale.

    Kernels on three channels are shown in the colours that they look for, grey being zero; those on one channel in
    blue (negative), white and red (positive), as are the means over channels of any other number.

    Args:
        kernels: Any values.
        own_scale: Whether each is brought to full contrast by itself; else all share a scale, and one that has learned
            little looks pale.
    """
    kernels = np.asarray(kernels, np.float32)
    shown = kernels if kernels.shape[1] in (1, 3) else kernels.mean(axis=1, keepdims=True)
    reach = np.abs(shown).reshape(len(shown), -1).max(axis=1)
    if not own_scale:
        # Most show their pattern, and the few largest are clipped.
        reach = np.full_like(reach, np.quantile(reach, 0.9))
    reach = np.maximum(reach, np.finfo(np.float32).tiny)
    if shown.shape[1] == 3:
        return [stretched(kernel.transpose(1, 2, 0), -r, r) for kernel, r in zip(shown, reach.tolist(), strict=True)]
    return [coloured(kernel[0], "RdBu_r", -r, r) for kernel, r in zip(shown, reach.tolist(), strict=True)]
