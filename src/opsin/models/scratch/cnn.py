"""Networks that are trained from scratch: dense, LeNet and plain convolutional networks.

"Conv 32-64" means convolutions of 32 and then 64 channels, each of 3x3 pixels and followed by ReLU. They are not padded
unless this is stated.

Every function takes `num_logits`, `in_channels` and `image_size` ((height, width) in pixels), and raises
`UserError` for images that are too small for its layers. Layers have the default initialization of PyTorch.
"""

from math import prod
from typing import Annotated

from pydantic import Field
from torch import nn

from opsin.models.network import Network, Rate, Width, sequential
from opsin.models.shapes import feature_shape

Widths = Annotated[tuple[Width, ...], Field(min_length=1)]
"""Numbers of channels."""

Kernel = Width | tuple[Width, Width]
"""Side of a square kernel, or its (height, width)."""

Kernels = Annotated[tuple[Kernel, ...], Field(min_length=1)]
"""Kernels of consecutive convolutions."""


def mlp(*, num_logits: int, in_channels: int, image_size: tuple[int, int], hidden: Width = 128) -> Network:
    """Dense baseline: one hidden layer with ReLU; 101,770 parameters at 1x28x28 with ten logits.

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.
        hidden: Units of the hidden layer.
    """
    height, width = image_size
    stages = {
        "hidden": sequential(flatten=nn.Flatten(), fc=nn.Linear(in_channels * height * width, hidden), relu=nn.ReLU())
    }
    return Network("mlp", stages, nn.Linear(hidden, num_logits))


def cnn_flatten(*, num_logits: int, in_channels: int, image_size: tuple[int, int], hidden: Width = 64) -> Network:
    """Conv 32-64-64, flattened into a dense layer; 93,322 parameters at 1x28x28 with ten logits.

    Each convolution has kernels of 3x3 pixels and is followed by ReLU. Max-pooling of 2x2 follows each of the first two
    convolutions.

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.
        hidden: Units of the dense layer.
    """
    stages = _digit_stages(in_channels)
    features = prod(feature_shape("cnn_flatten", stages, in_channels, image_size))
    head = sequential(
        flatten=nn.Flatten(),
        fc1=nn.Linear(features, hidden),
        relu=nn.ReLU(),
        fc2=nn.Linear(hidden, num_logits),
    )
    return Network("cnn_flatten", stages, head)


def cnn_gap(
    *,
    num_logits: int,
    in_channels: int,
    image_size: tuple[int, int],
    widths: Widths = (32, 64, 64),
    kernels: Kernels = (3,),
    bias: bool = True,
) -> Network:
    """Conv 32-64-64, averaged over the image; 56,394 parameters with one channel and ten logits.

    Each convolution has kernels of 3x3 pixels and is followed by ReLU. Max-pooling of 2x2 follows each block but the
    last.

    Several kernels can take the place of one: three of 3x3 cover the area of one of 7x7, with 27 weights instead of 49,
    and 1x3 with 3x1 cover the area of 3x3, with 6 instead of 9 (Szegedy et al., arXiv:1512.00567).

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.
        widths: Channels of each block; max-pooling follows each block but the last.
        kernels: The convolutions of each block in order, by their kernel: the side of a square, or [height, width].
        bias: Whether convolutions have a bias.
    """
    stages = _digit_stages(in_channels, widths, kernels, bias)
    channels = feature_shape("cnn_gap", stages, in_channels, image_size)[0]
    head = sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_logits))
    return Network("cnn_gap", stages, head)


