"""The table of classic networks: parameters, multiply-adds and memory, counted here, and published accuracies."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from opsin.models.network import Network
from opsin.models.pretrained import timm, torchvision
from opsin.models.scratch.cnn import Kernels, cnn_gap, lenet5
from opsin.models.summary.layers import memory_of
from opsin.models.summary.model_summary import summarize, summarize_layers
from opsin.runs.result import StageSummary

LECUN = "99.05 % of MNIST ([LeCun et al. 1998](https://doi.org/10.1109/5.726791), without distortions)"
LITE = "([authors](https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite))"


@dataclass(frozen=True)
class ClassicNetwork:
    """A published network.

    Attributes:
        title: Its name and year.
        model: The config that trains it.
        build: The function that builds it.
        side: Side of the images in pixels.
        channels: Channels of the images.
        classes: Number of classes.
        accuracy: Published top-1 accuracy with its source; None for that of torchvision.
        options: Arguments that give the published network.
    """

    title: str
    model: str
    build: Callable[..., Network]
    side: int = 224
    channels: int = 3
    classes: int = 1000
    accuracy: str | None = None
    options: tuple[tuple[str, Any], ...] = (("head", "original"),)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of an image, `(C, H, W)`."""
        return (self.channels, self.side, self.side)

    @property
    def needs_data(self) -> bool:
        """Whether the function computes with the weights of the network."""
        return self.build.__module__ == timm.__name__


CLASSIC = (
    ClassicNetwork("LeNet-5, 1998", "lenet5", lenet5, 32, 1, 10, LECUN, ()),
    ClassicNetwork("AlexNet, 2012", "alexnet_full", torchvision.alexnet),
    ClassicNetwork("VGG16, 2014", "vgg16_full", torchvision.vgg16),
    ClassicNetwork("VGG19, 2014", "vgg19_partial", torchvision.vgg19),
    ClassicNetwork("GoogLeNet, 2014", "googlenet_feature_extract", torchvision.googlenet),
    ClassicNetwork("Inception-v3, 2015", "inception_v3_full", torchvision.inception_v3, 299),
    ClassicNetwork("ResNet18, 2015", "resnet18_partial", torchvision.resnet18),
    ClassicNetwork("ResNet50, 2015", "resnet50_two_phase", torchvision.resnet50),
    ClassicNetwork("ResNet101, 2015", "resnet101_feature_extract", torchvision.resnet101),
    ClassicNetwork("DenseNet121, 2016", "densenet121_feature_extract", torchvision.densenet121),
    ClassicNetwork("MobileNetV2, 2018", "mobilenet_v2_feature_extract", torchvision.mobilenet_v2),
    ClassicNetwork("EfficientNet-B0, 2019", "efficientnet_b0_feature_extract", torchvision.efficientnet_b0),
    ClassicNetwork(
        "EfficientNet-Lite0, 2020",
        "efficientnet_lite0_feature_extract",
        timm.efficientnet_lite0,
        accuracy=f"75.1 % {LITE}",
    ),
    ClassicNetwork(
        "EfficientNet-Lite1, 2020",
        "efficientnet_lite1_feature_extract",
        timm.efficientnet_lite1,
        240,
        accuracy=f"76.7 % {LITE}",
    ),
    ClassicNetwork(
        "EfficientNet-Lite2, 2020",
        "efficientnet_lite2_feature_extract",
        timm.efficientnet_lite2,
        260,
        accuracy=f"77.6 % {LITE}",
    ),
)

PAGE = """# Classic networks

The networks of lectures and papers, as published, with a head for the classes of ImageNet (1,000) or MNIST (10).
Parameters and multiply-adds are counted in the networks that Opsin builds; a multiply-add is one multiplication and one
addition in a convolution or dense layer. Memory is that of float32 values: the parameters, and the activations of one
image, which are the outputs of the layers with parameters. `opsin train model=...` trains the network with a head for
your classes.

{table}

An accuracy without a source is that of the weights `IMAGENET1K_V1` of
[torchvision](https://docs.pytorch.org/vision/stable/models.html), which `model.weights=imagenet` loads. [](results.md)
has the accuracies of the experiments that were run here.

## Kernels

Several small kernels replace a large one: they have the same receptive field and fewer weights, with a ReLU between
them. The table counts the weights of one input and one output channel, without bias:

{kernels}

`opsin summary model=cnn_kernels 'model.kernels=[7]' --image 1x64x64 --against 'model.kernels=[3,3,3]'` compares them;
`opsin train model=cnn_kernels 'model.kernels=[[1,3],[3,1]]'` trains such a network.

`opsin summary --classic --out docs/networks.md` writes this page. `opsin summary model=vgg16_full` prints the layers of
a network.
"""

