"""Feature visualization: images that maximize the activation of a filter, by gradient ascent from noise."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.interpretability.activations import RECTIFIERS, device_of, layers, output_hooks
from opsin.interpretability.eval_context import eval_context, is_map
from opsin.models import Network

BLOCK = 8
"""Images per batch."""

NOISE = (150 / 255, 180 / 255)
"""Range of the uniform noise at the start, in [0, 1]."""

WEIGHT_DECAY = 1e-6

LEAK = 0.1
"""Weight of the input of a rectifier in the objective: its output has no gradient below 0, and for ReLU6 above 6."""

Floats = tuple[float, ...]

_PASS_THROUGH = (nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Dropout2d, nn.Identity)


class _Call(NamedTuple):
    """One call of a module, with its input and its output."""

    module: nn.Module
    input: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class Ascent:
    """Images that maximize the activation of some filters.

    Attributes:
        channels: Indices of the filters `(K,)`.
        pictures: The images, uint8 `(K, H, W, C)`.
        start: Mean activation for the noise `(K,)`.
        end: Mean activation for the image with its pixels rounded to uint8 `(K,)`.
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
    """Return images that maximize the mean activation of filters, by Adam on the pixels of a noise image.

    The lectures have two recipes: `upscalings=0, steps=100` at the input size of the network gives fine patterns;
    `size=(56, 56), upscalings=12, factor=1.2, blur=5` optimizes coarse patterns first, and enlarges and blurs them
    repeatedly, which gives larger shapes. Pixels are clipped to [0, 1].

    A filter that is zero for noise has no gradient, so the input of its rectifier is part of the objective (`LEAK`).

    Args:
        network: The network; it does not change, and may be frozen.
        step: A stage, a layer in a stage (`block1.conv`), or a part of the head (`head.fc` for classes).
        channels: Output channels of the step.
        size: Initial (height, width) in pixels.
        steps: Adam steps at every size.
        upscalings: Number of upscalings.
        factor: Factor of each upscaling.
        blur: Side of the mean filter after each upscaling, in pixels; 1 for none.
        lr: Learning rate of Adam, for pixels in [0, 1].
        seed: Seed of the noise, which is the same for all filters.
        mean: Mean that normalizes the input of the network, per channel.
        std: Standard deviation that normalizes the input of the network, per channel.
        channels_in: Channels of the images; gray images are repeated for an RGB network.

    Raises:
        UserError: The step or a channel does not exist, or the step has no filters or cannot run at this size.
    """
    if not channels:
        raise UserError(f"{network.name}: no filters of {step} are given")
    if steps < 1 or upscalings < 0 or factor < 1 or blur < 1 or blur % 2 == 0 or min(size) < 1:
        raise UserError("gradient ascent needs steps >= 1, upscalings >= 0, factor >= 1, and an odd blur")
    recipe = _Recipe(steps, upscalings, factor, blur, lr)
    noise = torch.empty(1, channels_in, *size).uniform_(*NOISE, generator=torch.Generator().manual_seed(seed))
    with eval_context(network) as model:
        objective = _Objective(model, step, mean, std)
        objective.check(channels, noise, recipe.last_size(size))
        with objective.hooked():
            parts = [
                recipe(objective, noise, torch.tensor(channels[first : first + BLOCK]))
                for first in range(0, len(channels), BLOCK)
            ]
    pictures, starts, ends = zip(*parts, strict=True)
    return Ascent(tuple(channels), np.concatenate(pictures), sum(starts, ()), sum(ends, ()))