def _digit_stages(
    in_channels: int, widths: Widths = (32, 64, 64), kernels: Kernels = (3,), bias: bool = True
) -> dict[str, nn.Module]:
    """Return blocks of convolutions with ReLU, with max-pooling at the end of each block but the last."""
    stages: dict[str, nn.Module] = {}
    sizes = [(kernel, kernel) if isinstance(kernel, int) else (kernel[0], kernel[1]) for kernel in kernels]
    channels = in_channels
    for number, width in enumerate(widths, start=1):
        layers: dict[str, nn.Module] = {}
        for index, size in enumerate(sizes, start=1):
            suffix = str(index) if len(sizes) > 1 else ""
            layers |= {f"conv{suffix}": nn.Conv2d(channels, width, size, bias=bias), f"relu{suffix}": nn.ReLU()}
            channels = width
        if number < len(widths):
            layers["pool"] = nn.MaxPool2d(2)
        stages[f"block{number}"] = sequential(**layers)
    return stages


def simple_cnn(
    *,
    num_logits: int,
    in_channels: int,
    image_size: tuple[int, int],
    hidden: Width = 128,
    dropout: Rate = 0.5,
) -> Network:
    """Padded conv 32-64, dense 128 with dropout; 421,642 parameters at 1x28x28 with ten logits.

    Each convolution has kernels of 3x3 pixels and is followed by ReLU. Max-pooling of 2x2 follows each convolution.

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.
        hidden: Units of the dense layer.
        dropout: Dropout probability after the dense layer.
    """
    stages = {
        "block1": _conv(in_channels, 32, padding=1, pool=nn.MaxPool2d(2)),
        "block2": _conv(32, 64, padding=1, pool=nn.MaxPool2d(2)),
    }
    features = prod(feature_shape("simple_cnn", stages, in_channels, image_size))
    head = sequential(
        flatten=nn.Flatten(),
        fc1=nn.Linear(features, hidden),
        relu=nn.ReLU(),
        dropout=nn.Dropout(dropout),
        fc2=nn.Linear(hidden, num_logits),
    )
    return Network("simple_cnn", stages, head)


