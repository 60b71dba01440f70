"""The networks of the lectures without pooling: every convolution halves the image.

The head is a convolution with one channel per logit and BatchNorm. At the image sizes of the lectures its
output is one pixel, the logit; for larger images the pixels are averaged, as in a fully convolutional
network. BatchNorm on the logits limits the confidence of the network; it is kept as in the lectures.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from opsin.models.network import Network, Rate, sequential
from opsin.models.shapes import feature_shape


def strided_cnn(*, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """Six stride-2 conv, 4-8-16-32-64 and the logits; 30,678 parameters with one channel, ten logits."""
    return _strided("strided_cnn", (4, 8, 16, 32, 64), {}, num_logits, in_channels, image_size)


def strided_cats_dogs(
    *, num_logits: int, in_channels: int = 3, image_size: tuple[int, int], dropout: Rate = 0.5
) -> Network:
    """Eight stride-2 conv, 6 to 384 and the logits; 893,886 parameters with three channels, two logits.

    Args:
        num_logits: Number of outputs.
        in_channels: Channels of the images. Gray images are repeated to three, as in the lecture.
        image_size: (height, width) in pixels.
        dropout: Dropout probability after the fourth block, which has 48 channels.
    """
    widths = (6, 12, 24, 48, 96, 192, 384)
    return _strided("strided_cats_dogs", widths, {4: dropout}, num_logits, in_channels, image_size)


def _strided(
    name: str,
    widths: Sequence[int],
    dropouts: dict[int, float],
    num_logits: int,
    in_channels: int,
    image_size: tuple[int, int],
) -> Network:
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number, width in enumerate(widths, start=1):
        layers: dict[str, nn.Module] = {
            "conv": HalvingConv(channels, width),
            "relu": nn.ReLU(),
            "norm": nn.BatchNorm2d(width),
        }
        if number in dropouts:
            layers["dropout"] = nn.Dropout(dropouts[number])
        stages[f"block{number}"] = sequential(**layers)
        channels = width
    feature_shape(name, stages, in_channels, image_size)
    head = sequential(
        conv=HalvingConv(channels, num_logits),
        norm=nn.BatchNorm2d(num_logits),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    return Network(name, stages, head)


class HalvingConv(nn.Conv2d):
    """A 3x3 convolution with padding 1 that halves the map, `(N, C, H, W)` to `(N, D, ceil(H / 2), ceil(W / 2))`.

    A single pixel is convolved with stride 1, which gives the same result: with stride 2, the bfloat16 gradient of the
    weights in torch 2.14 is uninitialized memory (oneDNN 3.12, on a CPU with AVX512_BF16).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the convolved maps."""
        stride = 1 if maps.shape[-2:] == (1, 1) else 2
        return functional.conv2d(maps, self.weight, self.bias, stride, padding=1)