KERNELS: tuple[tuple[str, Kernels, Kernels], ...] = (
    ("three 3x3 for one 7x7", (7,), (3, 3, 3)),
    ("two 3x3 for one 5x5", (5,), (3, 3)),
    ("1x3 and 3x1 for one 3x3", (3,), ((1, 3), (3, 1))),
)
"""Kernels that take the place of a larger one, which is first."""

HEADER = (
    "network",
    "`model=`",
    "input",
    "parameters",
    "multiply-adds",
    "parameters MB",
    "activations MB",
    "published accuracy",
    "`experiment=`",
)


KERNEL_HEADER = ("kernels", "weights of the large kernel", "of the small ones", "saved", "receptive fields (px)")


def classic_page(experiments: Mapping[str, Sequence[str]]) -> str:
    """Return the page of the table, as Markdown.

    Args:
        experiments: Names of the experiments that train a network, by the name of its function.
    """
    rows = [classic_row(entry, experiments.get(entry.build.__name__, ())) for entry in CLASSIC]
    kernels = [kernel_row(*entry) for entry in KERNELS]
    return PAGE.format(table=_markdown(HEADER, rows), kernels=_markdown(KERNEL_HEADER, kernels))


def kernel_row(title: str, large: Kernels, small: Kernels) -> tuple[str, ...]:
    """Return the row of kernels that take the place of a larger one, as Markdown."""
    before, after = (_block(kernels) for kernels in (large, small))
    saved = 1 - after.parameters / before.parameters
    pixels = f"{before.receptive_field}, {after.receptive_field}"
    return (title, str(before.parameters), str(after.parameters), f"{saved:.0%}".replace("%", " %"), pixels)


def _block(kernels: Kernels) -> StageSummary:
    network = cnn_gap(num_logits=1, in_channels=1, image_size=(28, 28), widths=(1,), kernels=kernels, bias=False)
    return summarize(network, (1, 28, 28)).rows[0]


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ("---",) * len(header), *rows])


def classic_row(entry: ClassicNetwork, experiments: Sequence[str]) -> tuple[str, ...]:
    """Return the row of a network as Markdown, with the names of the experiments that train it."""
    summary, layers = summarize_layers(built(entry), entry.input_shape)
    memory = memory_of(layers, entry.input_shape)
    return (
        entry.title,
        f"`{entry.model}`",
        "x".join(map(str, entry.input_shape)),
        f"{summary.parameters:,}",
        f"{summary.mult_adds / 1e6:,.2f} M" if summary.mult_adds < 1e7 else f"{summary.mult_adds / 1e6:,.0f} M",
        f"{memory.parameters:,.2f}",
        f"{memory.activations:,.2f}",
        entry.accuracy or f"{_torchvision_accuracy(entry.build.__name__):.1f} %",
        ", ".join(f"`{name}`" for name in experiments),
    )


def built(entry: ClassicNetwork) -> Network:
    """Return a published network; its tensors have no data, except those of timm, whose parts are compared."""
    with contextlib.nullcontext() if entry.needs_data else torch.device("meta"):
        return entry.build(
            num_logits=entry.classes,
            image_size=(entry.side, entry.side),
            in_channels=entry.channels,
            **dict(entry.options),
        )


def _torchvision_accuracy(name: str) -> float:
    """Return the ImageNet top-1 accuracy in percent that torchvision states."""
    from torchvision.models import get_model_weights

    return float(get_model_weights(name).IMAGENET1K_V1.meta["_metrics"]["ImageNet-1K"]["acc@1"])
