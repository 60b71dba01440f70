"""Networks of torchvision as named stages, with ImageNet weights to load.

Each network is one declaration: its division into stages and its description. All are RGB networks: gray images
are repeated to three channels first; for other numbers of channels, the first layer is adapted.

The weights are the first version in torchvision (IMAGENET1K_V1). The second version of ResNet and MobileNetV2 has a
higher ImageNet accuracy, but is trained with label smoothing, Mixup and CutMix, and features from such losses
transfer worse (Kornblith et al., "Why do better loss functions lead to less transferable features?",
arXiv:2010.16402). The facts are read from torchvision when a network is built, not at import.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from opsin.models.auxiliary_head import Auxiliary
from opsin.models.input_channels import take_channels
from opsin.models.network import Network, Rate, Width, sequential
from opsin.models.pretrained.heads import HEAD_ARGUMENTS, Backbone, Head, HeadKind
from opsin.models.pretrained.regroup import NetworkParts, regroup, submodules
from opsin.models.pretrained.torchvision_parts import (
    ToParts,
    densenet_parts,
    googlenet_parts,
    plain_parts,
    resnet_parts,
    sequence_parts,
)
from opsin.models.shapes import feature_shape
from opsin.models.weights import KINDS, HubFile, OwnFile, Weights, known_weights

Build = Callable[[Head, int], nn.Module]
"""Build a network of torchvision for a head and a number of logits."""

GOOGLE_MEAN = GOOGLE_STD = (0.5, 0.5, 0.5)
"""Normalization of the weights of Google, for pixels in [-1, 1]. torchvision normalizes with other values and converts
back (`transform_input`)."""


def _backbone(name: str, to_parts: ToParts, description: str, build: Build | None = None, **facts: Any) -> Backbone:
    """Return a network function for a network of torchvision, and register its weights.

    Args:
        name: The name of the network in torchvision and in Opsin.
        to_parts: Function from the network of torchvision to its parts.
        description: The docstring of the function.
        build: Function that builds the network; None for `torchvision.models.get_model`.
        **facts: Facts of the weights that differ from those of torchvision.
    """

    def function(
        *,
        num_logits: int,
        image_size: tuple[int, int],
        in_channels: int = 3,
        head: HeadKind = "linear",
        head_units: Width = 256,
        head_dropout: Rate = 0.5,
    ) -> Network:
        from torchvision.models import get_model

        chosen = Head(head, head_units, head_dropout)
        original = build(chosen, num_logits) if build else get_model(name, weights=None, num_classes=num_logits)
        take_channels(original, in_channels)
        return regroup(
            name,
            original,
            to_parts(original, chosen),
            chosen,
            num_logits=num_logits,
            image_size=image_size,
            in_channels=in_channels,
            pretrained=known_weights(name),
        )

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{description}\n{HEAD_ARGUMENTS}"
    KINDS["imagenet"][name] = lambda **_: _imagenet_facts(name, **facts)
    return function


def _imagenet_facts(name: str, **other: Any) -> Weights:
    from torchvision.models import get_model_weights

    entry = get_model_weights(name).IMAGENET1K_V1
    preset = entry.transforms()
    facts: dict[str, Any] = {
        "name": f"{entry} of torchvision",
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "size": tuple(preset.crop_size * 2),
        "interpolation": preset.interpolation.value,
        "source": HubFile(entry.url),
    }
    return Weights(**(facts | other))


def _vgg(name: str, layers: str) -> Build:
    """Return a function that builds VGG with the dense layers of 4,096 units only if the head needs them.

    They have 119 million parameters, whose random values take seconds.
    """

    def build(head: Head, num_logits: int) -> nn.Module:
        from torchvision.models import get_model, vgg

        if head.kind == "original":
            original: nn.Module = get_model(name, weights=None, num_classes=num_logits)
            return original
        features = vgg.make_layers(vgg.cfgs[layers])
        for module in features.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:  # as in torchvision
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        return sequential(features=features)

    return build


def _build_googlenet(_: Head, num_logits: int) -> nn.Module:
    """Build GoogLeNet without its auxiliary heads, which train the early stages in the paper."""
    from torchvision.models import googlenet

    original: nn.Module = googlenet(
        weights=None, num_classes=num_logits, aux_logits=False, transform_input=False, init_weights=True
    )
    return original


resnet18 = _backbone(
    "resnet18", resnet_parts, "ResNet18 (He et al., arXiv:1512.03385); 11,176,512 parameters in its stages."
)
resnet34 = _backbone(
    "resnet34", resnet_parts, "ResNet34 (He et al., arXiv:1512.03385); 21,284,672 parameters in its stages."
)
resnet50 = _backbone(
    "resnet50", resnet_parts, "ResNet50 (He et al., arXiv:1512.03385); 23,508,032 parameters in its stages."
)
resnet101 = _backbone(
    "resnet101", resnet_parts, "ResNet101 (He et al., arXiv:1512.03385); 42,500,160 parameters in its stages."
)
alexnet = _backbone(
    "alexnet",
    plain_parts("conv", 3, 6, 8, 10),
    """AlexNet (Krizhevsky et al., 2012; one path as in arXiv:1404.5997); 2,469,696 parameters in its stages.

    `head: original` has two dense layers of 4,096 units on 256x6x6 features: 58,631,144 parameters with 1,000 logits.
    `head: dense` reads all pixels of the last stage, `head: linear` their average.
    """,
)
vgg16 = _backbone(
    "vgg16",
    plain_parts("block", 5, 10, 17, 24),
    """VGG16 (Simonyan and Zisserman, arXiv:1409.1556); 14,714,688 parameters in its stages.

    `head: linear` averages the last block over the image (513 parameters with one logit). `head: dense` flattens it:
    512x4x4 at 150x150 pixels, where the dense layer of 256 and one logit have 2,097,665 parameters. `head: original`
    has the two dense layers of 4,096 units of the paper: 123,642,856 parameters with 1,000 logits.
    """,
    _vgg("vgg16", "D"),
)
vgg19 = _backbone(
    "vgg19",
    plain_parts("block", 5, 10, 19, 28),
    "VGG19 (arXiv:1409.1556) with the heads of `vgg16`; 20,024,384 parameters in its stages.",
    _vgg("vgg19", "E"),
)
densenet121 = _backbone(
    "densenet121",
    densenet_parts,
    """DenseNet121 (Huang et al., arXiv:1608.06993); 6,953,856 parameters in its stages.

    A stage after the first dense block begins with the transition that halves the map.
    """,
)
googlenet = _backbone(
    "googlenet",
    googlenet_parts,
    "GoogLeNet (Szegedy et al., arXiv:1409.4842) with BatchNorm and without auxiliary heads; 5,599,904 parameters "
    "in its stages.",
    _build_googlenet,
    mean=GOOGLE_MEAN,
    std=GOOGLE_STD,
)
mobilenet_v2 = _backbone(
    "mobilenet_v2",
    sequence_parts(1, 2, 4, 7, 11, 14, 17, 18),
    "MobileNetV2 (Sandler et al., arXiv:1801.04381); 2,223,872 parameters in its stages, one for each width.",
)
efficientnet_b0 = _backbone(
    "efficientnet_b0",
    sequence_parts(1, 2, 3, 4, 5, 6, 7, 8),
    "EfficientNet-B0 (Tan and Le, arXiv:1905.11946); 4,007,548 parameters in its stages.",
)
convnext_tiny = _backbone(
    "convnext_tiny",
    sequence_parts(1, 2, 4, 6, head_conv=False),
    """ConvNeXt-T (Liu et al., arXiv:2201.03545); 27,818,592 parameters in its stages.

    Each stage after the first begins with its downsampling. The norm of 1,536 parameters between pooling and logits
    is part of the head; its pretrained weights are loaded although the logits are new.
    """,
)

KINDS["opsin"]["resnet18"] = lambda **_: Weights(
    name="ResNet18 of Opsin, trained on CIFAR-10 with EfficientNet-Lite0 as teacher",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    size=(64, 64),
    interpolation="bilinear",
    source=OwnFile("resnet18.safetensors"),
)


def inception_v3(
    *,
    num_logits: int,
    image_size: tuple[int, int],
    in_channels: int = 3,
    head: HeadKind = "linear",
    head_units: Width = 256,
    head_dropout: Rate = 0.5,
    auxiliary: bool = True,
    auxiliary_weight: Annotated[float, Field(gt=0)] = 0.4,
) -> Network:
    """Inception-v3 (Szegedy et al., arXiv:1512.00567); 21,785,568 parameters in its stages.

    The auxiliary head reads `mixed_6e` in training, and its loss is added with a weight of 0.4, as in the recipes of
    torchvision and TensorFlow. It trains only if `mixed_6e` or a stage before it trains.

    Args:
        num_logits: Number of outputs of the head and the auxiliary head.
        image_size: (height, width) in pixels: 75 or more, with an auxiliary head 299 or more.
        in_channels: Channels of the images.
        head: See `Head`.
        head_units: See `Head`.
        head_dropout: See `Head`.
        auxiliary: Whether to add the auxiliary head.
        auxiliary_weight: Weight of its loss.

    Raises:
        UserError: The images are too small for the layers.
    """
    from torchvision.models import inception_v3 as build

    original: Any = build(
        weights=None, num_classes=num_logits, aux_logits=auxiliary, transform_input=False, init_weights=True
    )
    take_channels(original, in_channels)
    names = [name for name, _ in original.named_children()]
    first, pool = names.index("Mixed_5b"), names.index("avgpool")
    mixed = [name for name in names[first:pool] if name != "AuxLogits"]
    stages = {
        "stem": submodules(original, *names[:first]),
        **{name.lower(): original.get_submodule(name) for name in mixed},
    }
    neck = {"pool": original.avgpool, "flatten": nn.Flatten()}
    second = Auxiliary(original.AuxLogits, after="mixed_6e", weight=auxiliary_weight) if auxiliary else None
    chosen = Head(head, head_units, head_dropout)
    network = regroup(
        "inception_v3",
        original,
        NetworkParts(stages, neck, original.fc, {"dropout": original.dropout}),
        chosen,
        num_logits=num_logits,
        image_size=image_size,
        in_channels=in_channels,
        auxiliary=second,
        pretrained=known_weights("inception_v3"),
    )
    if second is not None:
        until = list(stages)[: list(stages).index(second.after) + 1]
        named = "inception_v3 with an auxiliary head (model.auxiliary=false removes it)"
        feature_shape(
            named, {**{name: stages[name] for name in until}, "auxiliary": second.head}, in_channels, image_size
        )
    return network


KINDS["imagenet"]["inception_v3"] = lambda **_: _imagenet_facts("inception_v3", mean=GOOGLE_MEAN, std=GOOGLE_STD)