@dataclass(frozen=True)
class _Recipe:
    """Options of the optimization; see `ascend`."""

    steps: int
    upscalings: int
    factor: float
    blur: int
    lr: float

    def __call__(
        self, objective: "_Objective", noise: Tensor, channels: Tensor
    ) -> tuple[NDArray[np.uint8], Floats, Floats]:
        """Return images `(K, H, W, C)` for filters `(K,)`, and their activations at the start and at the end."""
        channels = channels.to(objective.device)
        pixels = noise.to(objective.device).expand(len(channels), -1, -1, -1)
        start = objective.measure(pixels, channels)
        for round_ in range(self.upscalings + 1):
            pixels = self._maximize(objective, self._enlarged(pixels) if round_ else pixels, channels)
        rounded = (pixels * 255).round()
        picture = rounded.to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        return picture, start, objective.measure(rounded / 255, channels)

    def last_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) after the last upscaling."""
        for _ in range(self.upscalings):
            size = self._larger(size)
        return size

    def _larger(self, size: Sequence[int]) -> tuple[int, int]:
        height, width = size
        return round(height * self.factor), round(width * self.factor)

    def _enlarged(self, pixels: Tensor) -> Tensor:
        size = self._larger(pixels.shape[2:])
        larger = F.interpolate(pixels, size, mode="bicubic", align_corners=False).clamp(0, 1)
        margin = self.blur // 2
        if margin == 0 or min(size) <= margin:
            return larger
        return F.avg_pool2d(F.pad(larger, [margin] * 4, mode="reflect"), self.blur, stride=1)

    def _maximize(self, objective: "_Objective", pixels: Tensor, channels: Tensor) -> Tensor:
        pixels = pixels.detach().clone(memory_format=torch.contiguous_format).requires_grad_(True)
        adam = torch.optim.Adam([pixels], self.lr, weight_decay=WEIGHT_DECAY)
        for _ in range(self.steps):
            # Gradients of the parameters do not change.
            (pixels.grad,) = torch.autograd.grad(-objective.value(pixels, channels).sum(), pixels)
            adam.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
        return pixels.detach()


class _Objective:
    """The activation of one step of a network for pixels in [0, 1]."""

    def __init__(self, network: Network, step: str, mean: Sequence[float], std: Sequence[float]) -> None:
        self.device = device_of(network)
        self._dtype = next((tensor.dtype for tensor in network.parameters()), torch.float32)
        self._network, self._step = network, step
        self._in_head = step in network.steps() and step not in network.stages
        self._module = network.steps()[step] if self._in_head else layers(network, [step])[step]
        self._mean, self._std = (torch.tensor(list(x), device=self.device).view(1, -1, 1, 1) for x in (mean, std))
        self._outputs: dict[str, Tensor] = {}
        self._rectifier: nn.Module | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Record the output of the step, and the input of the rectifier that `check` has found, in its last call."""
        with ExitStack() as handles:
            if self._rectifier is not None:
                # Copied, because the rectifier may work in place.
                hook = self._rectifier.register_forward_pre_hook(
                    lambda _, inputs: self._outputs.update(raw=inputs[0].clone())
                )
                handles.callback(hook.remove)
            handles.enter_context(output_hooks({"step": self._module}, self._outputs.__setitem__))
            yield

    def check(self, channels: Sequence[int], noise: Tensor, last: tuple[int, int]) -> None:
        """Find the rectifier at the end of the step by a run on the noise, and check the channels and both sizes.

        Args:
            channels: The channels.
            noise: The first image.
            last: (height, width) after the last upscaling.

        Raises:
            UserError: The step does not have these channels, or does not run at the size of the noise or the last one.
        """
        with self.hooked(), _recorded_calls(self._module) as calls:
            self._try(noise)
        output = self._outputs["step"]
        check_filters(self._network, self._step, self._module, output, noise)
        width = output.shape[1]
        if wrong := [channel for channel in channels if not 0 <= channel < width]:
            raise UserError(f"{self._network.name}: {self._step} has channels 0 to {width - 1}, not {wrong[0]}")
        self._rectifier = _last_rectifier(calls, output)
        if last != noise.shape[2:]:
            self._try(F.interpolate(noise, last))

    def _try(self, noise: Tensor) -> None:
        try:
            with torch.no_grad():
                self._run(noise.to(self.device))
        except (RuntimeError, AssertionError, ValueError) as error:  # the last two of networks of a fixed size
            height, width = noise.shape[2:]
            raise UserError(
                f"{self._network.name}: {self._step} cannot run on {height}x{width} pixels ({error}). Most heads and "
                "some networks accept one size only: start with the input size of the network (--upscalings 0)"
            ) from None

    def measure(self, pixels: Tensor, channels: Tensor) -> Floats:
        """Return the mean activation of one filter per image."""
        with torch.no_grad():
            self._run(pixels)
        return tuple(_channel_means(self._outputs["step"], channels).tolist())

    def value(self, pixels: Tensor, channels: Tensor) -> Tensor:
        """Return the objective `(K,)`: the mean activation plus `LEAK` times the mean input of the rectifier."""
        self._run(pixels)
        activation = _channel_means(self._outputs["step"], channels)
        raw = self._outputs.get("raw")
        if raw is None or raw.ndim != self._outputs["step"].ndim:
            return activation
        return activation + LEAK * _channel_means(raw, channels)

    def _run(self, pixels: Tensor) -> None:
        images = (pixels.expand(-1, len(self._mean[0]), -1, -1) - self._mean) / self._std
        features = self._network.forward_features(images.to(self._dtype), None if self._in_head else self._stage)
        if self._in_head:
            self._network.head(features)

    @property
    def _stage(self) -> str:
        return self._step.split(".")[0]


def check_filters(network: Network, step: str, module: nn.Module, output: Tensor, images: Tensor) -> None:
    """Check that the output of a step is a map or a vector, whose channels are filters.

    Args:
        network: The network.
        step: The name of the step.
        module: The step.
        output: Its output.
        images: The input of the network.

    Raises:
        UserError: It is something else, such as tokens.
    """
    if output.ndim > 2 and not is_map(network, module, output, images):
        raise UserError(
            f"{network.name}: the output of {step} is not a map (N, C, h, w), so it has no filters; "
            "a part of the head has outputs, such as head.fc"
        )


def _channel_means(output: Tensor, channels: Tensor) -> Tensor:
    """Return one channel `(K,)` per image, averaged over its area."""
    means = output.flatten(2).mean(dim=2) if output.ndim > 2 else output
    return means[torch.arange(len(means), device=means.device), channels]


@contextmanager
def _recorded_calls(step: nn.Module) -> Iterator[list[_Call]]:
    """Record the calls of rectifiers, pooling and dropout in a step, in execution order."""
    calls: list[_Call] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(module, inputs[0], output))

    with ExitStack() as hooks:
        for module in step.modules():
            if isinstance(module, (*RECTIFIERS, *_PASS_THROUGH)):
                hooks.callback(module.register_forward_hook(record).remove)
        yield calls


def _last_rectifier(calls: Sequence[_Call], output: Tensor) -> nn.Module | None:
    """Return the rectifier whose output is that of the step, directly or through pooling and dropout, or None.

    The order of registration does not tell: the ReLU of a residual block is registered before the last convolution.
    """
    for call in reversed(calls):
        if call.output is output:
            if isinstance(call.module, RECTIFIERS):
                return call.module
            output = call.input
    return None
