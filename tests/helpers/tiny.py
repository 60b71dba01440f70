"""A network that trains in a second."""

from torch import nn

from opsin.models import Network
from opsin.models.network import sequential


def tiny(*, num_logits: int, in_channels: int, image_size: tuple[int, int], norm: bool = True) -> Network:
    """Return a network of three stages with a convolution each, and BatchNorm and dropout unless `norm` is false."""
    stages = {}
    for name, width in (("low", 4), ("middle", 6), ("high", 8)):
        conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=not norm)
        parts = {"norm": nn.BatchNorm2d(width), "dropout": nn.Dropout(0.1)} if norm else {}
        stages[name] = sequential(conv=conv, **parts, relu=nn.ReLU())
        in_channels = width
    head = sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(in_channels, num_logits))
    return Network("tiny", stages, head)


def halving(*, num_logits: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    """Return a network of three stages that halve the side; with 4 x 4 pixels, `last` moves by two over one pixel."""
    stages, side = {}, max(image_size)
    for name in ("first", "second", "last"):
        stages[name] = sequential(conv=nn.Conv2d(in_channels, 4, 3, stride=2, padding=1))
        in_channels, side = 4, (side + 1) // 2
    return Network("halving", stages, sequential(flatten=nn.Flatten(), fc=nn.Linear(4 * side**2, num_logits)))
