"""Division of the networks of torchvision into named stages, the layers between them and the logits, and the logits."""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn

from opsin.models.network import sequential
from opsin.models.pretrained.heads import Head
from opsin.models.pretrained.regroup import NetworkParts, submodules

ToParts = Callable[[Any, Head], NetworkParts]
"""Return the parts of a network of torchvision for a head."""


def resnet_parts(original: Any, _: Head) -> NetworkParts:
    """Divide into the stem and the four layers."""
    layers = ("layer1", "layer2", "layer3", "layer4")
    stages = {"stem": submodules(original, "conv1", "bn1", "relu", "maxpool")}
    stages |= {name: original.get_submodule(name) for name in layers}
    return NetworkParts(stages, {"pool": original.avgpool, "flatten": nn.Flatten()}, original.fc)


def densenet_parts(original: Any, _: Head) -> NetworkParts:
    """Divide before each dense block; a stage after the first block begins with the transition that halves the map."""
    layers = dict(original.features.named_children())
    names = list(layers)
    blocks = [name for name in names if name.startswith("denseblock")]
    begins = [names.index(blocks[0]), *(names.index(name) - 1 for name in blocks[1:])]
    stages = {
        stage: sequential(**{name: layers[name] for name in names[begin:end]})
        for stage, begin, end in zip(["stem", *blocks], [0, *begins], [*begins, len(names)], strict=True)
    }
    stages[blocks[-1]].add_module("relu", nn.ReLU())  # a function in torchvision
    return NetworkParts(stages, {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}, original.classifier)


def googlenet_parts(original: Any, _: Head) -> NetworkParts:
    """Divide before each Inception module; the pooling layers belong to the stage that follows."""
    names = [name for name, _ in original.named_children()]
    names = names[: names.index("avgpool")]
    begins = [index for index, name in enumerate(names) if name.startswith("inception")]
    begins = [index - (names[index - 1].startswith("maxpool") and index != begins[0]) for index in begins]
    stages = {}
    for begin, end in itertools.pairwise([0, *begins, len(names)]):
        stages[names[end - 1] if begin else "stem"] = submodules(original, *names[begin:end])
    neck = {"pool": original.avgpool, "flatten": nn.Flatten()}
    return NetworkParts(stages, neck, original.fc, {"dropout": original.dropout})


def plain_parts(kind: str, *begins: int) -> ToParts:
    """Return a function that splits the convolutions of AlexNet or VGG before the layers with these indices.

    The dense head reads all pixels of the last stage, as in the lectures.

    Args:
        kind: Name of the stages, which are numbered.
        *begins: The first layer of each stage after the first.
    """

    def to_parts(original: Any, head: Head) -> NetworkParts:
        stages = {
            f"{kind}{number}": original.features[begin:end]
            for number, (begin, end) in enumerate(itertools.pairwise([0, *begins, len(original.features)]), start=1)
        }
        if head.kind != "original":
            pool = {} if head.kind == "dense" else {"pool": nn.AdaptiveAvgPool2d(1)}
            return NetworkParts(stages, {**pool, "flatten": nn.Flatten()})
        neck = {"pool": original.avgpool, "flatten": nn.Flatten()}
        return NetworkParts(stages, neck, original.classifier[-1], _dense_layers(original.classifier[:-1]))

    return to_parts


def _dense_layers(layers: nn.Sequential) -> dict[str, nn.Module]:
    """Return the dense layers of AlexNet or VGG by name: fc1, relu1, dropout1, fc2, ..."""
    nouns = {nn.Linear: "fc", nn.ReLU: "relu", nn.Dropout: "dropout"}
    counts = Counter[str]()
    named: dict[str, nn.Module] = {}
    for layer in layers:
        noun = nouns[type(layer)]
        counts[noun] += 1
        named[f"{noun}{counts[noun]}"] = layer
    return named


def sequence_parts(*begins: int, head_conv: bool = True) -> ToParts:
    """Return a function that splits a single sequence of layers before the layers with these indices."""

    def to_parts(original: Any, _: Head) -> NetworkParts:
        ends = [*begins, len(original.features)]
        names = ["stem", *(f"stage{number}" for number in range(1, len(ends)))]
        if head_conv:
            names[-1] = "head_conv"
        begin_of = [0, *begins]
        stages = {name: original.features[a:b] for name, a, b in zip(names, begin_of, ends, strict=True)}
        *norm, linear = [layer for layer in original.classifier if not isinstance(layer, nn.Dropout | nn.Flatten)]
        neck = {"pool": nn.AdaptiveAvgPool2d(1)} | ({"norm": norm[0]} if norm else {}) | {"flatten": nn.Flatten()}
        dropouts = [layer for layer in original.classifier if isinstance(layer, nn.Dropout)]
        return NetworkParts(stages, neck, linear, {"dropout": dropouts[0]} if dropouts else {})

    return to_parts