def lenet5(*, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """The network of LeCun et al. (1998) with tanh and average pooling; 61,706 parameters at 1x32x32 with ten logits.

    Two unpadded convolutions of 6 and 16 channels with kernels of 5x5 pixels, each followed by 2x2 pooling, and dense
    layers of 120 and 84 units.

    LeCun et al. 1998, "Gradient-based learning applied to document recognition". Differences: the second convolution
    has all connections, and a dense layer replaces the radial basis functions.
    """
    return _lenet("lenet5", nn.Tanh, nn.AvgPool2d, num_logits, in_channels, image_size)


def lenet_relu(*, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """LeNet-5 with ReLU and 2x2 max-pooling; 61,706 parameters at 1x32x32 with ten logits."""
    return _lenet("lenet_relu", nn.ReLU, nn.MaxPool2d, num_logits, in_channels, image_size)


def _lenet(
    name: str,
    activation: type[nn.Tanh] | type[nn.ReLU],
    pool: type[nn.AvgPool2d] | type[nn.MaxPool2d],
    num_logits: int,
    in_channels: int,
    image_size: tuple[int, int],
) -> Network:
    stages = {
        "block1": sequential(conv=nn.Conv2d(in_channels, 6, 5), activation=activation(), pool=pool(2)),
        "block2": sequential(conv=nn.Conv2d(6, 16, 5), activation=activation(), pool=pool(2)),
    }
    features = prod(feature_shape(name, stages, in_channels, image_size))
    head = sequential(
        flatten=nn.Flatten(),
        fc1=nn.Linear(features, 120),
        activation1=activation(),
        fc2=nn.Linear(120, 84),
        activation2=activation(),
        fc3=nn.Linear(84, num_logits),
    )
    return Network(name, stages, head)


def cnn_plain(*, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """Padded conv 32-64 and a dense layer; 60,362 parameters at 3x32x32 with ten logits.

    Each convolution has kernels of 3x3 pixels and is followed by ReLU. Max-pooling of 2x2 follows each convolution.
    """
    return _two_blocks("cnn_plain", False, num_logits, in_channels, image_size)


def cnn_batchnorm(*, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """`cnn_plain` with BatchNorm before each ReLU; 60,554 parameters at 3x32x32 with ten logits."""
    return _two_blocks("cnn_batchnorm", True, num_logits, in_channels, image_size)


def _two_blocks(name: str, batchnorm: bool, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    stages = {
        "block1": _conv(in_channels, 32, padding=1, batchnorm=batchnorm, pool=nn.MaxPool2d(2)),
        "block2": _conv(32, 64, padding=1, batchnorm=batchnorm, pool=nn.MaxPool2d(2)),
    }
    features = prod(feature_shape(name, stages, in_channels, image_size))
    return Network(name, stages, sequential(flatten=nn.Flatten(), fc=nn.Linear(features, num_logits)))


def cnn_deep(
    *,
    num_logits: int,
    in_channels: int,
    image_size: tuple[int, int],
    dropout: Rate = 0.25,
    head_dropout: Rate = 0.5,
) -> Network:
    """Three double blocks 32-64-128 with BatchNorm; 815,530 parameters at 3x32x32 with ten logits.

    Each block has two padded convolutions with kernels of 3x3 pixels, BatchNorm and ReLU, then 2x2 max-pooling and
    dropout. The head has a dense layer of 256 units. The original exercise adds an L2 penalty of 1e-4 on all weights:
    the `weight_decay` of the optimizer.

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.
        dropout: Dropout probability after each block.
        head_dropout: Dropout probability after the dense layer.
    """
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number, width in enumerate((32, 64, 128), start=1):
        stages[f"block{number}"] = sequential(
            conv1=_conv(channels, width, padding=1, batchnorm=True),
            conv2=_conv(width, width, padding=1, batchnorm=True),
            pool=nn.MaxPool2d(2),
            dropout=nn.Dropout(dropout),
        )
        channels = width
    features = prod(feature_shape("cnn_deep", stages, in_channels, image_size))
    head = sequential(
        flatten=nn.Flatten(),
        fc1=nn.Linear(features, 256),
        norm=nn.BatchNorm1d(256),
        relu=nn.ReLU(),
        dropout=nn.Dropout(head_dropout),
        fc2=nn.Linear(256, num_logits),
    )
    return Network("cnn_deep", stages, head)


def cats_dogs_cnn(
    *,
    num_logits: int,
    in_channels: int,
    image_size: tuple[int, int],
    hidden: Width = 512,
    dropout: Rate = 0.0,
) -> Network:
    """Conv 32-64-128-128 averaged over the image, dense 512; 307,393 parameters at 3x150x150, one logit.

    Each convolution has kernels of 3x3 pixels and is followed by ReLU. Max-pooling of 2x2 follows each convolution. The
    original exercise adds `dropout` 0.5 before the last layer in its regularized version.

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.
        hidden: Units of the dense layer.
        dropout: Dropout probability before the last layer.
    """
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number, width in enumerate((32, 64, 128, 128), start=1):
        stages[f"block{number}"] = _conv(channels, width, pool=nn.MaxPool2d(2))
        channels = width
    feature_shape("cats_dogs_cnn", stages, in_channels, image_size)
    head = sequential(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc1=nn.Linear(channels, hidden),
        relu=nn.ReLU(),
        dropout=nn.Dropout(dropout),
        fc2=nn.Linear(hidden, num_logits),
    )
    return Network("cats_dogs_cnn", stages, head)


def _conv(
    in_channels: int,
    out_channels: int,
    *,
    padding: int = 0,
    batchnorm: bool = False,
    pool: nn.Module | None = None,
) -> nn.Sequential:
    """Return a 3x3 convolution, BatchNorm if requested, ReLU, and pooling if given."""
    layers: dict[str, nn.Module] = {"conv": nn.Conv2d(in_channels, out_channels, 3, padding=padding)}
    if batchnorm:
        layers["norm"] = nn.BatchNorm2d(out_channels)
    layers["relu"] = nn.ReLU()
    if pool is not None:
        layers["pool"] = pool
    return sequential(**layers)
