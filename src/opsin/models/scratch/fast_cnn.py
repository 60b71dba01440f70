"""Networks for a short time to accuracy: few layers, BatchNorm after every convolution, maximum over the image."""

from typing import Annotated

from pydantic import Field
from torch import nn

from opsin.models.network import Network, Width, sequential
from opsin.models.shapes import feature_shape

Widths = Annotated[tuple[Width, Width, Width], Field()]
"""The channels of three blocks."""


def cnn_strided_stem(
    *, num_logits: int, in_channels: int, image_size: tuple[int, int], widths: Widths = (16, 48, 128)
) -> Network:
    """Conv 5x5 with stride 2 and two conv 3x3; 64,282 parameters with one channel and ten logits.

    The stride of the first layer leaves a fifth of the pixels for all others. The maximum over the image follows the
    last layer, so any size of at least 19 pixels is possible.

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.
        widths: Channels of the three convolutions.
    """
    stem, middle, last = widths
    stages = {
        "stem": sequential(
            conv=nn.Conv2d(in_channels, stem, 5, stride=2, bias=False),
            norm=nn.BatchNorm2d(stem),
            relu=nn.ReLU(),
        ),
        "block1": sequential(
            conv=nn.Conv2d(stem, middle, 3, bias=False),
            pool=nn.MaxPool2d(2),  # before the other layers, which then have a quarter of the work
            norm=nn.BatchNorm2d(middle),
            relu=nn.ReLU(),
        ),
        "block2": sequential(conv=nn.Conv2d(middle, last, 3, bias=False), norm=nn.BatchNorm2d(last), relu=nn.ReLU()),
    }
    feature_shape("cnn_strided_stem", stages, in_channels, image_size)
    head = sequential(pool=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(last, num_logits))
    return Network("cnn_strided_stem", stages, head)


def cnn_whitened(
    *, num_logits: int, in_channels: int, image_size: tuple[int, int], widths: Widths = (64, 256, 256)
) -> Network:
    """Conv 2x2 to be whitened, then three double blocks; 1,972,778 parameters with three channels and ten logits.

    The first layer has one pair of filters for each direction of its 2x2 patches: `model.whitened_stem` sets them, and
    the other stages train. The design is that of Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU"
    (arXiv:2404.00498): GELU, pooling before the norm, and convolutions that begin as the identity on as many channels
    as they have inputs.

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images.
        image_size: (height, width) in pixels.
        widths: Channels of the three blocks.
    """
    channels = 2 * in_channels * 2 * 2
    stages: dict[str, nn.Module] = {
        "stem": sequential(conv=nn.Conv2d(in_channels, channels, 2, bias=False), gelu=nn.GELU())
    }
    for number, width in enumerate(widths, start=1):
        stages[f"block{number}"] = sequential(
            conv1=_identity_conv(channels, width),
            pool=nn.MaxPool2d(2),
            norm1=nn.BatchNorm2d(width),
            gelu1=nn.GELU(),
            conv2=_identity_conv(width, width),
            norm2=nn.BatchNorm2d(width),
            gelu2=nn.GELU(),
        )
        channels = width
    feature_shape("cnn_whitened", stages, in_channels, image_size)
    head = sequential(pool=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_logits))
    return Network("cnn_whitened", stages, head)


def _identity_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose first filters copy one input channel each."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[:in_channels].data)
    return conv
