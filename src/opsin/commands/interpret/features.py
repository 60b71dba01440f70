"""Pictures of kernels, activations and filters."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsin.commands.interpret.subject import Finding, Subjects
from opsin.inference.trained_model import TrainedModel
from opsin.interpretability.activations import activations, dead_channels
from opsin.interpretability.feature_visualization import ascend
from opsin.interpretability.kernels import first_kernels, kernel_pictures
from opsin.visualization.images import Pixels, colored, grid

MANY = 256
"""Validation images by which dead channels are counted."""

MAPS = 64
"""Channels of a stage that are shown, at most."""

SMALL = 64
"""Networks of smaller images get the lectures' first recipe, others the second: see `ascend`."""


def kernel_grid(subject: Subjects) -> Iterator[Finding]:
    """The first convolution's kernels: on a common scale, and each on its own."""
    name, kernels = first_kernels(subject.learned.network)
    count, inputs, height, width = kernels.shape
    title = f"{subject.learned.network.name}: {count} kernels {height}x{width} of {name}"
    seen = f"{title} on {inputs} channel{'s' * (inputs > 1)}"
    for suffix, own, scale in (("", False, "common scale"), ("_own_scale", True, "each on its own scale")):
        pictures = kernel_pictures(kernels, own_scale=own)
        lines = () if own else (seen,)
        picture = grid(pictures, side=72, columns=8, captions=[str(i) for i in range(count)], title=f"{title}, {scale}")
        yield Finding(f"kernels{suffix}", picture, lines)


def activation_pictures(subject: Subjects, stage: str | None, count: int) -> Iterator[Finding]:
    """What stages make of an image, channel by channel; one channel on several images; dead channels counted."""
    network = subject.learned.network
    looked = subject.looked(count)
    images = subject.input(looked.pixels)
    names = [stage] if stage else _stages(subject, images)
    for name, maps in activations(network, images, names).items():
        shape = "x".join(map(str, maps.shape[1:]))
        yield Finding(f"activations_{name}", _channels(looked.pixels[0], maps[0], f"{name}: {shape}"))
        channel = int(_contrast(maps).argmax())
        top = float(maps[:, channel].max())
        rows = [picture for i in range(len(images)) for picture in (looked.pixels[i], _map(maps[i, channel], top))]
        captions = [
            text
            for i in range(len(images))
            for text in (subject.caption(looked, i), f"mean {maps[i, channel].mean():.2f}")
        ]
        title = f"{name}, channel {channel}, on {len(images)} images (one scale)"
        yield Finding(f"activations_{name}_one", grid(rows, columns=8, side=112, captions=captions, title=title))
    many = subject.input(looked.pixels if subject.files else subject.validation(MANY).pixels)
    yield Finding("dead", None, _dead_lines(dead_channels(network, many), len(many)))


