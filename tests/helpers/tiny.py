"""A network small enough to train in no time."""

from torch import nn

from opsin.models import Network
from opsin.models.network import sequential


def tiny(*, num_logits: int, in_channels: int, image_size: tuple[int, int], norm: bool = True) -> Network:
    """Three stages of a convolution each, with BatchNorm and dropout unless `norm` is off."""
    stages = {}
    for name, width in (("low", 4), ("middle", 6), ("high", 8)):
        conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=not norm)
        parts = {"norm": nn.BatchNorm2d(width), "dropout": nn.Dropout(0.1)} if norm else {}
        stages[name] = sequential(conv=conv, **parts, relu=nn.ReLU())
        in_channels = width
    head = sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(in_channels, num_logits))
    return Network("tiny", stages, head)
