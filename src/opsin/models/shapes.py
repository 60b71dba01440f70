"""Output shapes of a network, computed without its data and without side effects."""

import bisect
import copy
import math
import sys
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from opsin.errors import UserError
from opsin.models.torch_internals import TorchDispatchMode

M = TypeVar("M", bound=nn.Module)

SMALL = 256 * 256
"""Pixels of an image up to which it is computed to get the shape of its features, which takes milliseconds.

The meta device of PyTorch needs no memory, but its first use imports PyTorch's compiler, which takes seconds. A process
that has it uses the meta device for all sizes.
"""


def on_meta(module: M) -> M:
    """Return a copy of the module in `eval()` whose tensors have shapes but no data.

    The module, the random generators and the device do not change, and no data is copied.
    """
    tensors: dict[int, torch.Tensor] = {}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        tensors[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        tensors[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, tensors).eval()  # deepcopy uses these instead of copying


def feature_shape(
    name: str, stages: Mapping[str, nn.Module], in_channels: int, image_size: tuple[int, int]
) -> tuple[int, ...]:
    """Return the shape of one image's features after the stages, such as `(C, H, W)`.

    Args:
        name: The name of the network, for the message.
        stages: The modules, in order.
        in_channels: Channels of the image.
        image_size: (height, width) of the image, in pixels.

    Raises:
        UserError: The images are too small for the stages. The message gives the smallest square size.
    """
    body = nn.Sequential(*stages.values())
    is_small = math.prod(image_size) <= SMALL and "torch._dynamo" not in sys.modules
    try:
        return _run(copy.deepcopy(body).eval() if is_small else on_meta(body), in_channels, *image_size)
    except RuntimeError:
        body = on_meta(body)
        side = _smallest_side(body, in_channels)
        if side is None or side <= min(image_size):
            raise  # not caused by the size
    height, width = image_size
    raise UserError(
        f"{name} needs images of at least {side}x{side} pixels, got {height}x{width}: "
        f"set datamodule.image_size={side} or more"
    )


def strides_over_one_pixel(network: nn.Module, shape: tuple[int, int, int], without: Collection[str] = ()) -> bool:
    """Return whether a convolution of a network moves by more than one pixel over a map of a single pixel.

    The network runs on the meta device, or on the CPU if its operations depend on values.

    Args:
        network: The network; not changed.
        shape: (channels, height, width) of an image.
        without: Names of stages whose convolutions do not count.
    """
    left_out = tuple(f"stages.{stage}." for stage in without)

    def finds(copied: nn.Module, device: str) -> bool:
        weights = {id(weight) for name, weight in copied.named_parameters() if name.startswith(left_out)}
        found = _StridedPixels(weights)
        with torch.no_grad(), found:
            copied(torch.zeros(1, *shape, device=device))
        return found.any

    try:
        return finds(on_meta(network), "meta")
    except (RuntimeError, NotImplementedError):
        return finds(copy.deepcopy(network).cpu().eval(), "cpu")


class _StridedPixels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Look for convolutions with a stride over a single pixel.

    Args:
        left_out: Identities of the weights whose convolutions do not count.

    Attributes:
        any: Whether there was one.
    """

    def __init__(self, left_out: Collection[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.any = False
        self._left_out = left_out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            maps, weight, stride = args[0], args[1], args[3]
            counts = id(weight) not in self._left_out
            self.any |= bool(counts and maps.shape[2:].numel() == 1 and max(stride) > 1)
        return func(*args, **(kwargs or {}))


def _run(body: nn.Module, channels: int, height: int, width: int) -> tuple[int, ...]:
    device = next((tensor.device for tensor in body.parameters()), None)
    with torch.no_grad():
        return tuple(body(torch.zeros(1, channels, height, width, device=device)).shape[1:])


def _smallest_side(body: nn.Module, channels: int) -> int | None:
    """Return the smallest side in pixels that the body accepts; None if no side up to 1,024 works.

    A body that accepts one size accepts all larger sizes, so a binary search finds the smallest.
    """

    def works(side: int) -> bool:
        try:
            _run(body, channels, side, side)
        except RuntimeError:
            return False
        return True

    sides = range(1, 1025)
    index = bisect.bisect_left(sides, True, key=works)
    return sides[index] if index < len(sides) else None
