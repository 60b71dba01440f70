"""Adapt the first convolution of an RGB network to images of another number of channels, as timm does.

The kernels of red, green and blue are repeated over the channels and scaled by 3 / channels, so that activations
keep their range.
"""

from torch import Tensor, nn

from opsin.models.weights import StateDict


def take_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution of an RGB network by one for images of `channels`, in place."""
    if channels == 3:
        return
    name, old = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    new.weight.data = adapted_kernels(old.weight.data, channels)
    if old.bias is not None and new.bias is not None:
        new.bias.data = old.bias.data
    network.set_submodule(name, new)


def adapted_kernels(kernels: Tensor, channels: int) -> Tensor:
    """Return kernels `(K, 3, h, w)` for images of `channels`."""
    from timm.models import adapt_input_conv

    adapted: Tensor = adapt_input_conv(channels, kernels)
    return adapted


def fit_input_channels(own: StateDict, state: StateDict) -> StateDict:
    """Return tensors to load, with the kernels of a first layer for RGB images adapted to that of the network.

    Args:
        own: The tensors of the network.
        state: The tensors to load, under the same keys.
    """
    fitted = dict(state)
    for key, tensor in own.items():
        given = state.get(key)
        if given is None or tensor.ndim != 4 or given.ndim != 4 or given.shape == tensor.shape or given.shape[1] != 3:
            continue
        if (given.shape[0], *given.shape[2:]) == (tensor.shape[0], *tensor.shape[2:]):
            fitted[key] = adapted_kernels(given, tensor.shape[1])
    return fitted
