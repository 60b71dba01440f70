"""What a filter looks for: pictures that raise its activation, by gradient ascent from noise."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.interpretability.activations import RECTIFIERS, layers, listening, place_of
from opsin.interpretability.eval_context import eval_context
from opsin.models import Network

BLOCK = 8
"""Pictures that are made together."""

NOISE = (150 / 255, 180 / 255)
"""Where the ascent starts: pixels drawn evenly from here, in [0, 1]."""

WEIGHT_DECAY = 1e-6

LEAK = 0.1
"""How much what goes into a rectifier counts: below its zero, and above the 6 of ReLU6, nothing else has a gradient."""

Floats = tuple[float, ...]

_SILENT = (nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Dropout2d, nn.Identity)


@dataclass(frozen=True, eq=False)
class Ascent:
    """Pictures that raise the activation of some filters.

    Attributes:
        channels: Which filters `(K,)`.
        pictures: uint8 `(K, H, W, C)`.
        start: Mean activation over the noise it started from `(K,)`.
        end: Mean activation over the picture, with its pixels rounded to bytes `(K,)`.
    """

    channels: tuple[int, ...]
    pictures: NDArray[np.uint8]
    start: Floats
    end: Floats


def ascend(
    network: Network,
    step: str,
    channels: Sequence[int],
    *,
    size: tuple[int, int] = (56, 56),
    steps: int = 20,
    upscalings: int = 12,
    factor: float = 1.2,
    blur: int = 5,
    lr: float = 0.02,
    seed: int = 0,
    mean: Sequence[float],
    std: Sequence[float],
    channels_in: int = 3,
) -> Ascent:
    """Pictures that raise the mean activation of filters, by Adam on the pixels, from noise.

    Two recipes of the lectures: `upscalings=0, steps=100` at the network's own size gives fine patterns;
    `size=(56, 56), upscalings=12, factor=1.2, blur=5` finds coarse ones first, enlarges and blurs them and goes on,
    so that larger forms appear. Pixels are kept within what an image can have: the picture shown is the one measured.

    A filter that is silent on noise would have no gradient: while climbing, its rectifier leaks a little.

    Args:
        network: Left as it is; may be frozen.
        step: A stage, a layer in one (`block1.conv`), or a part of the head (`head.fc`: a class).
        channels: Of its output.
        size: (height, width) in pixels to start from.
        steps: Of Adam, at every size.
        upscalings: How often the picture is enlarged.
        factor: By how much each time.
        blur: Side in pixels of the mean that smooths what was enlarged; 1: none.
        lr: Of Adam, on pixels in [0, 1].
        seed: Of the noise; every filter starts from the same.
        mean: Of the network's input, per channel.
        std: Likewise.
        channels_in: Of the picture, before grey ones are repeated for an RGB network.

    Raises:
        UserError: There is no such step or channel, or the step cannot run at such a size.
    """
    if not channels:
        raise UserError(f"{network.name}: no filters of {step} are named")
    if steps < 1 or upscalings < 0 or factor < 1 or blur < 1 or blur % 2 == 0 or min(size) < 1:
        raise UserError("gradient ascent takes steps >= 1, upscalings >= 0, factor >= 1, and an odd blur")
    climb = _Climb(steps, upscalings, factor, blur, lr)
    noise = torch.empty(1, channels_in, *size).uniform_(*NOISE, generator=torch.Generator().manual_seed(seed))
    with eval_context(network) as still:
        eye = _Eye(still, step, mean, std)
        with eye.open():
            eye.check(channels, noise)
            parts = [
                climb(eye, noise, torch.tensor(channels[first : first + BLOCK]))
                for first in range(0, len(channels), BLOCK)
            ]
    pictures, starts, ends = zip(*parts, strict=True)
    return Ascent(tuple(channels), np.concatenate(pictures), sum(starts, ()), sum(ends, ()))


@dataclass(frozen=True)
class _Climb:
    """How the pictures are made; see `ascend`."""

    steps: int
    upscalings: int
    factor: float
    blur: int
    lr: float

    def __call__(self, eye: "_Eye", noise: Tensor, channels: Tensor) -> tuple[NDArray[np.uint8], Floats, Floats]:
        """Pictures `(K, H, W, C)` for some filters `(K,)`, and their activation at the start and at the end."""
        channels = channels.to(eye.device)
        pixels = noise.to(eye.device).expand(len(channels), -1, -1, -1)
        start = eye.measure(pixels, channels)
        for round_ in range(self.upscalings + 1):
            pixels = self._raise(eye, self._enlarged(pixels) if round_ else pixels, channels)
        rounded = (pixels * 255).round()
        picture = rounded.to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        return picture, start, eye.measure(rounded / 255, channels)

    def _enlarged(self, pixels: Tensor) -> Tensor:
        size = [round(side * self.factor) for side in pixels.shape[2:]]
        larger = F.interpolate(pixels, size, mode="bicubic", align_corners=False).clamp(0, 1)
        margin = self.blur // 2
        if margin == 0 or min(size) <= margin:
            return larger
        return F.avg_pool2d(F.pad(larger, [margin] * 4, mode="reflect"), self.blur, stride=1)

    def _raise(self, eye: "_Eye", pixels: Tensor, channels: Tensor) -> Tensor:
        pixels = pixels.detach().clone(memory_format=torch.contiguous_format).requires_grad_(True)
        adam = torch.optim.Adam([pixels], self.lr, weight_decay=WEIGHT_DECAY)
        for _ in range(self.steps):
            # Only the pixels get a gradient: those that the parameters hold stay as they are.
            (pixels.grad,) = torch.autograd.grad(-eye.urge(pixels, channels).sum(), pixels)
            adam.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
        return pixels.detach()


class _Eye:
    """One step of a network, looking at pixels in [0, 1]."""

    def __init__(self, network: Network, step: str, mean: Sequence[float], std: Sequence[float]) -> None:
        self.device = place_of(network)
        self._network, self._step = network, step
        self._in_head = step in network.steps() and step not in network.stages
        self._module = network.steps()[step] if self._in_head else layers(network, [step])[step]
        self._mean, self._std = (torch.tensor(list(x), device=self.device).view(1, -1, 1, 1) for x in (mean, std))
        self._seen: dict[str, Tensor] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Listen to the step, and to what its last rectifier is given."""
        modules = {"step": self._module}
        handles = ExitStack()
        if (rectifier := _last_rectifier(self._module)) is not None:
            # A copy: it may be rectified in place.
            hook = rectifier.register_forward_pre_hook(lambda _, inputs: self._seen.update(raw=inputs[0].clone()))
            handles.callback(hook.remove)
        with handles, listening(modules, self._seen.__setitem__):
            yield

    def check(self, channels: Sequence[int], noise: Tensor) -> None:
        """Raise `UserError` unless the step runs on such pictures and has these channels."""
        try:
            with torch.no_grad():
                self._look(noise.to(self.device))
        except RuntimeError as error:
            height, width = noise.shape[2:]
            raise UserError(
                f"{self._network.name}: {self._step} cannot run on {height}x{width} pixels ({error}); the head mostly "
                "takes the network's own size only (upscalings=0)"
            ) from None
        width = self._seen["step"].shape[1]
        if wrong := [channel for channel in channels if not 0 <= channel < width]:
            raise UserError(f"{self._network.name}: {self._step} has channels 0 to {width - 1}, and no {wrong[0]}")

    def measure(self, pixels: Tensor, channels: Tensor) -> Floats:
        """The mean activation of one filter for each picture."""
        with torch.no_grad():
            self._look(pixels)
        return tuple(_of(self._seen["step"], channels).tolist())

    def urge(self, pixels: Tensor, channels: Tensor) -> Tensor:
        """What is to grow `(K,)`: the mean activation, and a little what its rectifier is given."""
        self._look(pixels)
        activation = _of(self._seen["step"], channels)
        raw = self._seen.get("raw")
        if raw is None or raw.ndim != self._seen["step"].ndim:
            return activation
        return activation + LEAK * _of(raw, channels)

    def _look(self, pixels: Tensor) -> None:
        images = (pixels.expand(-1, len(self._mean[0]), -1, -1) - self._mean) / self._std
        features = self._network.forward_features(images, None if self._in_head else self._stage)
        if self._in_head:
            self._network.head(features)

    @property
    def _stage(self) -> str:
        return self._step.split(".")[0]


def _of(output: Tensor, channels: Tensor) -> Tensor:
    """The channel `(K,)` that each picture is made for, averaged over its area."""
    means = output.flatten(2).mean(dim=2) if output.ndim > 2 else output
    return means[torch.arange(len(means), device=means.device), channels]


def _last_rectifier(step: nn.Module) -> nn.Module | None:
    """The rectifier that a step ends with, pooling and dropout aside; it has as many channels as the step."""
    last = None
    for module in step.modules():
        if next(module.children(), None) is not None:
            continue
        if isinstance(module, RECTIFIERS):
            last = module
        elif not isinstance(module, _SILENT):
            last = None
    return last
