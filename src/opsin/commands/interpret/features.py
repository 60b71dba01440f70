"""Make images of kernels, activations and feature visualizations."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from opsin.commands.interpret.model_and_images import ModelAndImages, Output
from opsin.data.subset import evenly_spaced
from opsin.errors import UserError
from opsin.inference.trained_model import TrainedModel
from opsin.interpretability.activations import activations, dead_channels
from opsin.interpretability.eval_context import as_input, eval_context, stages_with_maps
from opsin.interpretability.feature_visualization import ascend, check_filters
from opsin.interpretability.kernels import first_kernels, kernel_pictures
from opsin.visualization.images import Pixels, colorize, grid

DEAD_CHANNEL_IMAGES = 256
"""Number of validation images for counting dead channels."""

MAX_CHANNELS = 64
"""Maximum number of channels shown per stage."""

SMALL_IMAGE = 64
"""Image side up to which gradient ascent starts at the input size; larger networks use several scales: see `ascend`."""


def kernel_grid(source: ModelAndImages) -> Iterator[Output]:
    """Show the kernels of the first convolution: on a common scale, and each on its own scale."""
    name, kernels = first_kernels(source.trained_model.network)
    count, inputs, height, width = kernels.shape
    title = f"{source.trained_model.network.name}: {count} kernels {height}x{width} of {name}"
    description = f"{title} on {inputs} channel{'s' * (inputs > 1)}"
    for suffix, own, scale in (("", False, "common scale"), ("_own_scale", True, "each on its own scale")):
        pictures = kernel_pictures(kernels, own_scale=own)
        lines = () if own else (description,)
        picture = grid(pictures, side=72, columns=8, captions=[str(i) for i in range(count)], title=f"{title}, {scale}")
        yield Output(f"kernels{suffix}", picture, lines)


def activation_pictures(source: ModelAndImages, stage: str | None, count: int) -> Iterator[Output]:
    """Show all activation maps of stages for one image, one channel for several images, and count dead channels."""
    network = source.trained_model.network
    batch = source.selected_images(count)
    images = source.input(batch.pixels)
    names = [stage] if stage else _stages(source, images)
    for name, maps in activations(network, images, names).items():
        shape = "x".join(map(str, maps.shape[1:]))
        yield Output(f"activations_{name}", _channels(batch.pixels[0], maps[0], f"{name}: {shape}"))
        channel = int(_contrast(maps).argmax())
        top = float(maps[:, channel].max())
        rows = [picture for i in range(len(images)) for picture in (batch.pixels[i], _map(maps[i, channel], top))]
        captions = [
            text
            for i in range(len(images))
            for text in (source.caption(batch, i), f"mean {maps[i, channel].mean():.2f}")
        ]
        title = f"{name}, channel {channel}, for {len(images)} image{'s' * (len(images) > 1)} (common scale)"
        yield Output(f"activations_{name}_one", grid(rows, columns=8, side=112, captions=captions, title=title))
    many = source.input(batch.pixels if source.files else source.validation(DEAD_CHANNEL_IMAGES).pixels)
    yield Output("dead", None, _dead_lines(dead_channels(network, many), len(many)))


def filter_pictures(
    source: ModelAndImages,
    stage: str | None,
    count: int,
    channels: Sequence[int] = (),
    steps: int | None = None,
    upscalings: int | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Iterator[Output]:
    """Make images that maximize the activation of some filters of all stages, or of one stage, layer or head step."""
    trained_model = source.trained_model
    names = [stage] if stage else _stages(source, _blank(trained_model))
    for name in names:
        width = _width(trained_model, name)
        chosen = list(channels) or evenly_spaced(width, count).tolist()
        recipe = _recipe(trained_model, name, steps, upscalings, size)
        found = ascend(
            trained_model.network,
            name,
            chosen,
            **recipe,
            seed=seed,
            mean=trained_model.preprocess.mean,
            std=trained_model.preprocess.std,
            channels_in=trained_model.source_channels,
        )
        rows, columns = found.pictures.shape[1:3]
        captions = [
            f"{_filter_name(source, name, channel, width)}\n{start:.2f} to {end:.2f}"
            for channel, start, end in zip(found.channels, found.start, found.end, strict=True)
        ]
        title = (
            f"{name}: feature visualization, {rows}x{columns}, {recipe['steps']} steps, "
            f"{recipe['upscalings']} upscalings"
        )
        side = min(max(rows, 112), 224)
        rose = sum(end > 2 * max(start, 0) for start, end in zip(found.start, found.end, strict=True))
        zero = sum(end == 0 for end in found.end)
        line = f"{name}: the activation of {rose} of {len(chosen)} filters more than doubled; {zero} stayed at zero"
        picture = grid(list(found.pictures), columns=4, side=side, captions=captions, title=title)
        yield Output(f"filters_{name}", picture, (line,))


def _recipe(
    trained_model: TrainedModel, name: str, steps: int | None, upscalings: int | None, size: int | None
) -> dict[str, Any]:
    """Choose gradient ascent at the input size of the network, or at several scales: see `ascend`."""
    own = trained_model.size
    small = max(own) <= SMALL_IMAGE or _in_head(trained_model, name)
    if upscalings is None:
        upscalings = 0 if small or size else math.ceil(math.log(max(own) / 56, 1.2))
    start = (size, size) if size else (56, 56) if upscalings and max(own) > SMALL_IMAGE else own
    return {"size": start, "upscalings": upscalings, "steps": (20 if upscalings else 100) if steps is None else steps}


def _in_head(trained_model: TrainedModel, name: str) -> bool:
    return name in trained_model.network.steps() and name not in trained_model.network.stages


def _filter_name(source: ModelAndImages, name: str, channel: int, width: int) -> str:
    """Return the class of a logit, and the number of any other filter; a single logit is that of class 1."""
    if name != list(source.trained_model.network.steps())[-1]:
        return str(channel)
    return source.label(1 if width == 1 else channel)


def _width(trained_model: TrainedModel, name: str) -> int:
    """Return the number of filters of a step or a layer."""
    network = trained_model.network
    if name not in network.steps():
        return activations(network, _blank(trained_model), [name])[name].shape[1]
    with eval_context(network) as still, torch.no_grad():
        images = as_input(still, _blank(trained_model))
        output = still.forward_features(images, name)
    check_filters(network, name, network.steps()[name], output, images)
    return output.shape[1]


def _blank(trained_model: TrainedModel) -> Tensor:
    return torch.zeros(1, trained_model.channels, *trained_model.size)


def _stages(source: ModelAndImages, images: Tensor) -> list[str]:
    network = source.trained_model.network
    with eval_context(network) as still:
        names = list(stages_with_maps(still, as_input(still, images[:1])))
    if not names:
        raise UserError(
            f"{network.name} has no stage whose output is a map; name a step of it, such as --stage head.fc"
        )
    return names


def _channels(image: Pixels, maps: Tensor, title: str) -> Pixels:
    """Show the image and its activation maps `(C, h, w)`, each scaled from 0 (or its minimum) to its maximum."""
    shown = maps[:MAX_CHANNELS]
    pictures = [image, *(_map(map_) for map_ in shown)]
    captions = ["the image", *(f"{i}{'' if bool(map_.any()) else ' zero'}" for i, map_ in enumerate(shown))]
    zero = int((maps.flatten(1).abs().amax(dim=1) == 0).sum())
    more = f", the first {MAX_CHANNELS} shown" if len(maps) > MAX_CHANNELS else ""
    return grid(pictures, columns=9, side=88, captions=captions, title=f"{title}; {zero} channels are zero{more}")


def _map(map_: Tensor, top: float | None = None) -> Pixels:
    low = min(0.0, float(map_.min()))
    high = float(map_.max()) if top is None else top
    return colorize(map_.numpy(), "viridis", low, high if high > low else low + 1)


def _contrast(maps: Tensor) -> Tensor:
    """Return the standard deviation of each channel over images and positions `(C,)`."""
    return maps.transpose(0, 1).flatten(1).std(dim=1)


def _dead_lines(found: dict[str, Any], images: int) -> list[str]:
    if not found:
        return ["no ReLU layer with maps was found, so dead channels are not counted (F.relu is not a layer)"]
    width = max(map(len, found))
    lines = [f"dead channels (zero everywhere on {images} image{'s' * (images > 1)}):"]
    for name, layer in found.items():
        which = (
            f": {', '.join(map(str, layer.channels[:12]))}{' ...' * (len(layer.channels) > 12)}"
            if layer.channels
            else ""
        )
        lines.append(f"  {name:{width}}  {len(layer.channels):4} of {layer.total}{which}")
    return lines