def filter_pictures(
    subject: Subjects,
    stage: str | None,
    count: int,
    channels: Sequence[int] = (),
    steps: int | None = None,
    upscalings: int | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Iterator[Finding]:
    """Pictures that raise the activation of some filters of every stage, or of one stage, layer or part of the head."""
    learned = subject.learned
    names = [stage] if stage else _stages(subject, _blank(learned))
    for name in names:
        chosen = list(channels) or _spread(learned, name, count)
        recipe = _recipe(learned, name, steps, upscalings, size)
        found = ascend(
            learned.network,
            name,
            chosen,
            **recipe,
            seed=seed,
            mean=learned.preprocess.mean,
            std=learned.preprocess.std,
            channels_in=learned.source_channels,
        )
        in_head = _in_head(learned, name)
        height, width = found.pictures.shape[1:3]
        captions = [
            f"{subject.label(channel) if in_head else channel}\n{start:.2f} to {end:.2f}"
            for channel, start, end in zip(found.channels, found.start, found.end, strict=True)
        ]
        title = f"{name}: what raises it, {height}x{width}, {recipe['steps']} steps, {recipe['upscalings']} upscalings"
        side = max(height, 112) if height < 112 else min(height, 224)
        risen = sum(end > 2 * max(start, 0) and end > 0.5 for start, end in zip(found.start, found.end, strict=True))
        line = f"{name}: {risen} of {len(chosen)} filters more than doubled; {_silent(found.end)} stayed silent"
        picture = grid(list(found.pictures), columns=4, side=side, captions=captions, title=title)
        yield Finding(f"filters_{name}", picture, (line,))


def _recipe(
    learned: TrainedModel, name: str, steps: int | None, upscalings: int | None, size: int | None
) -> dict[str, Any]:
    """Fine patterns at the network's own size, or coarse ones first: see `ascend`."""
    own = learned.size
    small = max(own) <= SMALL or _in_head(learned, name)
    if upscalings is None:
        upscalings = 0 if small or size else math.ceil(math.log(max(own) / 56, 1.2))
    start = (size, size) if size else (56, 56) if upscalings and max(own) > SMALL else own
    return {"size": start, "upscalings": upscalings, "steps": (20 if upscalings else 100) if steps is None else steps}


def _silent(ends: Sequence[float]) -> str:
    silent = sum(end == 0 for end in ends)
    return str(silent) if silent else "none"


def _in_head(learned: TrainedModel, name: str) -> bool:
    return name in learned.network.steps() and name not in learned.network.stages


def _spread(learned: TrainedModel, name: str, count: int) -> list[int]:
    """Filters evenly among all of a step; all of few classes."""
    network = learned.network
    if _in_head(learned, name):
        with torch.no_grad():
            width = network.eval()(_blank(learned).to(next(network.parameters()).device)).shape[1]
    else:
        width = activations(network, _blank(learned), [name])[name].shape[1]
    return sorted({round(place) for place in np.linspace(0, width - 1, min(count, width)).tolist()})


def _blank(learned: TrainedModel) -> Tensor:
    return torch.zeros(1, learned.channels, *learned.size)


def _stages(subject: Subjects, images: Tensor) -> list[str]:
    maps = activations(subject.learned.network, images[:1])
    return [name for name in subject.learned.network.stages if name in maps]


def _channels(image: Pixels, maps: Tensor, title: str) -> Pixels:
    """The image, then the maps of its channels `(C, h, w)`, each from 0 (or its least) to its largest value."""
    shown = maps[:MAPS]
    pictures = [image, *(_map(map_) for map_ in shown)]
    captions = ["the image", *(f"{i}{'' if bool(map_.any()) else ' empty'}" for i, map_ in enumerate(shown))]
    empty = int((maps.flatten(1).abs().amax(dim=1) == 0).sum())
    more = f", the first {MAPS} shown" if len(maps) > MAPS else ""
    return grid(pictures, columns=9, side=88, captions=captions, title=f"{title}; {empty} channels empty here{more}")


def _map(map_: Tensor, top: float | None = None) -> Pixels:
    low = min(0.0, float(map_.min()))
    high = float(map_.max()) if top is None else top
    return colored(map_.numpy(), "viridis", low, high if high > low else low + 1)


def _contrast(maps: Tensor) -> Tensor:
    """How much a channel tells images apart and places in them `(C,)`."""
    return maps.transpose(0, 1).flatten(1).std(dim=1)


def _dead_lines(found: dict[str, Any], images: int) -> list[str]:
    if not found:
        return ["no ReLU, so no channel can die"]
    width = max(map(len, found))
    lines = [f"channels that are zero everywhere, on {images} image{'s' * (images > 1)}:"]
    for name, layer in found.items():
        which = (
            f": {', '.join(map(str, layer.channels[:12]))}{' ...' * (len(layer.channels) > 12)}"
            if layer.channels
            else ""
        )
        lines.append(f"  {name:{width}}  {len(layer.channels):4} of {layer.total}{which}")
    return lines
